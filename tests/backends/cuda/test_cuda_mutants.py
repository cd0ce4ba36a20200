"""Mistakes made on purpose in the kernels written by hand must be noticed when they run on the CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from opyard.errors import KernelError
from opyard_cuda import sources
from opyard_cuda.emulation import SCHEDULES, Library, Schedule
from opyard_cuda.native import launch

from .emulated import Trial
from .equivalent import EQUIVALENT
from .mutation import Mutant, mutants
from .native_trials import TRIALS

ORIGINAL = launch.text

TOGETHER = 4
"""Trials that are compiled and run before the next: most mutants do not outlive the first."""


def _all_mutants(file: str) -> list[Mutant]:
    """The mutants of a file; those of what all files share are made of the first alone."""
    shared = ORIGINAL("pool").partition("// Pooling")[0]
    found = mutants(ORIGINAL(file))
    return list(found) if file == "rows" else [mutant for mutant in found if mutant.text.startswith(shared)]


def _noticed(trial: Trial, run: Any, library: Library, schedules: Sequence[str]) -> bool:
    for schedule in schedules:
        library.schedule = Schedule(schedule, seed=3)
        try:
            if trial.check(run) is not None:
                return True
        except KernelError:
            return True
    return False


def _prepared(
    file: str, mutant: Mutant, trials: Sequence[Trial], device: Any, patch: pytest.MonkeyPatch
) -> Iterator[tuple[Trial, Any]]:
    patch.setattr(
        "opyard_cuda.native.launch.text", lambda name: mutant.text if name == file else ORIGINAL(name)
    )
    for trial in trials:
        yield trial, trial.prepared(device)


def _survivors(file: str, chosen: Sequence[Mutant], library: Library, device: Any) -> list[Mutant]:
    trials = [trial for trial in TRIALS[file]() if trial.arrays[0].dtype.name in ("float32", "int64")]
    alive = list(chosen)
    for start in range(0, len(trials), TOGETHER):
        sources.module.cache_clear()
        with pytest.MonkeyPatch.context() as patch:
            part = trials[start : start + TOGETHER]
            runs = [(mutant, list(_prepared(file, mutant, part, device, patch))) for mutant in alive]
        alive = [
            mutant
            for mutant, prepared in runs
            if not any(_noticed(trial, run, library, SCHEDULES) for trial, run in prepared)
        ]
    sources.module.cache_clear()
    return alive


def _key(file: str, mutant: Mutant) -> tuple[str, str, str]:
    return file, mutant.before, mutant.after


@pytest.mark.parametrize("file", TRIALS)
def test_some_mistakes_of_each_file_are_noticed(file: str, emulation: Any) -> None:
    library, device = emulation
    found = [mutant for mutant in _all_mutants(file) if _key(file, mutant) not in EQUIVALENT]
    barriers = [mutant for mutant in found if mutant.kind == "barrier"]
    assert not _survivors(file, [*barriers[:1], found[len(found) // 2]], library, device)


@pytest.mark.sweep
def test_mistakes_are_noticed(emulation: Any, capsys: pytest.CaptureFixture[str]) -> None:
    library, device = emulation
    made, alive = 0, Counter[tuple[str, str, str]]()
    for file in TRIALS:
        found = _all_mutants(file)
        made += len(found)
        alive.update(_key(file, mutant) for mutant in _survivors(file, found, library, device))
    equivalent = Counter({key: min(count, EQUIVALENT.get(key, (0, ""))[0]) for key, count in alive.items()})
    missed, total = alive - equivalent, made - equivalent.total()
    caught = total - missed.total()
    with capsys.disabled():
        print(
            f"\n{caught} of {total} mutants caught ({100 * caught / total:.1f} %); {equivalent.total()} more are equivalent"
        )
        for key, count in missed.items():
            print(" ", count, *key, sep=" | ")
    assert caught >= 0.95 * total


def test_equivalent_mutants_are_mutants() -> None:
    made = Counter(_key(file, mutant) for file in TRIALS for mutant in _all_mutants(file))
    assert not [key for key, (count, _) in EQUIVALENT.items() if made[key] < count]

"""Runs the trials of a backend's kernels, or of the references."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np

from opyard import default_registry
from opyard.driver import Device
from opyard.errors import KernelError, RegistryError, did_you_mean
from opyard.kernels import Kernel, Work
from opyard.registry import REFERENCE, Registry, reference_kernel
from opyard_conformance.backward import BACKWARD, agrees
from opyard_conformance.checking import check, refusal
from opyard_conformance.contracts import honour
from opyard_conformance.families import LEVELS, Trial, call_of, trials
from opyard_conformance.oracle import Expected, expect, judged
from opyard_conformance.regions import PATTERNS, REGIONS, region_trials
from opyard_conformance.report import Outcome, Report
from opyard_conformance.running import Bench, Broken, NotChecked

SEEDS = 8
"""Draws of numbers that one trial may need: those of the next seed begin behind them."""


def run_conformance(
    backend: str,
    *,
    ops: Sequence[str] = (),
    kernel: str = "",
    level: str = "core",
    case: str = "",
    seed: int = 0,
    registry: Registry | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Checks the kernels of a backend on all of its devices; those of some ops, one kernel or one case where named.

    backend   a backend, one of its devices, such as "opencl:1", or "reference": then the references are compared with
              themselves in float64
    ops       names of ops; "patterns" and "regions" stand for the pattern kernels and the region compilers
    seed      of the numbers drawn; cases and their names do not depend on it
    progress  called with the name of each op before its trials

    Raises RegistryError for an unknown backend, op, kernel, level or case, and DeviceUnavailable where the backend has no
    device.
    """
    registry = registry or default_registry()
    began = time.perf_counter()
    chosen = select_kernels(registry, backend, ops, kernel)
    found = devices_of(registry, backend)
    outcomes: list[Outcome] = []
    for name, kernels in chosen.items():
        if progress is not None:
            progress(name)
        for device in found:
            for checked, made in trials_for(registry, name, kernels, device, level):
                before = len(outcomes)
                for trial in _selected(name, made, level, case):
                    outcomes += run_trial(registry, name, trial, checked, device, seed)
                if len(outcomes) == before:
                    outcomes += untried(name, checked, device)
    names = tuple(device.name for device in found)
    return Report(backend, names, level, seed, outcomes, time.perf_counter() - began)


def devices_of(registry: Registry, backend: str) -> tuple[Device, ...]:
    """All devices of a backend, or the one named. Raises DeviceUnavailable where there is none."""
    first = registry.device(backend)
    return (first,) if ":" in backend else registry.open(backend).devices


def select_kernels(
    registry: Registry, backend: str, ops: Sequence[str] = (), kernel: str = ""
) -> dict[str, list[Kernel]]:
    """The kernels to check by op, or under "patterns" and "regions". Raises RegistryError for names that nothing has."""
    backend = backend.partition(":")[0]
    if backend not in registry.backends:
        raise RegistryError(registry.open(backend).reason)
    found = {}
    for name in ops or (*registry.ops, PATTERNS, REGIONS):
        kernels = [k for k in _kernels(registry, backend, name) if k.backend == backend]
        if kernels:
            found[name] = kernels
        elif ops:
            raise RegistryError(
                f"backend {backend!r} has no kernel for op {name!r}. `opyard kernels {name}` lists those that there are."
            )
    if not kernel:
        return found
    kept = {name: [k for k in kernels if kernel in (k.id, k.name)] for name, kernels in found.items()}
    known = tuple(sorted({k.id for kernels in found.values() for k in kernels}))
    if not any(kept.values()):
        where = f" for {', '.join(ops)}" if ops else ""
        raise RegistryError(
            f"backend {backend!r} has no kernel {kernel!r}{where}.{did_you_mean(kernel, known)} Known: {', '.join(known)}."
        )
    return {name: kernels for name, kernels in kept.items() if kernels}


def _kernels(registry: Registry, backend: str, name: str) -> Iterable[Kernel]:
    if name == PATTERNS:
        return registry.patterns
    if name == REGIONS:
        return registry.region_compilers
    op = registry.get_op(name)
    return [reference_kernel(op)] if backend == REFERENCE else registry.kernels(name)


def trials_for(
    registry: Registry, name: str, kernels: list[Kernel], device: Device, level: str
) -> Iterator[tuple[list[Kernel], Callable[[str], Iterator[Trial]]]]:
    """Kernels that have their trials in common, and a function from levels to these."""
    if level not in LEVELS:
        raise RegistryError(
            f"there is no level {level!r}.{did_you_mean(level, LEVELS)} Known: {', '.join(LEVELS)}."
        )
    if name not in (PATTERNS, REGIONS):
        yield kernels, partial(trials, registry.get_op(name))
        return
    for kernel in kernels:
        yield [kernel], partial(region_trials, registry, kernel, device)


def _selected(name: str, made: Callable[[str], Iterator[Trial]], level: str, case: str) -> Iterator[Trial]:
    if not case:
        return made(level)
    for trial in made("full"):
        if trial.id == case:
            return iter([trial])
    known = tuple(trial.id for trial in made("core"))
    raise RegistryError(
        f"op {name!r} has no case {case!r}.{did_you_mean(case, known)} `opyard conformance --op {name} --json` names those that fail."
    )


def run_trial(
    registry: Registry, name: str, trial: Trial, kernels: Sequence[Kernel], device: Device, seed: int = 0
) -> Iterator[Outcome]:
    """The outcome of each kernel on one trial. What only NumPy arrays can show is left out on other devices."""
    if trial.layout and device.array_type is not np.ndarray:
        return
    work: Work = trial.region or call_of(registry.get_op(name), trial)
    made: dict[int, Expected] = {}
    own = trial.own and seed == 0  # which numbers an op can be judged by was looked at for these alone

    def right(kernel: Kernel, number: int = 0) -> Expected:
        if number not in made:
            arrays = trial.arrays(seed * SEEDS + number)
            made[number] = expect(work, arrays, own=own and number == 0)
        return judged(made[number], kernel, work)

    for kernel in kernels:
        expected = partial(right, kernel)
        status, detail = "passed", ""
        try:
            reason = refusal(kernel, work, device)
            if reason is not None:
                status, detail = "unsupported", reason
            elif trial.contract == BACKWARD:  # differences judge it, and not the reference
                agrees(Bench.of(kernel, device, registry, work), expected().inputs)
            elif expected().problem and not (own and expected().outputs and kernel.backend != REFERENCE):
                status, detail = "failed" if own else "unjudged", expected().problem
            else:
                bench = Bench.of(kernel, device, registry, work, trial.layout)
                if trial.contract:
                    honour(trial.contract, bench, expected(), expected)
                else:
                    check(bench, expected(), expected if trial.own else None)
        except Broken as error:
            status, detail = "failed", str(error)
        except NotChecked as error:
            status, detail = "unjudged", str(error)
        except KernelError as error:  # nothing converts to a layout of the kernel, or back
            status, detail = "unsupported", str(error)
        yield Outcome(name, kernel.id, device.name, trial.id, _dtype(work), status, detail, seed)


def untried(name: str, kernels: Sequence[Kernel], device: Device) -> Iterator[Outcome]:
    """For kernels without a single trial: of ops that state no case, and where no graph was found that they take."""
    reason = "there is no case" if name not in (PATTERNS, REGIONS) else "no graph was found that it takes"
    return (Outcome(name, kernel.id, device.name, "", "", "unsupported", reason) for kernel in kernels)


def _dtype(work: Work) -> str:
    """The dtype of the first input that is not bool, of the first one, or of the output where there is no input."""
    names = [spec.dtype.name for spec in (*work.inputs, *work.outputs) if spec is not None]
    inputs = names[: len(names) - len(work.outputs)]
    return next((name for name in inputs if name != "bool"), names[0])

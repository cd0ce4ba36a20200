"""Runs the trials of a backend's kernels, or of the references."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from opyard import default_registry
from opyard.driver import Device
from opyard.errors import RegistryError, did_you_mean
from opyard.kernels import Kernel
from opyard.operation import Op
from opyard.registry import REFERENCE, Registry, reference_kernel
from opyard_conformance.checking import Broken, check, refusal
from opyard_conformance.families import LEVELS, Trial, trials
from opyard_conformance.oracle import Expected, call_of, expect
from opyard_conformance.report import Outcome, Report


def run_conformance(
    backend: str,
    *,
    ops: Sequence[str] = (),
    kernel: str = "",
    level: str = "core",
    case: str = "",
    registry: Registry | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Checks the kernels of a backend on its first device; those of some ops, one kernel or one case where named.

    ``backend`` may be "reference": then the references are compared with themselves in float64. ``progress`` is called with
    the name of each op before its trials. Raises RegistryError for an unknown backend, op, kernel, level or case, and
    DeviceUnavailable where the backend has no device.
    """
    registry = registry or default_registry()
    began = time.perf_counter()
    chosen = select_kernels(registry, backend, ops, kernel)
    device = registry.device(backend)
    outcomes: list[Outcome] = []
    for name, kernels in chosen.items():
        if progress is not None:
            progress(name)
        op = registry.get_op(name)
        for trial in _selected(op, level, case):
            outcomes += run_trial(op, trial, kernels, device)
    return Report(backend, device.name, level, outcomes, time.perf_counter() - began)


def select_kernels(
    registry: Registry, backend: str, ops: Sequence[str] = (), kernel: str = ""
) -> dict[str, list[Kernel]]:
    """The kernels to check by op. Raises RegistryError for names that nothing has."""
    if backend not in registry.backends:
        raise RegistryError(registry.open(backend).reason)
    found = {}
    for name in ops or registry.ops:
        op = registry.get_op(name)
        own = [reference_kernel(op)] if backend == REFERENCE else registry.kernels(name)
        kernels = [k for k in own if k.backend == backend]
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


def _selected(op: Op, level: str, case: str) -> Iterator[Trial]:
    if level not in LEVELS:
        raise RegistryError(
            f"there is no level {level!r}.{did_you_mean(level, LEVELS)} Known: {', '.join(LEVELS)}."
        )
    if not case:
        return trials(op, level)
    for trial in trials(op, "full"):
        if trial.id == case:
            return iter([trial])
    known = tuple(trial.id for trial in trials(op, "core"))
    raise RegistryError(
        f"op {op.name!r} has no case {case!r}.{did_you_mean(case, known)} `opyard conformance --op {op.name} --json` names those that fail."
    )


def run_trial(op: Op, trial: Trial, kernels: Sequence[Kernel], device: Device) -> Iterator[Outcome]:
    """The outcome of each kernel on one trial. What only NumPy arrays can show is left out on other devices."""
    if trial.layout and device.array_type is not np.ndarray:
        return
    call = call_of(op, trial)
    expected: Expected | None = None
    for kernel in kernels:
        names = (op.name, kernel.id, trial.id)
        try:
            reason = refusal(kernel, call, device)
            if reason is not None:
                yield Outcome(*names, "unsupported", reason)
                continue
            expected = expected or expect(op, call, trial)
            if expected.problem and not (trial.own and expected.outputs and kernel.backend != REFERENCE):
                yield Outcome(*names, "failed" if trial.own else "unjudged", expected.problem)
                continue
            check(kernel, device, op, call, trial, expected)
        except Broken as error:
            yield Outcome(*names, "failed", str(error))
        else:
            yield Outcome(*names, "passed")

"""The sweep: op after op, case after case, all kernels of a case on all devices in turns, each verified before and after."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import opyard as oy
from opyard import settings
from opyard.errors import OpyardError, RegistryError, did_you_mean
from opyard.placement import default_costs
from opyard.placement.identity import describe_kernel, describe_work
from opyard.placement.measuring import Batch, Expected, disagreement, expect, interleave, make_start
from opyard.placement.store import Measurement
from opyard.registry import REFERENCE, describe_error
from opyard_bench import roofs, sizes
from opyard_bench.record import FAILED, OK, REFUSED, WRONG, Cell, Roof, Row, Run
from opyard_bench.statistics import is_precise

MOST_ROUNDS = 400
PATIENCE = 20
"""A kernel whose batch takes less than this part of the time of a cell is timed as often as the fastest."""

CALIBRATION_SECONDS, QUICK_CALIBRATION_SECONDS = 6.0, 3.0
CELL_SECONDS, QUICK_CELL_SECONDS = 1.0, 0.25

Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What to time. Empty tuples stand for everything; ``seconds`` is the time for all kernels of one case."""

    ops: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    quick: bool = False
    seconds: float = CELL_SECONDS
    seed: int = 0
    calibrate: bool = True
    save: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """One call to time, and the arrays to time it on, where a case makes them."""

    call: oy.Call
    case: str
    drawn: oy.Case | None


def sweep(options: Options, registry: oy.Registry, progress: Progress) -> Run:
    """Times everything that was asked for. An interrupt ends it; what was measured until then is in the run.

    Raises RegistryError for an unknown op or kernel, DeviceUnavailable for an unknown device, SpecError for sizes that
    do not fit: all before anything is measured.
    """
    devices = _devices(options, registry)
    tasks = _tasks(options, registry)
    _check_kernels(options, registry)
    run = Run(
        machine=_machine(),
        versions=_versions(),
        options=asdict(options),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        devices=tuple(map(roofs.describe, devices)),
        absent=_absent(registry),
    )
    found: list[Roof] = []
    cells: list[Cell] = []
    interrupted = False
    try:
        for device in devices if options.calibrate else ():
            progress(0.0, f"calibrating {device.name}")
            seconds = QUICK_CALIBRATION_SECONDS if options.quick else CALIBRATION_SECONDS
            found.append(roofs.measure(device, registry, seconds, options.save))
        for number, task in enumerate(tasks):
            progress(number / len(tasks), f"{task.call.op.name} {task.case}")
            with np.errstate(all="ignore"):
                _Bench(task, devices, options, registry, found).measure(cells)
    except KeyboardInterrupt:
        interrupted = True
    return replace(
        run,
        devices=(*found, *run.devices[len(found) :]),
        interrupted=interrupted,
        cells=tuple(cells),
    )


class _Bench:
    """All kernels of one call."""

    def __init__(
        self,
        task: Task,
        devices: Sequence[oy.Device],
        options: Options,
        registry: oy.Registry,
        found: Sequence[Roof],
    ) -> None:
        self.task, self.options, self.registry = task, options, registry
        self.roofs = {roof.device: roof for roof in found}
        self.candidates = oy.candidates(task.call, devices, registry, costs=default_costs(), any_layout=True)
        self.rows: list[Row] = []
        self.ready: list[tuple[oy.Candidate, Callable[[], Any], Batch, bool]] = []

    def measure(self, cells: list[Cell]) -> None:
        """Verifies and times the kernels, and adds the cell, also when it is interrupted."""
        call, options = self.task.call, self.options
        note = ""
        try:
            known = self.task.drawn.arrays(options.seed) if self.task.drawn else [None] * len(call.inputs)
            try:
                expected = expect(call, known, options.seed)
            except Exception as error:
                note = f"the reference fails on this case: {describe_error(error)}"
                return
            for candidate in self.candidates:
                if _is_wanted(candidate, options):
                    self._prepare(candidate, expected)
            random = Random(f"{options.seed} {call.op.name} {self.task.case}")
            interleave(
                [batch for _, _, batch, _ in self.ready],
                random,
                time.perf_counter() + options.seconds,
                enough=lambda batch: is_precise(batch.samples),
                most_rounds=MOST_ROUNDS,
                patience=options.seconds / PATIENCE,
            )
            self._verify_again(expected)
        finally:
            self._finish(cells, note)

    def _prepare(self, candidate: oy.Candidate, expected: Expected) -> None:
        """Makes a candidate ready to be timed, or adds the row that says why it is not."""
        if candidate.refusal is not None:
            self.rows.append(_row(candidate, REFUSED, candidate.refusal))
            return
        call, device = self.task.call, candidate.device
        try:
            start = make_start(candidate.kernel, call, device, expected.arrays, self.registry)
            result = start()
            difference = disagreement(expected, candidate.kernel, call, device, result, self.registry)
        except Exception as error:
            self.rows.append(_row(candidate, FAILED, describe_error(error)))
            return
        if difference is not None:
            self._add_wrong(candidate, difference)
            return
        self.ready.append((candidate, start, Batch(start, device), _shares(result, expected)))

    def _verify_again(self, expected: Expected) -> None:
        """Moves to the wrong ones what no longer agrees after it was timed."""
        still = []
        for entry in self.ready:
            candidate, start, _, _ = entry
            try:
                difference = disagreement(
                    expected, candidate.kernel, self.task.call, candidate.device, start(), self.registry
                )
            except Exception as error:
                self.rows.append(_row(candidate, FAILED, f"after it was timed: {describe_error(error)}"))
                continue
            if difference is None:
                still.append(entry)
            else:
                self._add_wrong(candidate, f"after it was timed: {difference}")
        self.ready = still

    def _add_wrong(self, candidate: oy.Candidate, difference: str) -> None:
        self.rows.append(_row(candidate, WRONG, difference))
        if self.options.save:
            self._put(candidate, Measurement(0.0, verdict="wrong", reason=difference))

    def _put(self, candidate: oy.Candidate, measured: Measurement) -> None:
        work, kernel = describe_work(self.task.call), describe_kernel(candidate.kernel)
        default_costs().store.put(work, kernel, candidate.device, measured)

    def _finish(self, cells: list[Cell], note: str) -> None:
        """Adds the cell, unless an interrupt came before anything of it was known."""
        call = self.task.call
        best = next((c for c in self.candidates if c.refusal is None), None)
        specs = [spec for spec in (*call.inputs, *call.outputs) if spec is not None]
        cell = Cell(
            op=call.op.name,
            case=self.task.case,
            flops=float(call.cost.flops),
            bytes=float(call.cost.bytes),
            dtypes=tuple(sorted({spec.dtype.name for spec in specs})),
            chosen=f"{best.kernel.id} on {best.device.name}" if best else "",
            note=note,
        )
        for candidate, _, batch, shares in self.ready:
            if batch.samples:
                name, device = candidate.kernel.id, candidate.device.name
                row = Row(name, device, OK, "", batch.calls, tuple(batch.samples), shares)
                self.rows.append(row)
                if self.options.save and not roofs.doubt(cell, row, self.roofs.get(device)):
                    self._put(candidate, batch.result())
        if self.rows or note:
            cells.append(replace(cell, rows=tuple(self.rows)))


def _row(candidate: oy.Candidate, status: str, reason: str) -> Row:
    return Row(candidate.kernel.id, candidate.device.name, status, reason)


def _is_wanted(candidate: oy.Candidate, options: Options) -> bool:
    """Whether the kernel was asked for; the reference always is, for everything is compared with it."""
    if candidate.device.backend == REFERENCE or not options.kernels:
        return True
    return any(fnmatchcase(candidate.kernel.id, pattern) for pattern in options.kernels)


def _shares(result: Any, expected: Expected) -> bool:
    """Whether an output may lie in the memory of an input: that of the kernel, or that of the reference."""
    results = (*(result if isinstance(result, (tuple, list)) else (result,)), *expected.outputs)
    return any(
        found is given or (isinstance(found, np.ndarray) and np.may_share_memory(found, given))
        for found in results
        for given in expected.arrays
        if given is not None
    )


# What is asked for ----------------------------------------------------------------------------------------------


def _devices(options: Options, registry: oy.Registry) -> list[oy.Device]:
    """The devices asked for, and the reference."""
    named = [registry.device(name) for name in options.devices] or list(registry.devices())
    return list(dict.fromkeys([*named, registry.device(REFERENCE)]))


def _tasks(options: Options, registry: oy.Registry) -> list[Task]:
    ops = [registry.get_op(name) for name in options.ops] or [registry.ops[n] for n in sorted(registry.ops)]
    found: dict[tuple[str, str], Task] = {}
    for op in ops:
        for task in _tasks_of(op, options):
            found.setdefault((op.name, task.case), task)
    if not found:
        asked = ", ".join(options.dtypes) or "any dtype"
        raise RegistryError(
            f"there is nothing to time: none of the ops has a case for {asked}. Leave --dtype out to see the cases that there are: opyard bench --quick."
        )
    return list(found.values())


def _tasks_of(op: oy.Op, options: Options) -> Iterator[Task]:
    if options.shapes:
        for call in sizes.named_calls(op, options.shapes, options.dtypes):
            yield Task(call, "-".join(repr(spec).replace(" ", "") for spec in call.inputs), None)
        return
    limits = (sizes.SMALL, sizes.MEDIUM) if options.quick else (sizes.SMALL, sizes.MEDIUM, sizes.LARGE)
    for case in sizes.scaled_cases(op, limits, options.dtypes):
        try:
            yield Task(sizes.call_of(op, case), case.id, case)
        except OpyardError:
            continue  # a case that is there to show an error


def _check_kernels(options: Options, registry: oy.Registry) -> None:
    known = sorted({kernel.id for kernel in registry.all_kernels()})
    for pattern in options.kernels:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise RegistryError(
                f"no kernel is called {pattern!r}.{did_you_mean(pattern, known)} `opyard kernels OP` lists those of an op; 'cpu/*' stands for all of a backend."
            )


# Where it ran ---------------------------------------------------------------------------------------------------


def _machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "processors": os.cpu_count() or 1,
        "threads": settings.num_threads(),
        "system": platform.system(),
        "architecture": platform.machine(),
    }


def _processor() -> str:
    """The model of the processor: that of Linux, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "numpy": np.__version__, "opyard": oy.__version__}
    for plugin in oy.plugins():
        if plugin.entry.distribution:
            found[plugin.entry.distribution] = plugin.entry.version
    return found


def _absent(registry: oy.Registry) -> tuple[str, ...]:
    statuses = map(registry.open, registry.backends)
    return tuple(f"{s.name} has no device here ({s.state}): {s.reason}" for s in statuses if s.state != "ok")

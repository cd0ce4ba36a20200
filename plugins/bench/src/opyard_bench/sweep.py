"""The sweep: cell after cell, all kernels of a cell on all devices in turns, regime after regime, each verified before and after."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from random import Random
from typing import Any

import numpy as np

import opyard as oy
from opyard.errors import RegistryError, did_you_mean
from opyard.placement import default_costs
from opyard.placement.identity import describe_kernel, describe_work
from opyard.placement.measuring import Expected, bind_start, disagreement, expect, interleave, make_inputs
from opyard.placement.store import Measurement
from opyard.registry import REFERENCE, describe_error
from opyard_bench import machine, roofs
from opyard_bench.keeping import check_machine
from opyard_bench.record import (
    END_TO_END,
    FAILED,
    HOT,
    OK,
    PARTS,
    REFUSED,
    WRONG,
    Cell,
    Roof,
    Row,
    Run,
)
from opyard_bench.regimes import Ready, Sets, Timer, make_timer
from opyard_bench.statistics import is_precise
from opyard_bench.tasks import Options, Task, dtypes_of, find_tasks

MOST_ROUNDS = 400
PATIENCE = 20
"""A kernel whose batch takes less than this part of the time of a cell is timed as often as the fastest."""

CALIBRATION_SECONDS, QUICK_CALIBRATION_SECONDS = 10.0, 6.0

Progress = Callable[[float, str], None]
Keep = Callable[[Run], None]


def sweep(
    options: Options,
    registry: oy.Registry,
    progress: Progress,
    keep: Keep = lambda run: None,
    begun: Run | None = None,
    name: str = "the run",
) -> Run:
    """Times everything that was asked for. An interrupt ends it; what was measured until then is in the run.

    keep   called with the run so far after every cell; what it raises ends the sweep
    begun  a run of the same options on this machine, whose cells are not timed again; ``name``: what messages call it

    Raises SettingsError for a run that was begun elsewhere, RegistryError for an unknown op or kernel, DeviceUnavailable for an unknown device, SpecError for sizes that
    do not fit: all before anything is measured.
    """
    devices = _devices(options, registry)
    check_kernels(options, registry)
    tasks = find_tasks(options, registry)
    run = _new_run(options, devices, registry)
    measured: dict[str, Roof] = {}
    cells: list[Cell] = []
    if begun is not None:
        check_machine(begun, run, name)
        run = replace(run, started=begun.started, load=begun.load)
        measured = {roof.device: roof for roof in begun.devices if roof.bandwidth}
        cells = [cell for cell in begun.cells if not cell.interrupted]
    done = {(cell.kind, cell.op, cell.case) for cell in cells}

    def so_far(interrupted: bool) -> Run:
        known = tuple(measured.get(roof.device, roof) for roof in run.devices)
        return replace(run, devices=known, cells=tuple(cells), interrupted=interrupted)

    try:
        for device in devices if options.calibrate else ():
            if device.name not in measured:
                progress(0.0, f"calibrating {device.name}")
                seconds = QUICK_CALIBRATION_SECONDS if options.quick else CALIBRATION_SECONDS
                measured[device.name] = roofs.measure(device, registry, seconds, options.save)
        for number, task in enumerate(tasks):
            if task.key in done:
                continue
            progress(number / len(tasks), f"{task.title} {task.case}")
            with np.errstate(all="ignore"):
                _Bench(task, devices, options, registry, measured).measure(cells)
            keep(so_far(True))
    except KeyboardInterrupt:
        return so_far(True)
    return so_far(False)


def _new_run(options: Options, devices: Sequence[oy.Device], registry: oy.Registry) -> Run:
    return Run(
        machine=machine.describe(),
        versions=machine.versions(),
        options=asdict(options),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        load=machine.load(),
        devices=tuple(map(roofs.describe, devices)),
        absent=machine.absent(registry),
    )


class _Bench:
    """All kernels of one call, pattern or region."""

    def __init__(
        self,
        task: Task,
        devices: Sequence[oy.Device],
        options: Options,
        registry: oy.Registry,
        found: Mapping[str, Roof],
    ) -> None:
        self.task, self.options, self.registry, self.roofs = task, options, registry, found
        self.candidates = task.candidates(devices, registry)
        self.rows: list[Row] = []
        self.ready: list[tuple[oy.Candidate, Ready]] = []
        self.timers: dict[tuple[int, str], Timer] = {}

    def measure(self, cells: list[Cell]) -> None:
        """Verifies and times the kernels, and adds the cell, also when it is interrupted."""
        work, options = self.task.work, self.options
        note, interrupted = "", True
        try:
            known = self.task.drawn.arrays(options.seed) if self.task.drawn else [None] * len(work.inputs)
            try:
                expected = expect(work, known, options.seed)
            except Exception as error:
                note = f"the reference fails on this case: {describe_error(error)}"
                interrupted = False
                return
            for candidate in self.candidates:
                if _is_wanted(candidate, options):
                    self._prepare(candidate, expected)
            for regime in options.regimes:
                self._time(regime)
            self._verify_again(expected)
            interrupted = False
        finally:
            self._finish(cells, note, interrupted)

    def _prepare(self, candidate: oy.Candidate, expected: Expected) -> None:
        """Makes a candidate ready to be timed, or adds the rows that say why it is not."""
        if candidate.refusal is not None:
            self._add(candidate, REFUSED, candidate.refusal)
            return
        work, device, kernel = self.task.work, candidate.device, candidate.kernel
        try:
            inputs = make_inputs(kernel, work, device, expected.arrays, self.registry)
            device.synchronize()
            begin = time.perf_counter()
            run = kernel.bind(work, device)
            start = bind_start(run, inputs, kernel, work, device)
            result = start()
            device.synchronize()
            first = time.perf_counter() - begin
            difference = disagreement(expected, kernel, work, device, result, self.registry)
        except Exception as error:
            self._add(candidate, FAILED, describe_error(error))
            return
        if difference is not None:
            self._add_wrong(candidate, difference, first)
            return
        shares = _shares(result, expected)
        ready = Ready(kernel, device, work, expected.arrays, inputs, run, start, first, shares)
        self.ready.append((candidate, ready))

    def _time(self, regime: str) -> None:
        """Times what is ready in one regime, all in turns."""
        sets: Sets = {}
        timers: list[Timer] = []
        for number, (candidate, ready) in enumerate(self.ready):
            try:
                timer = make_timer(regime, ready, self.registry, sets)
            except Exception as error:
                self.rows.append(_row(candidate, FAILED, describe_error(error), regime, ready.first))
                continue
            timers.append(timer)
            self.timers[number, regime] = timer
        random = Random(f"{self.options.seed} {self.task.title} {self.task.case} {regime}")
        interleave(
            [timer.batch for timer in timers],
            random,
            time.perf_counter() + self.options.seconds,
            enough=lambda batch: is_precise(batch.samples),
            most_rounds=MOST_ROUNDS,
            patience=self.options.seconds / PATIENCE,
        )

    def _verify_again(self, expected: Expected) -> None:
        """Takes the times from what no longer agrees after it was timed."""
        for number, (candidate, ready) in enumerate(self.ready):
            try:
                difference = disagreement(
                    expected, candidate.kernel, self.task.work, candidate.device, ready.start(), self.registry
                )
            except Exception as error:
                self._drop(number)
                self._add(candidate, FAILED, f"after it was timed: {describe_error(error)}", ready.first)
                continue
            if difference is not None:
                self._drop(number)
                self._add_wrong(candidate, f"after it was timed: {difference}", ready.first)

    def _drop(self, number: int) -> None:
        for regime in self.options.regimes:
            self.timers.pop((number, regime), None)

    def _add(self, candidate: oy.Candidate, status: str, reason: str, first: float | None = None) -> None:
        """A row for each regime: what is not timed in one is not timed in any."""
        self.rows += [_row(candidate, status, reason, regime, first) for regime in self.options.regimes]

    def _add_wrong(self, candidate: oy.Candidate, difference: str, first: float) -> None:
        self._add(candidate, WRONG, difference, first)
        if self.options.save:
            self._put(candidate, Measurement(0.0, verdict="wrong", reason=difference))

    def _put(self, candidate: oy.Candidate, measured: Measurement) -> None:
        if candidate.kernel.name == PARTS or (
            candidate.device.backend == REFERENCE and not candidate.kernel.op
        ):
            return  # these are no kernels that placement knows
        work, kernel = describe_work(self.task.work), describe_kernel(candidate.kernel)
        default_costs().store.put(work, kernel, candidate.device, measured)

    def _finish(self, cells: list[Cell], note: str, interrupted: bool) -> None:
        """Adds the cell, unless an interrupt came before anything of it was known."""
        work, task = self.task.work, self.task
        cell = Cell(
            op=task.title,
            case=task.case,
            flops=float(work.cost.flops),
            bytes=float(work.cost.bytes),
            dtypes=dtypes_of(work),
            chosen=_chosen(self.candidates, lambda c: c.seconds),
            note=note,
            kind=task.kind,
            times=task.times,
            chosen_end_to_end=_chosen(self.candidates, self._end_to_end_seconds)
            if END_TO_END in self.options.regimes
            else "",
            interrupted=interrupted,
        )
        for (number, regime), timer in self.timers.items():
            candidate, ready = self.ready[number]
            if timer.batch.samples:
                self._finish_row(cell, candidate, ready, regime, timer)
        if self.rows or note:
            cells.append(replace(cell, rows=tuple(self.rows)))

    def _finish_row(
        self, cell: Cell, candidate: oy.Candidate, ready: Ready, regime: str, timer: Timer
    ) -> None:
        estimate = candidate.estimate
        parts = estimate.source if candidate.kernel.name == PARTS and estimate else ""
        row = Row(
            kernel=candidate.kernel.id,
            device=candidate.device.name,
            status=OK,
            reason="; ".join(filter(None, [parts, timer.note])),
            calls=timer.batch.calls,
            samples=tuple(timer.batch.samples),
            shares=ready.shares,
            regime=regime,
            first=ready.first,
            clock=timer.clock,
        )
        self.rows.append(row)
        if self.options.save and regime == HOT and not roofs.doubt(cell, row, self.roofs.get(row.device)):
            self._put(candidate, timer.batch.result())

    def _end_to_end_seconds(self, candidate: oy.Candidate) -> float:
        """What placement expects of the kernel with all copies between its device and the host."""
        costs, host, device = default_costs(), self.registry.device(REFERENCE), candidate.device
        work = self.task.work
        inputs = sum(costs.transfer_seconds(host, device, spec.nbytes) for spec in work.inputs if spec)
        outputs = sum(costs.transfer_seconds(device, host, spec.nbytes) for spec in work.outputs)
        return candidate.seconds + inputs + outputs


def _chosen(candidates: Sequence[oy.Candidate], seconds: Callable[[oy.Candidate], float]) -> str:
    """What placement would use at these times: the reference as the last resort."""
    usable = [c for c in candidates if c.refusal is None]
    best = min(usable, key=lambda c: (c.device.backend == REFERENCE, seconds(c)), default=None)
    return f"{best.kernel.id} on {best.device.name}" if best else ""


def _row(candidate: oy.Candidate, status: str, reason: str, regime: str, first: float | None) -> Row:
    return Row(candidate.kernel.id, candidate.device.name, status, reason, regime=regime, first=first)


def _is_wanted(candidate: oy.Candidate, options: Options) -> bool:
    """Whether the kernel was asked for. The reference and sums of parts always are: others are compared with them."""
    if candidate.device.backend == REFERENCE or candidate.kernel.name == PARTS:
        return True
    return is_asked(candidate.kernel.id, options)


def is_asked(kernel: str, options: Options) -> bool:
    """Whether the options name a kernel, or leave all in."""
    return not options.kernels or any(fnmatchcase(kernel, pattern) for pattern in options.kernels)


def _shares(result: Any, expected: Expected) -> bool:
    """Whether an output may lie in the memory of an input: that of the kernel, or that of the reference."""
    results = (*(result if isinstance(result, (tuple, list)) else (result,)), *expected.outputs)
    return any(
        found is given or (isinstance(found, np.ndarray) and np.may_share_memory(found, given))
        for found in results
        for given in expected.arrays
        if given is not None
    )


def _devices(options: Options, registry: oy.Registry) -> list[oy.Device]:
    """The devices asked for, and the reference."""
    named = [registry.device(name) for name in options.devices] or list(registry.devices())
    return list(dict.fromkeys([*named, registry.device(REFERENCE)]))


def check_kernels(options: Options, registry: oy.Registry) -> None:
    """Raises RegistryError for a kernel that nobody has registered."""
    known = sorted({kernel.id for kernel in registry.all_kernels()})
    for pattern in options.kernels:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise RegistryError(
                f"no kernel is called {pattern!r}.{did_you_mean(pattern, known)} `opyard kernels OP` lists those of an op; 'cpu/*' stands for all of a backend."
            )

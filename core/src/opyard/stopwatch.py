"""Stopwatch: when the steps of an executable begin and end, those of branches and loops included.

A device with a clock of its own works on while its steps are timed: marks before and behind a step say when it ran, and
are brought to the host's time. Any other device is waited for after each step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .driver import Device
from .executable import Executable
from .operation import Call
from .ops._control import part_names
from .plan import Copy, Plan, Run

KERNEL, CONTROL, COPY = "kernel", "control flow", "copy"
ALLOCATION, WAIT, BODY = "allocation", "wait", "body"

ANCHORS = 5
"""Tries to find out what a device's clock shows at a time of the host's; the quickest counts."""

Times = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Timed:
    """Something that is timed, again and again: a step, or what belongs to it; for a body, the step that it is inside of.

    plan  where the step is; for a body, the body
    path  the branches and loops around: ("while_loop", "body")
    """

    kind: str
    step: Run | Copy
    plan: Plan
    path: tuple[str, ...]

    @property
    def device(self) -> Device:
        """Where it happens; for a wait, what is waited for."""
        if isinstance(self.step, Run):
            return self.step.device
        return self.step.source if self.kind == WAIT else self.step.target


@dataclass(frozen=True, slots=True, eq=False)
class Lap:
    """The times of one run, in seconds since it began: a row for each event, in the order in which they began.

    numbers         which of the things that are timed
    begins, ends    on the host: of the call
    starts, stops   of the work: on the device's own clock where it has one
    """

    seconds: float
    numbers: npt.NDArray[np.intp]
    begins: Times
    ends: Times
    starts: Times
    stops: Times


class Stopwatch:
    """Times the executables that it is given to watch: ``Executable(plan, watch=stopwatch.watch(plan))``.

    own_clocks  whether devices with clocks of their own are timed by them, or waited for like all others
    inside      whether the steps of branches and loops are timed, too
    ``views`` tells of steps that ran which input each output lies in the memory of, by its slot, or None.
    """

    def __init__(self, *, own_clocks: bool = True, inside: bool = True) -> None:
        self.inside = inside
        self.timed: list[Timed] = []
        self.views: dict[Run, tuple[int | None, ...]] = {}
        self._own_clocks = own_clocks
        self._clocks: dict[Device, bool] = {}
        self._events: list[tuple[int, float, float, Any, Any]] = []

    def watch(self, plan: Plan) -> _Watch:
        """What watches the executable of a plan."""
        return _Watch(self, plan)

    def has_clock(self, device: Device) -> bool:
        """Whether the times of a device are those of its own clock."""
        if device not in self._clocks:
            self._clocks[device] = self._own_clocks and device.record() is not None
        return self._clocks[device]

    def lap(self, executable: Executable, feeds: Sequence[Any]) -> Lap:
        """The times of one run. Raises StepFailed where a kernel fails."""
        devices = [executable.plan.home, *(device for device in self._clocks)]
        for device in devices:
            device.synchronize()
        anchors = {device: _anchor(device) for device, own in self._clocks.items() if own}
        self._events.clear()
        begin = time.perf_counter()
        try:
            executable(*feeds)
            for device in devices:
                device.synchronize()
            return self._read(begin, time.perf_counter(), anchors)
        finally:
            self._events.clear()

    def _read(self, begin: float, end: float, anchors: dict[Device, tuple[Any, float]]) -> Lap:
        events = sorted(self._events, key=lambda event: (event[1], -event[2]))
        numbers = np.array([event[0] for event in events], np.intp)
        begins, ends = (np.array([event[i] for event in events], np.float64) for i in (1, 2))
        starts, stops = begins.copy(), ends.copy()
        for device, (base, moment) in anchors.items():
            rows = [i for i, event in enumerate(events) if event[3] is not None and self._at(event) is device]
            if not rows:
                continue
            starts[rows] = [device.elapsed(base, events[i][3]) for i in rows]
            stops[rows] = [device.elapsed(base, events[i][4]) for i in rows]
            # No work begins before the call that starts it, and all is done when the host has waited for it
            least = float(np.max(begins[rows] - starts[rows]))
            most = end - float(np.max(stops[rows]))
            shift = max(least, min(moment, most))
            starts[rows] += shift
            stops[rows] += shift
        return Lap(end - begin, numbers, *(times - begin for times in (begins, ends, starts, stops)))

    def _at(self, event: tuple[int, float, float, Any, Any]) -> Device:
        return self.timed[event[0]].device

    def around(self, timed: Timed, run: Callable[..., Any], wait: Device | None) -> Callable[..., Any]:
        """A function that notes when it calls another one, by the host's clock, a wait for a device included."""
        number, clock, note = self._number(timed), time.perf_counter, self._events.append

        def call(*arrays: Any, **keywords: Any) -> Any:
            begin = clock()
            result = run(*arrays, **keywords)
            if wait is not None:
                wait.synchronize()
            note((number, begin, clock(), None, None))
            return result

        return call

    def marked(self, timed: Timed, run: Callable[..., Any]) -> Callable[..., Any]:
        """A function that notes when it calls another one, and marks before and behind it on the device's clock."""
        number, clock, note, record = (
            self._number(timed),
            time.perf_counter,
            self._events.append,
            timed.device.record,
        )

        def call(*arrays: Any, **keywords: Any) -> Any:
            begin, first = clock(), record()
            result = run(*arrays, **keywords)
            last = record()
            note((number, begin, clock(), first, last))
            return result

        return call

    def _number(self, timed: Timed) -> int:
        self.timed.append(timed)
        return len(self.timed) - 1


@dataclass(frozen=True, slots=True, eq=False)
class _Watch:
    """Watches one plan, for a stopwatch; ``owner`` is the step that the plan is inside of. See executable.Watch."""

    stopwatch: Stopwatch
    plan: Plan
    path: tuple[str, ...] = ()
    owner: Run | None = None

    def step(self, step: Run | Copy, run: Callable[..., Any]) -> Callable[..., Any]:
        """The kernel, branch, loop or copy with its times. What a copy is made of is waited for before."""
        watch = self.stopwatch
        if isinstance(step, Copy):
            arrived = None if watch.has_clock(step.target) else step.target
            copy = watch.around(self._timed(COPY, step), run, arrived)
            if not watch.has_clock(step.source):
                return copy
            wait = watch.around(self._timed(WAIT, step), step.source.synchronize, None)
            return lambda array: (wait(), copy(array))[1]
        timed = self._timed(CONTROL if step.plans else KERNEL, step)
        own = watch.has_clock(step.device)
        call = watch.marked(timed, run) if own else watch.around(timed, run, step.device)
        is_given = step.buffer is not None or step.fresh or step.donated is not None
        return call if is_given else self._looking(step, call)

    def _looking(self, step: Run, run: Callable[..., Any]) -> Callable[..., Any]:
        """The same; the first call finds out which outputs are views."""
        views = self.stopwatch.views

        def call(*arrays: Any) -> Any:
            result = run(*arrays)
            if step not in views:
                made = result if step.work.is_tuple else (result,)
                views[step] = tuple(_shown(step, array, arrays) for array in made)
            return result

        return call

    def allocation(self, step: Run, new: Callable[[], Any]) -> Callable[[], Any]:
        """The allocation with its times."""
        return self.stopwatch.around(self._timed(ALLOCATION, step), new, None)

    def inside(self, step: Run, position: int) -> _Watch | None:
        """What watches a branch or the body of a loop."""
        if not self.stopwatch.inside or not isinstance(step.work, Call):
            return None
        name = step_name(self.plan, step)
        path = (*self.path, name, part_names(step.work)[position])
        return _Watch(self.stopwatch, step.plans[position], path, step)

    def whole(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """A branch, or one step of a loop, with its times on the host."""
        assert self.owner is not None
        return self.stopwatch.around(self._timed(BODY, self.owner), run, None)

    def _timed(self, kind: str, step: Run | Copy) -> Timed:
        return Timed(kind, step, self.plan, self.path)


def seconds_of(executable: Executable, feeds: Sequence[Any], runs: int = 1) -> float:
    """Mean seconds of so many runs on the host, until what each gives is there."""
    begin = time.perf_counter()
    for _ in range(runs):
        executable(*feeds)
        executable.plan.home.synchronize()
    return (time.perf_counter() - begin) / runs


def step_name(plan: Plan, step: Run | Copy) -> str:
    """The name of what a step makes, in its graph."""
    return plan.tensors[step.outputs[0] if isinstance(step, Run) else step.output].value.name


def _shown(step: Run, made: Any, arrays: Sequence[Any]) -> int | None:
    """The slot of the input whose memory an output lies in, or None."""
    for slot, array in zip(step.inputs, arrays, strict=True):
        if slot is not None and array is not None and step.device.overlaps(made, array):
            return slot
    return None


def _anchor(device: Device) -> tuple[Any, float]:
    """A mark on the clock of an idle device, and what the host's clock showed about then."""
    best: tuple[float, Any, float] | None = None
    for _ in range(ANCHORS):
        device.synchronize()
        before = time.perf_counter()
        mark = device.record()
        device.synchronize()
        after = time.perf_counter()
        if best is None or after - before < best[0]:
            best = (after - before, mark, (before + after) / 2)
    assert best is not None
    return best[1], best[2]

"""Profiling: runs of an executable in turns with runs whose steps are timed, and the profile of both."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .errors import GraphError
from .executable import Executable, StepFailed
from .footprint import memory_timelines
from .plan import Copy, Run
from .profiles import CopyTime, NodeTime, Profile
from .spec import TensorSpec
from .stopwatch import (
    ALLOCATION,
    BODY,
    CONTROL,
    COPY,
    KERNEL,
    WAIT,
    Lap,
    Stopwatch,
    Timed,
    seconds_of,
    step_name,
)
from .timeline import ASSIGNMENT, COPY_LANE, HOST_LANE, RUN, Slice
from .variables import Variable

WARM_UP = 2
OWN_CLOCK = "its own clock, brought to the host's time"
HOST_CLOCK = "the host's clock; waited for after each step"


def profile(
    prepare: Callable[[StepFailed | None], tuple[Executable, Sequence[Any]]],
    runs: int,
    assigned: Sequence[Variable] = (),
) -> Profile:
    """The profile of so many runs, after two that do not count.

    prepare   gives the executable and what to feed it, anew after a kernel of it failed
    assigned  the variables that runs of the program assign to, which these runs do not
    Raises GraphError for a number of runs that is none, and what ``prepare`` raises.
    """
    if not isinstance(runs, int) or isinstance(runs, bool) or runs < 1:
        raise GraphError(f"runs is a whole number from 1 on; found {runs!r}.")
    failure = None
    while True:
        executable, feeds = prepare(failure)
        try:
            return _profile(executable, feeds, runs, assigned)
        except StepFailed as error:
            failure = error


def _profile(
    executable: Executable, feeds: Sequence[Any], runs: int, assigned: Sequence[Variable]
) -> Profile:
    stopwatch = Stopwatch()
    watched = Executable(executable.plan, watch=stopwatch.watch(executable.plan))
    whole: list[float] = []
    laps: list[Lap] = []
    for _ in range(WARM_UP + runs):
        whole.append(seconds_of(executable, feeds))
        laps.append(stopwatch.lap(watched, feeds))
    laps = laps[WARM_UP:]
    middle = sorted(laps, key=lambda lap: lap.seconds)[(runs - 1) // 2]
    nodes, copies = _times(stopwatch.timed, laps, middle)
    timed = [thing for thing in stopwatch.timed if thing.kind in (KERNEL, CONTROL)]
    return Profile(
        runs,
        statistics.median(whole[WARM_UP:]),
        middle.seconds,
        _idle(stopwatch.timed, middle),
        nodes,
        copies,
        memory_timelines(executable.plan, stopwatch, middle),
        tuple(_slices(stopwatch, middle, assigned)),
        {t.device.name: OWN_CLOCK if stopwatch.has_clock(t.device) else HOST_CLOCK for t in timed},
    )


# Sums ------------------------------------------------------------------------------------------------------------


def _times(
    timed: Sequence[Timed], laps: Sequence[Lap], middle: Lap
) -> tuple[tuple[NodeTime, ...], tuple[CopyTime, ...]]:
    """The rows of all that ran in one of the runs, the longest first; the medians are those of all runs."""
    calls = np.bincount(middle.numbers, minlength=len(timed))
    sums = np.bincount(middle.numbers, middle.stops - middle.starts, len(timed))
    numbers = np.concatenate([lap.numbers for lap in laps])
    order = np.argsort(numbers, kind="stable")
    seconds = np.concatenate([lap.stops - lap.starts for lap in laps])[order]
    parts = np.split(seconds, np.searchsorted(numbers[order], np.arange(1, len(timed))))
    busy = float(sum(sums[number] for number, thing in enumerate(timed) if thing.kind in (KERNEL, COPY)))
    nodes, copies = [], []
    for number, thing in enumerate(timed):
        if not calls[number] or thing.kind not in (KERNEL, CONTROL, COPY):
            continue
        share = float(sums[number]) / busy if busy and thing.kind != CONTROL else 0.0
        found = (int(calls[number]), float(sums[number]), float(np.median(parts[number])), share)
        if thing.kind == COPY:
            copies.append(_copy(thing, *found))
        else:
            nodes.append(_node(thing, *found))
    return (
        tuple(sorted(nodes, key=lambda row: (-row.seconds, row.node))),
        tuple(sorted(copies, key=lambda row: (-row.seconds, row.tensor))),
    )


def _node(timed: Timed, calls: int, seconds: float, median: float, share: float) -> NodeTime:
    step = timed.step
    assert isinstance(step, Run)
    inside = timed.kind == CONTROL
    cost = None if inside else step.work.cost
    return NodeTime(
        _name(timed),
        step.work.title,
        step.device.name,
        "" if inside else step.kernel.id,
        _source(timed),
        _specs(step.work.inputs),
        _specs(step.work.outputs),
        calls,
        seconds,
        median,
        share,
        step.predicted,
        cost and cost.flops,
        cost and cost.bytes,
    )


def _copy(timed: Timed, calls: int, seconds: float, median: float, share: float) -> CopyTime:
    step = timed.step
    assert isinstance(step, Copy)
    return CopyTime(
        _name(timed),
        step.source.name,
        step.target.name,
        timed.plan.tensors[step.input].value.spec.nbytes,
        calls,
        seconds,
        median,
        share,
        step.predicted,
    )


def _idle(timed: Sequence[Timed], lap: Lap) -> float:
    """Seconds of a run in which neither a kernel nor a copy was at work."""
    rows = [row for row, number in enumerate(lap.numbers) if timed[number].kind in (KERNEL, COPY)]
    idle, until = lap.seconds, 0.0
    for start, stop in sorted(zip(lap.starts[rows].tolist(), lap.stops[rows].tolist(), strict=True)):
        begin, end = max(start, until), min(stop, lap.seconds)
        if end > begin:
            idle -= end - begin
            until = end
    return idle


def _name(timed: Timed) -> str:
    return "/".join((*timed.path, step_name(timed.plan, timed.step)))


def _source(timed: Timed) -> str:
    step = timed.step
    value = timed.plan.tensors[step.outputs[0] if isinstance(step, Run) else step.output].value
    return value.node.source if value.node else ""


def _specs(specs: Iterable[TensorSpec | None]) -> tuple[str, ...]:
    return tuple("none" if spec is None else repr(spec) for spec in specs)


# What happened, and when -----------------------------------------------------------------------------------------


def _slices(stopwatch: Stopwatch, lap: Lap, assigned: Iterable[Variable]) -> Iterator[Slice]:
    yield Slice(HOST_LANE, RUN, "run", 0.0, lap.seconds)
    facts = [_facts(timed) for timed in stopwatch.timed]
    steps: Counter[Run | Copy] = Counter()
    for row, number in enumerate(lap.numbers):
        timed, known = stopwatch.timed[number], facts[number]
        host = (float(lap.begins[row]), float(lap.ends[row]))
        work = (float(lap.starts[row]), float(lap.stops[row]))
        device, own = timed.device.name, stopwatch.has_clock(timed.device)
        measured = {**known, "measured_seconds": work[1] - work[0]}
        if isinstance(timed.step, Run) and timed.kind in (KERNEL, CONTROL):
            if timed.kind == CONTROL:
                steps[timed.step] = 0
            title = timed.step.work.title
            yield Slice(device, timed.kind, title, *work, measured)
            if own:
                yield Slice(HOST_LANE, "start", f"start {title}", *host, {"node": known["node"]})
        elif timed.kind == BODY:
            lane = HOST_LANE if own else device
            yield Slice(lane, BODY, timed.path[-1], *host, {"number": steps[timed.step]})
            steps[timed.step] += 1
        elif timed.kind == COPY:
            yield Slice(COPY_LANE, COPY, f"{known['from']} -> {known['to']}", *host, measured)
        elif timed.kind == WAIT:
            yield Slice(HOST_LANE, WAIT, f"wait for {device}", *host)
        else:
            assert timed.kind == ALLOCATION
            yield Slice(HOST_LANE, ALLOCATION, "allocate", *host, known)
    for variable in assigned:
        about = {
            "variable": variable.name,
            "spec": repr(variable.spec),
            "bytes": variable.spec.nbytes,
            "note": "a profile assigns nothing",
        }
        yield Slice(HOST_LANE, ASSIGNMENT, f"assign {variable.name}", lap.seconds, lap.seconds, about)


def _facts(timed: Timed) -> dict[str, Any]:
    """What there is to know about all slices of something."""
    step = timed.step
    if timed.kind in (BODY, WAIT):
        return {}
    if isinstance(step, Copy):
        return {
            "tensor": _name(timed),
            "from": step.source.name,
            "to": step.target.name,
            "bytes": timed.plan.tensors[step.input].value.spec.nbytes,
            "predicted_seconds": step.predicted,
        }
    if timed.kind == ALLOCATION:
        return {"node": _name(timed), "bytes": step.work.outputs[0].nbytes}
    return {
        "op": step.work.title,
        "node": _name(timed),
        "source": _source(timed),
        "inputs": _specs(step.work.inputs),
        "outputs": _specs(step.work.outputs),
        "kernel": "" if timed.kind == CONTROL else step.kernel.id,
        "backend": step.device.backend,
        "device": step.device.name,
        "predicted_seconds": step.predicted,
    }

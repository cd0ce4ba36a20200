"""Rehearsal: a placement run as a plan, with the time of the whole and of each step in its place.

In a plan a kernel finds other caches, and other threads at work, than when it is measured by itself; so what all steps
take together differs from the sum of single measurements. Steps are timed one by one, each device waited for, in turns
with runs of the whole; their times are then scaled to add up to that of the whole, where it took less. It takes more where
other programs want the processor: then few runs of the whole are left alone, but most of the steps, which are short.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from .executable import Executable
from .graph import Graph
from .placement import Placement
from .placement.inplace import LATE_ROUNDS, Rehearsal, StepTime
from .plan import Copy, Free, Plan, Run, make_plan
from .stopwatch import Stopwatch, seconds_of

LEAST_ROUNDS, MOST_ROUNDS = 7, 60
WARM_UP = 3
SAMPLE_SECONDS = 1e-3
"""A time of the whole is the mean of as many runs as take about so long: in a short plan that is used, threads are awake."""

LONG_ENOUGH = 0.5
"""Seconds of runs of the whole after which a median is sure enough."""

Array = np.ndarray[Any, Any]


def rehearse(placement: Placement, arrays: Mapping[str, Array], seconds: float) -> Rehearsal:
    """Runs a placement for about so long, with LATE_ROUNDS at least.

    arrays  contents of inputs of the graph; others are zeros where they are integers, which may be positions, else ones
    Raises StepFailed where a kernel fails.
    """
    deadline = time.perf_counter() + max(seconds, LONG_ENOUGH)
    graph = placement.graph
    plan = make_plan(placement)
    contents = (_contents(name, graph, arrays) for name in graph.inputs)
    feeds = [plan.tensors[s].device.upload(c) for s, c in zip(plan.feeds, contents, strict=True)]
    stopwatch = Stopwatch(own_clocks=False, inside=False)
    executable, watched = Executable(plan), Executable(plan, watch=stopwatch.watch(plan))
    order = [step for step in plan.steps if not isinstance(step, Free)]

    def seconds_of_steps() -> list[float]:
        found = dict.fromkeys(order, 0.0)
        lap = stopwatch.lap(watched, feeds)
        for number, seconds in zip(lap.numbers, lap.ends - lap.begins, strict=True):
            found[stopwatch.timed[number].step] += float(seconds)
        return list(found.values())

    for _ in range(WARM_UP):
        runs = max(1, int(SAMPLE_SECONDS / max(seconds_of(executable, feeds), 1e-6)))
        if time.perf_counter() > deadline:
            break
        seconds_of_steps()
    whole: list[float] = []
    steps: list[list[float]] = []
    while len(whole) < MOST_ROUNDS:
        whole.append(seconds_of(executable, feeds, runs))
        steps.append(seconds_of_steps())
        enough = len(whole) >= LEAST_ROUNDS and sum(whole) > LONG_ENOUGH
        if enough or (len(whole) >= LATE_ROUNDS and time.perf_counter() > deadline):
            break
    medians = [statistics.median(times) for times in zip(*steps, strict=True)]
    total = min(statistics.median(whole), sum(medians))
    scale = total / sum(medians) if total else 1.0
    rows = zip(order, medians, strict=True)
    return Rehearsal(total, len(whole), tuple(_step_time(plan, s, scale * t) for s, t in rows))


def _contents(name: str, graph: Graph, arrays: Mapping[str, Array]) -> Array:
    spec = graph.inputs[name].spec
    return arrays[name] if name in arrays else np.full(spec.shape, spec.dtype.kind not in "iu", spec.dtype)


def _step_time(plan: Plan, step: Run | Copy, seconds: float) -> StepTime:
    if isinstance(step, Run):
        return StepTime(seconds, step.work, None if step.plans else step.kernel, step.device)
    return StepTime(seconds, None, None, step.target, step.source, plan.tensors[step.input].value.spec.nbytes)

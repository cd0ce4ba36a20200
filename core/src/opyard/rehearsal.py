"""Rehearsal: a placement run as a plan, with the time of the whole and of each step in its place.

In a plan a kernel finds other caches, and other threads at work, than when it is measured by itself; so what all steps
take together differs from the sum of single measurements. Steps are timed one by one, each device waited for, in turns
with runs of the whole; their times are then scaled to add up to that of the whole.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .driver import Device, transfer
from .executable import Executable, bind_step
from .graph import Graph
from .placement import Placement
from .placement.inplace import Rehearsal, StepTime
from .plan import Copy, Free, Plan, Run, make_plan

LEAST_ROUNDS, MOST_ROUNDS = 7, 60
WARM_UP = 3
LONG_ENOUGH = 0.5
"""Seconds of runs of the whole after which a median is sure enough."""

Array = np.ndarray[Any, Any]


def rehearse(placement: Placement, arrays: Mapping[str, Array], seconds: float) -> Rehearsal:
    """Runs a placement for about so long, at least a few times.

    arrays  contents of inputs of the graph; others are zeros where they are integers, which may be positions, else ones
    Raises StepFailed where a kernel fails.
    """
    home, graph = placement.home, placement.graph
    plan = make_plan(placement)
    contents = (_contents(name, graph, arrays) for name in graph.inputs)
    feeds = [plan.tensors[s].device.upload(c) for s, c in zip(plan.feeds, contents, strict=True)]
    executable, stepper = Executable(plan), _Stepper(plan)
    for _ in range(WARM_UP):
        executable(*feeds)
        stepper.run(feeds)
    whole: list[float] = []
    steps: list[list[float]] = []
    deadline = time.perf_counter() + seconds
    while len(whole) < MOST_ROUNDS:
        whole.append(_timed(lambda: executable(*feeds), home))
        steps.append(stepper.run(feeds))
        enough = len(whole) >= LEAST_ROUNDS and sum(whole) > LONG_ENOUGH
        if enough or (len(whole) >= LEAST_ROUNDS and time.perf_counter() > deadline):
            break
    medians = [statistics.median(times) for times in zip(*steps, strict=True)]
    total = statistics.median(whole)
    scale = total / sum(medians) if sum(medians) else 1.0
    rows = zip(stepper.steps, medians, strict=True)
    return Rehearsal(total, len(whole), tuple(_step_time(plan, s, scale * t) for s, t in rows))


def _contents(name: str, graph: Graph, arrays: Mapping[str, Array]) -> Array:
    spec = graph.inputs[name].spec
    return arrays[name] if name in arrays else np.full(spec.shape, spec.dtype.kind not in "iu", spec.dtype)


def _timed(run: Callable[[], object], home: Device) -> float:
    begin = time.perf_counter()
    run()
    home.synchronize()
    return time.perf_counter() - begin


def _step_time(plan: Plan, step: Run | Copy, seconds: float) -> StepTime:
    if isinstance(step, Run):
        return StepTime(seconds, step.work, None if step.plans else step.kernel, step.device)
    return StepTime(seconds, None, None, step.target, step.source, plan.tensors[step.input].value.spec.nbytes)


class _Stepper:
    """Interprets a plan, step by step, with buffers of its own."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.steps = [step for step in plan.steps if not isinstance(step, Free)]
        self._bound = {id(s): bind_step(s) for s in self.steps if isinstance(s, Run)}
        self._buffers = [device.empty(spec) for device, spec in plan.buffers]
        self._constants: dict[int, Any] = {
            slot: device.upload(array) for slot, array, device in plan.constants
        }
        for step in plan.prologue:
            self._constants[step.outputs[0]] = bind_step(step)(
                *(self._constants[slot or 0] for slot in step.inputs)
            )

    def run(self, feeds: Sequence[Any]) -> list[float]:
        """Seconds of each step, the wait for its device included."""
        tensors = {**self._constants, **dict(zip(self.plan.feeds, feeds, strict=True))}
        times: list[float] = []
        with np.errstate(all="ignore"):
            for step in self.plan.steps:
                if isinstance(step, Free):
                    for slot in step.slots:
                        tensors.pop(slot, None)
                    continue
                begin = time.perf_counter()
                self._do(step, tensors)
                (step.device if isinstance(step, Run) else step.target).synchronize()
                times.append(time.perf_counter() - begin)
        return times

    def _do(self, step: Run | Copy, tensors: dict[int, Any]) -> None:
        if isinstance(step, Copy):
            tensors[step.output] = transfer(tensors[step.input], step.source, step.target)
            return
        inputs = [None if slot is None else tensors[slot] for slot in step.inputs]
        out = {}
        if step.buffer is not None:
            out = {"out": self._buffers[step.buffer]}
        elif step.fresh:
            out = {"out": step.device.empty(step.work.outputs[0])}
        results = self._bound[id(step)](*inputs, **out)
        tensors.update(zip(step.outputs, results if step.work.is_tuple else (results,), strict=True))

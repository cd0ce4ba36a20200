"""Footprint: the bytes that the tensors of a run keep in each memory, over time.

Weights, buffers that are kept between runs and what is fed count from the beginning. Views count with the tensor that
they show. Workspaces of kernels and what drivers keep are not known.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from .driver import HOST
from .plan import Copy, Free, Plan, Run
from .stopwatch import BODY, CONTROL, COPY, KERNEL, Lap, Stopwatch, step_name


class Tensor(NamedTuple):
    """Bytes that lie in a memory, and what they are of; for a buffer that is kept, of what was written to it last."""

    name: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class MemoryTimeline:
    """The bytes of the tensors in one memory during a run.

    memory      the name of the address space: "host", or a device's
    peak_bytes  the most at once, ``peak_at`` seconds after the beginning of the run
    tensors     what they are of, the largest first
    changes     (seconds, bytes) wherever the sum changes
    """

    memory: str
    peak_bytes: int
    peak_at: float
    tensors: tuple[Tensor, ...]
    changes: tuple[tuple[float, int], ...]


@dataclass(slots=True, eq=False)
class _Frame:
    """A run of one plan: which tensor each slot lies in the memory of, and in how many slots each tensor is."""

    plan: Plan
    owners: dict[int, int] = field(default_factory=dict)
    users: Counter[int] = field(default_factory=Counter)


class _Ledger:
    """What is alive, by memory; ``walk`` brings it from the beginning of a run to its end."""

    def __init__(self, plan: Plan, stopwatch: Stopwatch, lap: Lap) -> None:
        self.alive: dict[int, tuple[str, Tensor]] = {}
        self.sums: Counter[str] = Counter()
        self._watch = stopwatch
        self._lap = lap
        self._keys = count()
        self._frames = [_Frame(plan)]
        self._buffers: dict[Plan, list[int]] = {}
        self._freed: dict[Plan, dict[Run | Copy, tuple[int, ...]]] = {}
        self._last_results: defaultdict[Run, list[int]] = defaultdict(list)
        self._contents: set[int] = set()
        self._lasting(plan)
        for slot in plan.feeds:
            tensor = plan.tensors[slot]
            self._add(tensor.device.memory, tensor.value.name, tensor.value.spec.nbytes)

    def walk(self) -> Iterator[tuple[float, dict[str, int]]]:
        """The sums at the beginning, and after each event that may change them."""
        yield 0.0, dict(self.sums)
        lap, timed = self._lap, self._watch.timed
        open_: list[int] = []
        rows = [i for i, n in enumerate(lap.numbers) if timed[n].kind in (KERNEL, CONTROL, COPY, BODY)]
        for row in rows:
            while open_ and lap.ends[open_[-1]] <= lap.begins[row]:
                yield self._end(open_.pop())
            self._begin(row)
            open_.append(row)
            yield float(lap.begins[row]), dict(self.sums)
        while open_:
            yield self._end(open_.pop())

    def _begin(self, row: int) -> None:
        timed = self._watch.timed[self._lap.numbers[row]]
        step, frame = timed.step, self._frames[-1]
        if timed.kind == BODY:
            self._frames.append(_Frame(timed.plan))
        elif isinstance(step, Copy):
            shared = step.source.memory == step.target.memory
            self._make(frame, step.output, step.target.memory, step.input if shared else None)
        elif timed.kind == KERNEL and step.buffer is not None:
            self._rename(self._buffers[frame.plan][step.buffer], step_name(frame.plan, step))
        elif timed.kind == KERNEL:
            views = self._watch.views.get(step, (None,) * len(step.outputs))
            for slot, source in zip(step.outputs, views, strict=True):
                self._make(frame, slot, step.device.memory, source)

    def _end(self, row: int) -> tuple[float, dict[str, int]]:
        timed = self._watch.timed[self._lap.numbers[row]]
        step = timed.step
        if timed.kind == BODY and isinstance(step, Run):
            frame = self._frames.pop()
            results = {frame.owners[slot] for slot in frame.plan.fetches if slot in frame.owners}
            self._drop(key for key in frame.users if key not in results)
            self._drop(self._last_results.pop(step, ()))
            self._last_results[step] = list(results)
        else:
            frame = self._frames[-1]
            if timed.kind == CONTROL and isinstance(step, Run):
                self._drop(self._last_results.pop(step, ()))
                for slot in step.outputs:
                    self._make(frame, slot, step.device.memory, None)
            self._free(frame, self._freed[frame.plan].get(step, ()))
        return float(self._lap.ends[row]), dict(self.sums)

    def _make(self, frame: _Frame, slot: int, memory: str, source: int | None) -> None:
        """A slot gets a tensor: a new one, or that of another slot, whose memory it shows."""
        if source is not None:
            owner = frame.owners.get(source)
            if owner is None:
                return  # what lasts longer than the run of this plan, such as a buffer or a feed
        else:
            value = frame.plan.tensors[slot].value
            owner = self._add(memory, value.name, value.spec.nbytes)
        frame.owners[slot] = owner
        frame.users[owner] += 1

    def _free(self, frame: _Frame, slots: Iterable[int]) -> None:
        for slot in slots:
            owner = frame.owners.pop(slot, None)
            if owner is None:
                continue
            frame.users[owner] -= 1
            if not frame.users[owner]:
                del frame.users[owner]
                self._drop([owner])

    def _lasting(self, plan: Plan) -> None:
        """What the executable of a plan, and of those inside, keeps between runs."""
        self._freed[plan] = _freed(plan)
        for slot, array, device in plan.constants:
            if device.memory == HOST and id(array) in self._contents:
                continue
            self._contents.add(id(array))
            self._add(device.memory, plan.tensors[slot].value.name, array.nbytes)
        for conversion in plan.prologue:
            value = plan.tensors[conversion.outputs[0]].value
            self._add(conversion.device.memory, f"{value.name}, in another layout", value.spec.nbytes)
        self._buffers[plan] = [self._add(d.memory, "a buffer", spec.nbytes) for d, spec in plan.buffers]
        for step in plan.steps:
            for inner in step.plans if isinstance(step, Run) else ():
                self._lasting(inner)

    def _add(self, memory: str, name: str, nbytes: int) -> int:
        key = next(self._keys)
        self.alive[key] = (memory, Tensor(name, nbytes))
        self.sums[memory] += nbytes
        return key

    def _rename(self, key: int, name: str) -> None:
        memory, tensor = self.alive[key]
        self.alive[key] = (memory, tensor._replace(name=name))

    def _drop(self, keys: Iterable[int]) -> None:
        for key in keys:
            memory, tensor = self.alive.pop(key)
            self.sums[memory] -= tensor.nbytes


def _freed(plan: Plan) -> dict[Run | Copy, tuple[int, ...]]:
    """For each step the slots that are forgotten behind it."""
    pairs = zip(plan.steps, plan.steps[1:], strict=False)
    return {
        step: after.slots for step, after in pairs if isinstance(after, Free) and not isinstance(step, Free)
    }


def memory_timelines(plan: Plan, stopwatch: Stopwatch, lap: Lap) -> tuple[MemoryTimeline, ...]:
    """What one run of a plan kept in each memory, and when."""
    samples = list(_Ledger(plan, stopwatch, lap).walk())
    found = []
    for memory in dict.fromkeys(memory for _, sums in samples for memory in sums):
        sizes = [sums.get(memory, 0) for _, sums in samples]
        peak = max(sizes)
        at = sizes.index(peak)
        again = _Ledger(plan, stopwatch, lap)
        for number, _ in enumerate(again.walk()):
            if number == at:
                break
        tensors = (tensor for where, tensor in again.alive.values() if where == memory and tensor.nbytes)
        largest = tuple(sorted(tensors, key=lambda tensor: (-tensor.nbytes, tensor.name)))
        found.append(MemoryTimeline(memory, peak, samples[at][0], largest, _changes(samples, memory)))
    return tuple(found)


def _changes(samples: list[tuple[float, dict[str, int]]], memory: str) -> tuple[tuple[float, int], ...]:
    rows: list[tuple[float, int]] = []
    for seconds, sums in samples:
        size = sums.get(memory, 0)
        if not rows or rows[-1][1] != size:
            rows.append((seconds, size))
    return tuple(rows)

"""Plan: a placed graph as plain steps, with liveness and buffer reuse, and its compilation to straight-line code.

The flow of one run is visible in the generated source, ``Executable.source``: one line per step, one local variable per
tensor, set to None once nothing needs it any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .donation import Use, find_ending
from .driver import Device
from .graph import Graph, Value
from .kernels import Kernel, Work
from .ops.arithmetic import identity
from .placement import Placement
from .placement.places import Hop
from .placement.wholes import Whole
from .spec import TensorSpec

KEPT_BYTES = 1 << 16
"""Tensors of up to so many bytes are kept while there may be views of them. Larger ones are not: most kernels that may give
views never do, and a network of them would keep all that it computes until its end."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Call a kernel. Slots number the tensors of a plan.

    A kernel that can write into a given array gets one: ``buffer`` is its number, or ``fresh`` says that it is a new one,
    because the tensor is fetched. ``donated`` is the slot of a variable's array that it may get instead. Other kernels make
    their outputs themselves, which may be views of their inputs. ``plans`` are those of the graphs inside, for control flow;
    ``predicted`` is how many seconds placement reckons with.
    """

    work: Work
    kernel: Kernel
    device: Device
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    buffer: int | None
    fresh: bool
    plans: tuple[Plan, ...] = ()
    predicted: float | None = None
    donated: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """Make a tensor of one device a tensor of another, which placement reckons to take ``predicted`` seconds."""

    source: Device
    target: Device
    input: int
    output: int
    predicted: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Free:
    """Forget tensors that nothing uses any more."""

    slots: tuple[int, ...]


Step = Run | Copy | Free


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """What a slot holds: a value of the placed graph, as an array of ``device`` in a layout."""

    value: Value
    device: Device
    layout: str


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Steps in order. ``constants`` are slots with arrays that are uploaded once, and then brought into other layouts by
    the steps of the ``prologue``; ``buffers`` are kept between runs.

    ``shared`` names for each fetch the feeds, constants and earlier fetches that it may share memory with; where it
    does, a copy is handed out. ``tensors`` tells what each slot holds of ``graph``, whose composite ops are ``wholes``.
    The steps from the number ``ending`` on write what variables hold from then on, and do not fail, see donation.py.
    """

    steps: tuple[Step, ...]
    feeds: tuple[int, ...]
    fetches: tuple[int, ...]
    shared: tuple[tuple[int, ...], ...]
    constants: tuple[tuple[int, np.ndarray[Any, Any], Device], ...]
    prologue: tuple[Run, ...]
    buffers: tuple[tuple[Device, TensorSpec], ...]
    home: Device
    graph: Graph
    wholes: tuple[Whole, ...]
    tensors: tuple[Tensor, ...]
    ending: int

    @property
    def donations(self) -> tuple[int, ...]:
        """Slots of the variables whose arrays may be written to, in the order of the steps that do."""
        return tuple(s.donated for s in self.steps if isinstance(s, Run) and s.donated is not None)

    @property
    def copies(self) -> int:
        """Number of copies between devices in one run."""
        return sum(isinstance(step, Copy) for step in self.steps)

    def runs(self, work: Work) -> str | None:
        """The kernel that computes this work, or None."""
        for step in self.steps:
            if isinstance(step, Run):
                found = (plan.runs(work) for plan in step.plans)
                if (
                    kernel := step.kernel.id
                    if str(step.work) == str(work)
                    else next(filter(None, found), None)
                ):
                    return kernel
        return None

    def to_json(self) -> list[dict[str, Any]]:
        """The steps as plain data."""
        rows: list[dict[str, Any]] = []
        for step in self.steps:
            if isinstance(step, Run):
                rows.append(
                    {
                        "step": "run",
                        "work": str(step.work),
                        "kernel": step.kernel.id,
                        "device": step.device.name,
                        "inputs": step.inputs,
                        "outputs": step.outputs,
                        "buffer": step.buffer,
                        "fresh": step.fresh,
                        "donated": step.donated,
                        "plans": [plan.to_json() for plan in step.plans],
                    }
                )
            elif isinstance(step, Copy):
                rows.append(
                    {
                        "step": "copy",
                        "from": step.source.name,
                        "to": step.target.name,
                        "input": step.input,
                        "output": step.output,
                    }
                )
            else:
                rows.append({"step": "free", "slots": step.slots})
        return rows


def make_plan(placement: Placement) -> Plan:
    """The steps of a placed graph, in its order."""
    return _Planner(placement).plan()


class _Planner:
    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.graph = placement.graph
        self.places = placement.places
        self.homes = placement.homes
        self.steps: list[Run | Copy] = []
        self.prologue: list[Run] = []
        self.slots: dict[Value, dict[int, int]] = {}  # of each value, by the places where it is
        self.tensors: list[Tensor] = []
        self.constants: list[tuple[int, np.ndarray[Any, Any], Device]] = []
        self.aliases: list[set[int]] = []  # slots whose memory this slot may share

    def plan(self) -> Plan:
        feeds = tuple(self._new(value, self.homes.of(value)) for value in self.graph.inputs.values())
        for decision in self.placement.decisions:
            match, kernel, device = decision.match, decision.chosen.kernel, decision.chosen.device
            inputs = tuple(
                None if v is None else self._at(v, device, kernel.input_layout(match.work, position))
                for position, v in enumerate(match.inputs)
            )
            outputs = tuple(
                self._new(v, device, kernel.output_layout(i)) for i, v in enumerate(match.outputs)
            )
            plans = tuple(map(make_plan, decision.chosen.bodies))
            predicted = decision.chosen.seconds
            self._run(self.steps, match.work, kernel, device, inputs, outputs, plans, predicted)
        fetches = tuple(
            self._at(value, self.homes.output(name)) for name, value in self.graph.outputs.items()
        )
        lasting = {*feeds, *(slot for slot, _, _ in self.constants)}
        lasting.update(slot for step in self.prologue for slot in step.outputs)
        ending = self._donate(dict(zip(self.graph.inputs, feeds, strict=True)), fetches)
        last = self._last_uses(fetches)
        views = self._last_views(last)
        buffers = self._assign_buffers(fetches, views)
        kept = 0 if self.placement.limits else KEPT_BYTES
        ends = {s: last[s] if self.tensors[s].value.spec.nbytes > kept else views[s] for s in views}
        steps, ending = self._with_frees(ends, lasting, ending)
        return Plan(
            steps,
            feeds,
            fetches,
            self._shared(fetches, lasting),
            tuple(self.constants),
            tuple(self.prologue),
            buffers,
            self.homes.home,
            self.graph,
            self.placement.wholes,
            tuple(self.tensors),
            ending,
        )

    def _donate(self, feeds: Mapping[str, int], fetches: tuple[int, ...]) -> int:
        """Moves the steps that write to variables to the end, and gives the number of the first."""
        made = dict(zip(self.graph.outputs, fetches, strict=True))
        wanted: dict[int, int] = {}
        for resident in self.placement.residents:
            if resident.name and resident.input in feeds and resident.output in made:
                wanted[made[resident.output]] = feeds[resident.input]
        memory = [self.aliases[slot] | {slot} for slot in range(len(self.tensors))]
        held = [  # another device may read this memory later, on a queue of its own
            s.input for s in self.steps if isinstance(s, Copy) and s.source.memory == s.target.memory
        ]
        uses = [self._use(step) for step in self.steps]
        found = find_ending(uses, wanted, memory, (*fetches, *held))
        steps = [self.steps[number] for number in found.order]
        for number, step in enumerate(steps):
            if isinstance(step, Run) and step.outputs[0] in found.donated:
                steps[number] = replace(step, fresh=False, donated=found.donated[step.outputs[0]])
        self.steps = steps
        return found.begin

    def _use(self, step: Run | Copy) -> Use:
        if isinstance(step, Copy):
            return Use((step.input,), (step.output,), False)
        limited = self.places.space(self.places.of(step.device)) in self.placement.limits  # has no buffers
        return Use(step.inputs, step.outputs, step.kernel.inplace and step.fresh and not limited)

    def _run(
        self,
        steps: list[Run] | list[Run | Copy],
        work: Work,
        kernel: Kernel,
        device: Device,
        inputs: tuple[int | None, ...],
        outputs: tuple[int, ...],
        plans: tuple[Plan, ...] = (),
        predicted: float | None = None,
    ) -> None:
        writes = kernel.out and len(outputs) == 1 and not kernel.output_layout(0)
        steps.append(Run(work, kernel, device, inputs, outputs, None, writes, plans, predicted))
        if not writes:  # it may give back a view of any input
            shared = set().union(*(self.aliases[i] | {i} for i in inputs if i is not None))
            for slot in outputs:
                self.aliases[slot] |= shared

    def _new(self, value: Value, device: Device, layout: str = "") -> int:
        slot = len(self.tensors)
        self.slots.setdefault(value, {})[self.places.of(device, layout)] = slot
        self.tensors.append(Tensor(value, device, layout))
        self.aliases.append(set())
        return slot

    def _at(self, value: Value, device: Device, layout: str = "") -> int:
        """The slot of a value where a device takes it in a layout, brought there if need be."""
        place = self.places.of(device, layout)
        if place in self.slots.get(value, {}):
            return self.slots[value][place]
        constant = value in self.graph.constants
        if constant and not layout:
            slot = self._new(value, device)
            self.constants.append((slot, self.graph.constants[value], device))
            return slot
        if constant:
            self._at(value, device)
            sources = [self.places.of(device)]
        else:
            sources = list(self.slots[value])
        start, hops = self.places.route(value.spec, sources, place)
        slot = self.slots[value][start]
        for hop in hops:
            slot = self._hop(value, slot, hop, self.prologue if constant else self.steps)
        return slot

    def _hop(self, value: Value, source: int, hop: Hop, steps: list[Run] | list[Run | Copy]) -> int:
        """The slot of a value after one conversion."""
        candidate = hop.candidate
        slot = self._new(value, hop.target, candidate.kernel.output_layout(0) if candidate else "")
        if candidate is not None:
            call, predicted = identity.op.call(value.spec), candidate.seconds
            self._run(steps, call, candidate.kernel, hop.target, (source,), (slot,), (), predicted)
            return slot
        if hop.source.memory == hop.target.memory:
            self.aliases[slot] |= self.aliases[source] | {source}
        predicted = self.places.seconds(value.spec, hop)
        self.steps.append(Copy(self.tensors[source].device, hop.target, source, slot, predicted))
        return slot

    def _shared(self, fetches: tuple[int, ...], lasting: set[int]) -> tuple[tuple[int, ...], ...]:
        """For each fetch the slots, used after the run by others, whose memory it may share."""
        memory = [self.aliases[slot] | {slot} for slot in fetches]
        earlier = [
            {fetches[other] for other in range(number) if memory[other] & memory[number]}
            for number in range(len(fetches))
        ]
        return tuple(
            tuple(sorted((own & lasting) | others)) for own, others in zip(memory, earlier, strict=True)
        )

    def _last_uses(self, fetches: tuple[int, ...]) -> dict[int, int]:
        """For each slot the last step that uses it; what is fetched is never done with."""
        last = dict.fromkeys(range(len(self.tensors)), -1)
        kept = set(fetches)
        for number, step in enumerate(self.steps):
            used = (
                [step.input, step.output]
                if isinstance(step, Copy)
                else [*(i for i in step.inputs if i is not None), *step.outputs]
            )
            last.update(dict.fromkeys(used, number))
            if isinstance(step, Copy) and step.source.memory == step.target.memory:
                kept.add(step.input)  # the other device may read this memory later, on a queue of its own
        last.update(dict.fromkeys(kept, len(self.steps)))
        return last

    def _last_views(self, last: dict[int, int]) -> dict[int, int]:
        """For each slot the last step that uses its memory, through whatever slot may be a view of it.

        A view keeps the array that it shows alive by itself, but not the contents of a buffer that is used again. Small
        tensors are kept as long, too, where memory is not limited: if a kernel fails, there is more to go on from.
        """
        views = dict(last)
        for slot, memory in enumerate(self.aliases):
            for shared in memory:
                views[shared] = max(views[shared], last[slot])
        return views

    def _assign_buffers(
        self, fetches: tuple[int, ...], last: dict[int, int]
    ) -> tuple[tuple[Device, TensorSpec], ...]:
        """Gives kernels that can write into a given array one that no living tensor uses."""
        buffers: list[tuple[Device, TensorSpec]] = []
        free: dict[tuple[str, TensorSpec], list[int]] = {}
        ending: dict[int, list[tuple[tuple[str, TensorSpec], int]]] = {}
        fetched = {shared for slot in fetches for shared in self.aliases[slot] | {slot}}
        for number, step in enumerate(self.steps):
            for key, buffer in ending.pop(number - 1, ()):
                free.setdefault(key, []).append(buffer)
            if not isinstance(step, Run) or not step.fresh or step.outputs[0] in fetched:
                continue
            if self.places.space(self.places.of(step.device)) in self.placement.limits:
                continue  # a buffer lasts beyond its tensor, and would count against the limit
            slot = step.outputs[0]
            key = (step.device.name, self.tensors[slot].value.spec)
            if free.get(key):
                buffer = free[key].pop()
            else:
                buffer = len(buffers)
                buffers.append((step.device, key[1]))
            ending.setdefault(last[slot], []).append((key, buffer))
            self.steps[number] = replace(step, buffer=buffer, fresh=False)
        return tuple(buffers)

    def _with_frees(
        self, last: dict[int, int], lasting: set[int], ending: int
    ) -> tuple[tuple[Step, ...], int]:
        """The steps with those that forget, and the number of the last ones' first."""
        begin = 0
        steps: list[Step] = []
        ends: dict[int, list[int]] = {}
        for slot, number in last.items():
            if slot not in lasting:
                ends.setdefault(number, []).append(slot)
        for number, step in enumerate(self.steps):
            begin = len(steps) if number == ending else begin
            steps.append(step)
            if number in ends:
                steps.append(Free(tuple(ends[number])))
        return tuple(steps), begin if ending < len(self.steps) else len(steps)

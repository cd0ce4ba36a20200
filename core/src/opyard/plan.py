"""Plan: a placed graph as plain steps, with liveness and buffer reuse, and its compilation to straight-line code.

The flow of one run is visible in the generated source, ``Executable.source``: one line per step, one local variable per
tensor, set to None once nothing needs it any more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from .device import Device, shares_arrays, transfer
from .graph import Value
from .kernels import Kernel
from .operation import Call
from .placement import Placement
from .registry import describe_error
from .spec import TensorSpec


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Call a kernel. Slots number the tensors of a plan.

    A kernel that can write into a given array gets one: ``buffer`` is its number, or ``fresh`` says that it is a new one,
    because the tensor is fetched. Other kernels make their outputs themselves, which may be views of their inputs.
    """

    call: Call
    kernel: Kernel
    device: Device
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    buffer: int | None
    fresh: bool


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """Make a tensor of one device a tensor of another."""

    source: Device
    target: Device
    input: int
    output: int


@dataclass(frozen=True, slots=True, eq=False)
class Free:
    """Forget tensors that nothing uses any more."""

    slots: tuple[int, ...]


Step = Run | Copy | Free


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Steps in order. ``constants`` are slots with arrays that are uploaded once; ``buffers`` are kept between runs.

    ``shared`` names for each fetch the feeds, constants and earlier fetches that it may share memory with; where it
    does, a copy is handed out.
    """

    steps: tuple[Step, ...]
    feeds: tuple[int, ...]
    fetches: tuple[int, ...]
    shared: tuple[tuple[int, ...], ...]
    constants: tuple[tuple[int, np.ndarray[Any, Any], Device], ...]
    buffers: tuple[tuple[Device, TensorSpec], ...]
    home: Device

    @property
    def copies(self) -> int:
        """Number of copies between devices in one run."""
        return sum(isinstance(step, Copy) for step in self.steps)

    def to_json(self) -> list[dict[str, Any]]:
        """The steps as plain data."""
        rows: list[dict[str, Any]] = []
        for step in self.steps:
            if isinstance(step, Run):
                rows.append(
                    {
                        "step": "run",
                        "call": str(step.call),
                        "kernel": step.kernel.id,
                        "device": step.device.name,
                        "inputs": step.inputs,
                        "outputs": step.outputs,
                        "buffer": step.buffer,
                        "fresh": step.fresh,
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
        self.home = placement.home
        self.steps: list[Run | Copy] = []
        self.slots: dict[tuple[Value, str], int] = {}  # a value on each device that has it
        self.holders: dict[Value, list[int]] = {}
        self.devices: list[Device] = []
        self.specs: list[TensorSpec] = []
        self.constants: list[tuple[int, np.ndarray[Any, Any], Device]] = []
        self.aliases: list[set[int]] = []  # slots whose memory this slot may share

    def plan(self) -> Plan:
        feeds = tuple(self._new(value, self.home) for value in self.graph.inputs.values())
        for decision in self.placement.decisions:
            node, device = decision.node, decision.chosen.device
            inputs = tuple(None if v is None else self._on(v, device) for v in node.inputs)
            outputs = tuple(self._new(v, device) for v in node.outputs)
            writes = decision.chosen.kernel.out and len(outputs) == 1
            self.steps.append(Run(node.call, decision.chosen.kernel, device, inputs, outputs, None, writes))
            if not writes:  # it may give back a view of any input
                shared = set().union(*(self.aliases[i] | {i} for i in inputs if i is not None))
                for slot in outputs:
                    self.aliases[slot] |= shared
        fetches = tuple(self._on(value, self.home) for value in self.graph.outputs.values())
        lasting = {*feeds, *(slot for slot, _, _ in self.constants)}
        last = self._last_uses(fetches)
        buffers = self._assign_buffers(fetches, last)
        return Plan(
            self._with_frees(last, lasting),
            feeds,
            fetches,
            self._shared(fetches, lasting),
            tuple(self.constants),
            buffers,
            self.home,
        )

    def _new(self, value: Value, device: Device) -> int:
        slot = len(self.specs)
        self.slots[(value, device.name)] = slot
        self.holders.setdefault(value, []).append(slot)
        self.devices.append(device)
        self.specs.append(value.spec)
        self.aliases.append(set())
        return slot

    def _on(self, value: Value, device: Device) -> int:
        """The slot of a value on a device, copied there if need be."""
        if (value, device.name) in self.slots:
            return self.slots[(value, device.name)]
        if value in self.graph.constants:
            slot = self._new(value, device)
            self.constants.append((slot, self.graph.constants[value], device))
            return slot
        for slot in self.holders[value]:
            if shares_arrays(self.devices[slot], device):
                self.slots[(value, device.name)] = slot
                return slot
        source = self.holders[value][0]  # where it was made
        holder = self.devices[source]
        slot = self._new(value, device)
        if holder.memory == device.memory:
            self.aliases[slot] |= self.aliases[source] | {source}
        self.steps.append(Copy(holder, device, source, slot))
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
        """For each slot the last step that uses it, or its memory through another slot; fetched memory is never done with."""
        last = dict.fromkeys(range(len(self.specs)), -1)
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
        for slot, memory in enumerate(
            self.aliases
        ):  # memory is in use as long as anything that may be a view of it
            for shared in memory:
                last[shared] = max(last[shared], last[slot])
        return last

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
            slot = step.outputs[0]
            key = (step.device.name, self.specs[slot])
            if free.get(key):
                buffer = free[key].pop()
            else:
                buffer = len(buffers)
                buffers.append((step.device, self.specs[slot]))
            ending.setdefault(last[slot], []).append((key, buffer))
            self.steps[number] = replace(step, buffer=buffer, fresh=False)
        return tuple(buffers)

    def _with_frees(self, last: dict[int, int], lasting: set[int]) -> tuple[Step, ...]:
        steps: list[Step] = []
        ends: dict[int, list[int]] = {}
        for slot, number in last.items():
            if slot not in lasting:
                ends.setdefault(number, []).append(slot)
        for number, step in enumerate(self.steps):
            steps.append(step)
            if number in ends:
                steps.append(Free(tuple(ends[number])))
        return tuple(steps)


class StepFailed(Exception):
    """A kernel raised while a plan ran."""

    def __init__(self, step: Run, error: Exception) -> None:
        super().__init__(f"{step.kernel.id}: {describe_error(error)}")
        self.step = step
        self.error = error


class Executable:
    """A plan with its kernels bound and its constants uploaded: call it with one home array per feed.

    Runs at the same time each have buffers of their own. Raises StepFailed when a kernel raises.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._namespace: dict[str, Any] = {}
        self.lines: list[Step] = []
        self.source = self._generate()
        self._code = compile(self.source, "<opyard plan>", "exec")
        self._idle: list[Callable[..., tuple[Any, ...]]] = []

    def __call__(self, *feeds: Any) -> tuple[Any, ...]:
        try:
            frame = self._idle.pop()
        except IndexError:
            frame = self._frame()
        try:
            with np.errstate(all="ignore"):  # NaN and infinity are values, here as on every other device
                result = frame(*feeds)
        except Exception as error:
            step = self._step_of(error)
            if isinstance(step, Run):
                raise StepFailed(step, error) from error
            raise
        self._idle.append(frame)
        return result

    def _frame(self) -> Callable[..., tuple[Any, ...]]:
        """The generated function with buffers of its own."""
        scope = dict(self._namespace)
        scope.update({f"b{i}": device.empty(spec) for i, (device, spec) in enumerate(self.plan.buffers)})
        exec(self._code, scope)
        run: Callable[..., tuple[Any, ...]] = scope["run"]
        return run

    def _generate(self) -> str:
        """Source of the run function: the step of line n + 2 is ``lines[n]``."""
        plan, rows = self.plan, []
        for slot, array, device in plan.constants:
            self._namespace[f"v{slot}"] = device.upload(array)
        for number, step in enumerate(plan.steps):
            if isinstance(step, Free):
                rows.append(f"    {' = '.join(f'v{slot}' for slot in step.slots)} = None")
            elif isinstance(step, Copy):
                self._namespace[f"k{number}"] = partial(transfer, source=step.source, target=step.target)
                rows.append(f"    v{step.output} = k{number}(v{step.input})")
            else:
                self._namespace[f"k{number}"] = _bind(step)
                if step.fresh:
                    self._namespace[f"new{number}"] = partial(step.device.empty, step.call.output)
                rows.append(f"    {_run_line(number, step)}")
            self.lines.append(step)
        new = {step.outputs[0] for step in plan.steps if isinstance(step, Run) and step.fresh}
        fetched = [
            f"v{slot}"
            if slot in new and not shared
            else f"own({', '.join(f'v{name}' for name in (slot, *shared))})"
            for slot, shared in zip(plan.fetches, plan.shared, strict=True)
        ]
        self._namespace["own"] = partial(_own, plan.home)
        feeds = ", ".join(f"v{slot}" for slot in plan.feeds)
        return "\n".join(
            [
                f"def run({feeds}):",
                *rows,
                f"    return ({', '.join(fetched)}{',' if len(fetched) == 1 else ''})",
            ]
        )

    def _step_of(self, error: Exception) -> Step | None:
        traceback = error.__traceback__
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename == "<opyard plan>":
                line = traceback.tb_lineno - 2
                return self.lines[line] if 0 <= line < len(self.lines) else None
            traceback = traceback.tb_next
        return None


def _bind(step: Run) -> Callable[..., Any]:
    try:
        return step.kernel.bind(step.call, step.device)
    except Exception as error:
        raise StepFailed(step, error) from error


def _run_line(number: int, step: Run) -> str:
    arguments = ["None" if slot is None else f"v{slot}" for slot in step.inputs]
    if step.buffer is not None:
        arguments.append(f"out=b{step.buffer}")
    elif step.fresh:
        arguments.append(f"out=new{number}()")
    outputs = ", ".join(f"v{slot}" for slot in step.outputs) + (
        "," if step.call.is_tuple and len(step.outputs) == 1 else ""
    )
    return f"{outputs} = k{number}({', '.join(arguments)})"


def _own(home: Device, array: Any, *others: Any) -> Any:
    """The array, or a copy of it if writing to it is not allowed or would change one of the others.

    Of arrays that are not NumPy's only the identity is known: views of them stay views.
    """
    if not isinstance(array, np.ndarray):
        return home.upload(home.download(array).copy()) if any(array is o for o in others) else array
    shares = any(not isinstance(o, (np.ndarray, np.generic)) or np.may_share_memory(array, o) for o in others)
    return array.copy() if shares or not array.flags.writeable else array

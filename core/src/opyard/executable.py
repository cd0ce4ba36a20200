"""Executable: a plan compiled to straight-line code.

The flow of one run is visible in the generated source, ``Executable.source``: one line for each step, local variables for
tensors, which are set to None when nothing uses them any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from .driver import Device, transfer
from .errors import KernelError
from .plan import Copy, Free, Plan, Run, Step
from .registry import describe_error
from .spec import TensorSpec


class StepFailed(Exception):
    """A kernel raised while a plan ran, or gave another array than it promised; ``reason`` says which."""

    def __init__(self, step: Run, error: Exception, reason: str = "") -> None:
        super().__init__(f"{step.kernel.id}: {describe_error(error)}")
        self.step = step
        self.error = error
        self.reason = reason or f"raised {describe_error(error)} on {step.work}"


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
            step, tensors = self._step_of(error)
            if step is not None and (wrong := self._wrong_input(step, tensors)) is not None:
                raise wrong from error
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
        for conversion in plan.prologue:
            self._namespace[f"v{conversion.outputs[0]}"] = _run_once(conversion, self._namespace)
        for number, step in enumerate(plan.steps):
            if isinstance(step, Free):
                rows.append(f"    {' = '.join(f'v{slot}' for slot in step.slots)} = None")
            elif isinstance(step, Copy):
                self._namespace[f"k{number}"] = partial(transfer, source=step.source, target=step.target)
                rows.append(f"    v{step.output} = k{number}(v{step.input})")
            else:
                self._namespace[f"k{number}"] = _bind(step)
                if step.fresh:
                    self._namespace[f"new{number}"] = partial(step.device.empty, step.work.outputs[0])
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

    def _step_of(self, error: Exception) -> tuple[Step | None, Mapping[str, Any]]:
        """The step that raised, and the variables of the run."""
        traceback = error.__traceback__
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename == "<opyard plan>":
                line = traceback.tb_lineno - 2
                step = self.lines[line] if 0 <= line < len(self.lines) else None
                return step, traceback.tb_frame.f_locals
            traceback = traceback.tb_next
        return None, {}

    def _wrong_input(self, step: Step, tensors: Mapping[str, Any]) -> StepFailed | None:
        """The failure of a kernel that made an input of this step otherwise than promised: it is the one to blame."""
        runs = [run for run in self.plan.steps if isinstance(run, Run)]
        makers = {slot: (run, index) for run in runs for index, slot in enumerate(run.outputs)}
        copied = {copy.output: copy.input for copy in self.plan.steps if isinstance(copy, Copy)}
        inputs = step.inputs if isinstance(step, Run) else (step.input,) if isinstance(step, Copy) else ()
        for slot in inputs:
            maker, index = makers.get(copied.get(slot, slot), (None, 0)) if slot is not None else (None, 0)
            if maker is None or maker.kernel.output_layout(index):
                continue  # in a layout of its own an array may have any shape
            if difference := _difference(tensors.get(f"v{slot}"), maker.work.outputs[index]):
                reason = f"returned {difference[0]} where {maker.work} promises {difference[1]}"
                return StepFailed(maker, KernelError(f"kernel {maker.kernel.id} {reason}"), reason)
        return None


def _difference(array: Any, spec: TensorSpec) -> tuple[str, str] | None:
    """What an array is and what it should be, or None if it has the spec."""
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        return f"{type(array).__name__}", f"an array {spec!r}"
    if tuple(array.shape) != spec.shape:
        return f"shape {tuple(array.shape)}", f"{spec.shape}"
    return (f"{array.dtype}", spec.dtype.name) if array.dtype != spec.dtype else None


def _bind(step: Run) -> Callable[..., Any]:
    try:
        return step.kernel.bind(step.work, step.device)
    except Exception as error:
        raise StepFailed(step, error) from error


def _run_once(step: Run, namespace: dict[str, Any]) -> Any:
    try:
        return _bind(step)(*(namespace[f"v{slot}"] for slot in step.inputs))
    except StepFailed:
        raise
    except Exception as error:
        raise StepFailed(step, error) from error


def _run_line(number: int, step: Run) -> str:
    arguments = ["None" if slot is None else f"v{slot}" for slot in step.inputs]
    if step.buffer is not None:
        arguments.append(f"out=b{step.buffer}")
    elif step.fresh:
        arguments.append(f"out=new{number}()")
    outputs = ", ".join(f"v{slot}" for slot in step.outputs) + (
        "," if step.work.is_tuple and len(step.outputs) == 1 else ""
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

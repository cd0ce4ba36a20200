"""Executable: a plan compiled to straight-line code.

The flow of one run is visible in the generated source, ``Executable.source``: one line for each step, local variables for
tensors, which are set to None when nothing uses them any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from .driver import Device, transfer
from .errors import KernelError
from .kernels import broken_promise
from .operation import Call
from .ops._control import driver
from .plan import Copy, Free, Plan, Run, Step
from .registry import describe_error

HEAD = 4
"""The number of the line where the first step is, in the source of an executable."""


class StepFailed(Exception):
    """A kernel raised while a plan ran, or gave another array than it promised; ``reason`` says which.

    ``arrays`` are by slots of ``plan`` what was computed before and can be relied on; ``plan`` is None where the kernel
    could not be prepared, so that nothing ran.
    """

    def __init__(self, step: Run, error: Exception, reason: str = "") -> None:
        super().__init__(f"{step.kernel.id}: {describe_error(error)}")
        self.step = step
        self.error = error
        self.reason = reason or f"raised {describe_error(error)} on {step.work}"
        self.plan: Plan | None = None
        self.arrays: dict[int, Any] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """A line that looks at an output of a step: whether it is what the kernel promised."""

    step: Run
    index: int


class Watch(Protocol):
    """Puts something around what an executable calls; see stopwatch.py."""

    def step(self, step: Run | Copy, run: Callable[..., Any]) -> Callable[..., Any]:
        """What is called in the place of a kernel or a copy."""

    def allocation(self, step: Run, new: Callable[[], Any]) -> Callable[[], Any]:
        """What is called in the place of what makes the array that a step writes into."""

    def inside(self, step: Run, position: int) -> Watch | None:
        """Who watches the plan at this position inside of a step; None: nobody."""

    def whole(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """What is called in the place of a plan inside of a step."""


Claim = Callable[[tuple[int, ...]], tuple[bool, ...]]
"""Asked when all is done but to write to variables: which of these feeds' arrays may be written to, by their slots."""


def claim_nothing(slots: tuple[int, ...]) -> tuple[bool, ...]:
    """No array of a feed may be written to."""
    return (False,) * len(slots)


@cache
def ignoring_floating_point() -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """Lets NumPy ignore floating-point errors in this thread, and undoes it, given what the former gave.

    NumPy keeps what to do in a context variable. ``np.errstate`` makes its value anew each time, which takes longer than some plans.
    """
    before, context = copy_context(), copy_context()
    context.run(np.seterr, all="ignore")
    (variable,) = (each for each, value in context.items() if before.get(each) is not value)
    return partial(variable.set, context[variable]), variable.reset


class _Unclear(Exception):
    """An array is wrong, but what it was made of is gone, so that its maker may be innocent."""


class Executable:
    """A plan with its kernels bound and its constants uploaded: call it with one home array per feed.

    Runs at the same time each have buffers of their own. Raises StepFailed when a kernel raises, and when what is fetched
    is not what a kernel promised; with ``checked`` the results of all kernels are looked at. ``inside``: it is called by
    the step of another one. ``watch``: who looks at the steps. Arrays of variables are written to where ``claim`` allows it,
    and in no first run: a kernel that raises, or makes something else than it promised, mostly does so at once.
    """

    def __init__(
        self, plan: Plan, *, checked: bool = False, inside: bool = False, watch: Watch | None = None
    ) -> None:
        self.plan = plan
        self.checked = checked
        self.inside = inside
        self._watch = watch
        self._donations = plan.donations
        self._has_run = False
        self._namespace: dict[str, Any] = {}
        self.lines: list[Step | Check | None] = []
        self._makers = {
            slot: (step, index)
            for step in plan.steps
            if isinstance(step, Run)
            for index, slot in enumerate(step.outputs)
        }
        self._copied = {step.output: step.input for step in plan.steps if isinstance(step, Copy)}
        self.source = self._generate()
        self._code = compile(self.source, "<opyard plan>", "exec")
        self._idle: list[Callable[..., tuple[Any, ...]]] = []

    def __call__(self, *feeds: Any, claim: Claim = claim_nothing) -> tuple[Any, ...]:
        try:
            frame = self._idle.pop()
        except IndexError:
            frame = self._frame()
        try:
            if self._donations:
                result = frame(claim if self._has_run else claim_nothing, *feeds)
            else:
                result = frame(*feeds)
        except Exception as error:
            try:
                failure = self._failure(error)
            except _Unclear:
                return Executable(self.plan, checked=True, inside=self.inside)(*feeds)
            if failure is None:
                raise
            raise failure from error
        self._idle.append(frame)
        self._has_run = True
        return result

    def _frame(self) -> Callable[..., tuple[Any, ...]]:
        """The generated function with buffers of its own."""
        scope = dict(self._namespace)
        scope.update({f"b{i}": device.empty(spec) for i, (device, spec) in enumerate(self.plan.buffers)})
        exec(self._code, scope)
        run: Callable[..., tuple[Any, ...]] = scope["run"]
        return run

    def _generate(self) -> str:
        """Source of the run function: what line n + HEAD does is ``lines[n]``."""
        plan = self.plan
        rows: list[str] = []
        for slot, array, device in plan.constants:
            self._namespace[f"v{slot}"] = device.upload(array)
        for conversion in plan.prologue:
            self._namespace[f"v{conversion.outputs[0]}"] = _run_once(conversion, self._namespace)
        fetched = set(map(self._origin, plan.fetches))
        results = list(self._results())
        for number, step in enumerate(plan.steps):
            if number == plan.ending and self._donations:
                rows += self._before_ending(results)
            self.lines.append(step)
            if isinstance(step, Free):
                rows.append(f"    {' = '.join(f'v{slot}' for slot in step.slots)} = None")
            elif isinstance(step, Copy):
                copy = partial(transfer, source=step.source, target=step.target)
                self._namespace[f"k{number}"] = self._watch.step(step, copy) if self._watch else copy
                rows.append(f"    v{step.output} = k{number}(v{step.input})")
            else:
                self._namespace[f"k{number}"] = bind_step(step, self._watch, self._namespace)
                if step.fresh:
                    empty = partial(step.device.empty, step.work.outputs[0])
                    allocate = self._watch.allocation(step, empty) if self._watch else empty
                    self._namespace[f"new{number}"] = allocate
                rows.append(f"    {_run_line(number, step)}")
                rows += self._checks(step, fetched)
        parameters = [*(["claim"] if self._donations else []), *(f"v{slot}" for slot in plan.feeds)]
        rows.append(f"    return ({', '.join(results)}{',' if len(results) == 1 else ''})")
        # NaN and infinity are values, here as on every other device
        self._namespace["ignore"], self._namespace["restore"] = ignoring_floating_point()
        begin, end = ("None", "pass") if self.inside else ("ignore()", "restore(before)")
        head = [f"def run({', '.join(parameters)}):", f"  before = {begin}", "  try:"]
        return "\n".join([*head, *rows, "  finally:", f"    {end}"])

    def _results(self) -> Iterator[str]:
        """For each fetch what is given back: its tensor, or a copy."""
        plan = self.plan
        new = {s.outputs[0] for s in plan.steps if isinstance(s, Run) and (s.fresh or s.donated is not None)}
        for slot, shared in zip(plan.fetches, plan.shared, strict=True):
            self._namespace[f"own{slot}"] = partial(_own, plan.tensors[slot].device)
            arguments = ", ".join(f"v{name}" for name in (slot, *shared))
            yield f"v{slot}" if slot in new and not shared else f"own{slot}({arguments})"

    def _before_ending(self, results: list[str]) -> Iterator[str]:
        """The lines before the steps that write to variables: all that can fail is done in these."""
        plan, donations = self.plan, self._donations
        last = {slot for step in plan.steps[plan.ending :] if isinstance(step, Run) for slot in step.outputs}
        for number, slot in enumerate(plan.fetches):
            if slot not in last and results[number] != f"v{slot}":
                self.lines.append(None)
                yield f"    r{number} = {results[number]}"
                results[number] = f"r{number}"
        self.lines.append(None)
        yield f"    may = claim({donations!r})"
        for position, slot in enumerate(donations):
            self._namespace[f"new_{slot}"] = partial(
                plan.tensors[slot].device.empty, plan.tensors[slot].value.spec
            )
            self.lines.append(None)
            yield f"    out{slot} = v{slot} if may[{position}] else new_{slot}()"

    def _checks(self, step: Run, fetched: set[int]) -> Iterator[str]:
        """The lines behind a step that look at what it made, where that is fetched."""
        for index, slot in enumerate(step.outputs):
            if step.kernel.output_layout(index) or not (self.checked or slot in fetched):
                continue  # in a layout of its own an array may have any shape
            spec = step.work.outputs[index]
            self._namespace |= {f"s{slot}": spec.shape, f"d{slot}": spec.dtype, "check": _check}
            self.lines.append(check := Check(step, index))
            self._namespace[f"c{slot}"] = check
            yield f"    if v{slot}.shape != s{slot} or v{slot}.dtype is not d{slot}: check(c{slot}, v{slot})"

    def _origin(self, slot: int) -> int:
        """The slot that this one is a copy of."""
        while slot in self._copied:
            slot = self._copied[slot]
        return slot

    def _failure(self, error: Exception) -> StepFailed | None:
        """Whom to blame for an error, with what was computed before; None where it is no kernel's."""
        step, tensors, written = self._step_of(error)
        if written:
            names = ", ".join(sorted(self.plan.tensors[slot].value.name for slot in written))
            raise KernelError(
                f"a kernel that promised not to raise (inplace=True) did: {describe_error(error)}. It wrote in place, so what these hold is not known; restore a checkpoint: {names}."
            ) from error
        if isinstance(step, Check):
            inputs: tuple[int | None, ...] = (step.step.outputs[step.index],)
        elif step is None or isinstance(step, Free):
            return None
        else:
            inputs = step.inputs if isinstance(step, Run) else (step.input,)
        culprits = (self._culprit(slot, tensors) for slot in inputs if slot is not None)
        failure = next((found for found in culprits if found is not None), None)
        bad = failure.step if failure else step
        if failure is None and isinstance(error, StepFailed):  # it was a step of a graph inside
            failure = StepFailed(error.step, error.error, error.reason)
        elif failure is None and isinstance(step, Run):
            failure = StepFailed(step, error)
        if failure is None and not self.checked:
            raise _Unclear  # a device that works later may only now have met what is wrong
        if failure is not None:
            failure.plan = self.plan
            failure.arrays = self._reliable(tensors, bad.outputs if isinstance(bad, Run) else ())
        return failure

    def _step_of(self, error: Exception) -> tuple[Step | Check | None, dict[int, Any], list[int]]:
        """The step that raised, the arrays of the run by their slots, and the slots of variables that are being written to."""
        traceback = error.__traceback__
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename == "<opyard plan>":
                line = traceback.tb_lineno - HEAD
                step = self.lines[line] if 0 <= line < len(self.lines) else None
                found = dict(traceback.tb_frame.f_locals)
                traceback.tb_frame.clear()  # the traceback shall not keep what nothing needs any more
                tensors = {
                    int(name[1:]): array
                    for name, array in found.items()
                    if array is not None and name[0] == "v"
                }
                may = found.get("may", ()) if step is not None else ()
                written = [slot for slot, granted in zip(self._donations, may, strict=False) if granted]
                return step, tensors, written
            traceback = traceback.tb_next
        return None, {}, []

    def _culprit(self, slot: int, tensors: Mapping[int, Any]) -> StepFailed | None:
        """The failure of the kernel that made this array otherwise than promised, or from an array that is not.

        Raises _Unclear where the kernel's own inputs are gone, and may have been wrong.
        """
        maker, index = self._makers.get(self._origin(slot), (None, 0))
        if maker is None or maker.kernel.output_layout(index):
            return None
        reason = broken_promise(maker.work, tensors.get(slot), index)
        if reason is None:
            return None
        for source in maker.inputs if not self.checked else ():
            if source is None or self._origin(source) not in self._makers:
                continue
            if source not in tensors:
                raise _Unclear
            if (earlier := self._culprit(source, tensors)) is not None:
                return earlier
        return StepFailed(maker, KernelError(f"kernel {maker.kernel.id} {reason}"), reason)

    def _reliable(self, tensors: dict[int, Any], wrong: Iterable[int]) -> dict[int, Any]:
        """The arrays that are as promised, and not made of any that are not, nor of those that are wrong."""
        bad = set(wrong)
        for step in self.plan.steps:
            if isinstance(step, Free):
                continue
            inputs = step.inputs if isinstance(step, Run) else (step.input,)
            outputs = step.outputs if isinstance(step, Run) else (step.output,)
            if not bad.isdisjoint(slot for slot in inputs if slot is not None):
                bad.update(outputs)
            elif isinstance(step, Run):
                bad.update(
                    slot
                    for index, slot in enumerate(outputs)
                    if slot in tensors
                    and not step.kernel.output_layout(index)
                    and broken_promise(step.work, tensors[slot], index)
                )
        return {slot: array for slot, array in tensors.items() if slot not in bad}


def _check(promised: Check, array: Any) -> None:
    """Raises KernelError for an array that is not what was promised, after a first look that may be too strict."""
    if reason := broken_promise(promised.step.work, array, promised.index):
        raise KernelError(f"kernel {promised.step.kernel.id} {reason}")


def bind_step(
    step: Run, watch: Watch | None = None, known: Mapping[str, Any] = MappingProxyType({})
) -> Callable[..., Any]:
    """What runs a step, as a function of its inputs. Raises StepFailed where a kernel cannot be prepared.

    ``known`` has the arrays of constants by the names of their slots.
    """
    if step.plans and isinstance(step.work, Call):
        bodies = [_body(step, position, watch) for position in range(len(step.plans))]
        run = driver(step.work, step.device, bodies)
    else:
        try:
            constants = tuple(known.get(f"v{slot}") for slot in step.inputs)
            run = step.kernel.bind(step.work, step.device, constants)
        except Exception as error:
            raise StepFailed(step, error) from error
    return watch.step(step, run) if watch else run


def _body(step: Run, position: int, watch: Watch | None) -> Callable[..., Any]:
    inner = watch.inside(step, position) if watch else None
    made = Executable(step.plans[position], inside=True, watch=inner)
    return inner.whole(made) if inner else made


def _run_once(step: Run, namespace: dict[str, Any]) -> Any:
    try:
        return bind_step(step)(*(namespace[f"v{slot}"] for slot in step.inputs))
    except StepFailed:
        raise
    except Exception as error:
        raise StepFailed(step, error) from error


def _run_line(number: int, step: Run) -> str:
    arguments = ["None" if slot is None else f"v{slot}" for slot in step.inputs]
    if step.buffer is not None:
        arguments.append(f"out=b{step.buffer}")
    elif step.donated is not None:
        arguments.append(f"out=out{step.donated}")
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

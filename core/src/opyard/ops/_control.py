"""The ops of control flow, whose attributes are graphs. Users call the functions of control.py, which trace them.

They are no standard ops: no backend has kernels for them. On each device they run as what is declared here: their graphs
are placed with that device as home, ``parts`` says how often each runs, and ``driver`` runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import numpy as np

from ..cases import Cost
from ..dim import Dim
from ..driver import Device
from ..errors import SpecError
from ..operation import Call, Program
from ..opfunction import op
from ..spec import TensorSpec
from ._attributes import require_integer

Run = Callable[..., tuple[Any, ...]]
"""A graph that is ready to run on native arrays."""

UNKNOWN_STEPS = 100
"""Steps of a while loop that its price is made for, where its author expects no other number."""

_BOOL = TensorSpec((), "bool")


def _require(found: Sequence[TensorSpec], wanted: Sequence[TensorSpec], what: str) -> None:
    if tuple(found) != tuple(wanted):
        raise SpecError(f"{what}: {_listed(wanted)} expected, found {_listed(found)}.")


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(map(repr, specs)) or "nothing"


def _work(call: Call) -> Cost:
    costs = [(program.cost, times) for program, times in parts(call)]
    return Cost(sum(c.flops * times for c, times in costs), sum(c.bytes * times for c, times in costs))


# Branch ----------------------------------------------------------------------------------------------------------


def _infer_cond(
    predicate: TensorSpec, *operands: TensorSpec, then: Program, otherwise: Program
) -> tuple[TensorSpec, ...]:
    _require([predicate], [_BOOL], "the predicate")
    _require(then.inputs, operands, "the inputs of the first branch")
    _require(otherwise.inputs, operands, "the inputs of the second branch")
    _require(otherwise.outputs, then.outputs, "the results of the second branch, as those of the first")
    return then.outputs


@op("cond", infer=_infer_cond, cost=_work)
def cond(predicate: Any, *operands: Any, then: Any, otherwise: Any) -> Any:
    """One of two graphs, by a predicate of shape ``[]``; both take all operands."""
    return (then if predicate else otherwise).reference(*operands)


# Loop with a condition -------------------------------------------------------------------------------------------


def _infer_while(
    *arrays: TensorSpec,
    first: Program,
    step: Program,
    state: int,
    expected: int = UNKNOWN_STEPS,
    limit: Any = None,
) -> tuple[TensorSpec, ...]:
    require_integer(expected, "expected_steps", 1)
    if limit is not None and not isinstance(limit, Dim):
        require_integer(limit, "most_steps", 0)
    _require(first.inputs, arrays, "the inputs of the condition")
    _require(first.outputs, [_BOOL], "the result of the condition")
    _require(step.inputs, arrays, "the inputs of the body")
    _require(step.outputs, [*arrays[:state], _BOOL], "the results of the body")
    return arrays[:state]


@op("while_loop", infer=_infer_while, cost=_work)
def while_loop(
    *arrays: Any, first: Any, step: Any, state: int, expected: int = UNKNOWN_STEPS, limit: Any = None
) -> Any:
    """``step`` again and again, while the condition holds, and ``limit`` times at the most.

    The first ``state`` arrays change, the others do not. ``first`` tells whether there is a first step; ``step`` gives the
    next state, and whether there is another one.
    """
    return _repeat(lambda *a: first.reference(*a), lambda *a: step.reference(*a), state, limit, bool)(*arrays)


def _repeat(first: Run, step: Run, state: int, limit: int | None, truth: Callable[[Any], bool]) -> Run:
    def run(*arrays: Any) -> tuple[Any, ...]:
        found, rest = arrays[:state], arrays[state:]
        more = truth(first(*arrays)[0])
        for _ in repeat(None) if limit is None else repeat(None, limit):
            if not more:
                break
            after = step(*found, *rest)
            found, more = after[:state], truth(after[state])
        return found

    return run


# Loop over sequences ---------------------------------------------------------------------------------------------


def _infer_scan(
    *arrays: TensorSpec,
    body: Program,
    on_device: Program,
    carries: int,
    sequences: int,
    length: Any,
    reverse: bool = False,
) -> tuple[TensorSpec, ...]:
    carried, rest = arrays[:carries], arrays[carries + sequences :]
    items = []
    for spec in arrays[carries : carries + sequences]:
        if not spec.ndim or spec.shape[0] != length:
            raise SpecError(f"a sequence of {length} items has this size first; found {spec!r}.")
        items.append(TensorSpec(spec.shape[1:], spec.dtype))
    _require(body.inputs, [*carried, *items, *rest], "the inputs of the body")
    _require(body.outputs[:carries], carried, "the carry that the body gives back")
    collected = (TensorSpec((length, *spec.shape), spec.dtype) for spec in body.outputs[carries:])
    return (*carried, *collected)


@op("scan", infer=_infer_scan, cost=_work)
def scan(
    *arrays: Any, body: Any, on_device: Any, carries: int, sequences: int, length: Any, reverse: bool = False
) -> Any:
    """``body`` for each item of some sequences, with a carry; what else it gives is collected. See control.scan.

    on_device  the same with the number of the item first, among inputs and outputs, and whole sequences: it takes
               its item by itself, on devices whose arrays Python cannot index
    """
    specs = [TensorSpec((length, *s.shape), s.dtype) for s in body.outputs[carries:]]
    return _scan_host(lambda *a: body.reference(*a), carries, sequences, length, reverse, specs)(*arrays)


def _scan_host(
    body: Run, carries: int, sequences: int, length: int, reverse: bool, specs: Sequence[TensorSpec]
) -> Run:
    order = range(length - 1, -1, -1) if reverse else range(length)

    def run(*arrays: Any) -> tuple[Any, ...]:
        carry, rest = arrays[:carries], arrays[carries + sequences :]
        items = arrays[carries : carries + sequences]
        if not items and not specs:  # a loop that counts: nothing but the carry moves
            for _ in order:
                carry = body(*carry, *rest)
            return carry
        collected = [np.empty(spec.shape, spec.dtype) for spec in specs]
        for number in order:
            found = body(*carry, *[x[number, ...] for x in items], *rest)
            carry = found[:carries]
            for array, item in zip(collected, found[carries:], strict=True):
                array[number] = item
        return (*carry, *collected)

    return run


def _scan_device(
    body: Run, device: Device, carries: int, length: int, reverse: bool, specs: Sequence[TensorSpec]
) -> Run:
    """What is collected goes through the host, item by item: a device's arrays cannot be written to in part."""
    start = np.asarray(length - 1 if reverse else 0, np.int64)

    def run(*arrays: Any) -> tuple[Any, ...]:
        carry, rest = arrays[:carries], arrays[carries:]
        collected = [np.empty(spec.shape, spec.dtype) for spec in specs]
        number = device.upload(start)
        for step in range(length):
            number, *found = body(number, *carry, *rest)
            carry = tuple(found[:carries])
            for array, item in zip(collected, found[carries:], strict=True):
                array[length - 1 - step if reverse else step] = device.download(item)
        return (*carry, *map(device.upload, collected))

    return run


# Prices and drivers ----------------------------------------------------------------------------------------------


def parts(call: Call, on_host: bool = True) -> tuple[tuple[Program, float], ...]:
    """The graphs that a call runs, on a device with NumPy's arrays or on another, and how often it is taken to run each."""
    has = call.attrs
    if call.op is cond.op:
        return (has["then"], 0.5), (has["otherwise"], 0.5)
    if call.op is while_loop.op:
        limit = has["limit"]
        steps = has["expected"] if limit is None else min(has["expected"], limit)
        return (has["first"], 1.0), (has["step"], float(steps))
    return ((has["body" if on_host else "on_device"], float(has["length"])),)


def part_names(call: Call) -> tuple[str, ...]:
    """What the parts are called."""
    return {cond.op: ("then", "otherwise"), while_loop.op: ("condition", "body"), scan.op: ("body",)}.get(
        call.op, ()
    )


def collected_bytes(call: Call) -> int:
    """Bytes of one item of what a loop collects."""
    has = call.attrs
    return sum(spec.nbytes for spec in has["body"].outputs[has["carries"] :]) if call.op is scan.op else 0


def driver(call: Call, device: Device, runs: Sequence[Run]) -> Run:
    """The call as a function of native arrays of the device, by runs of its parts in their order."""
    has, on_host = call.attrs, device.array_type is np.ndarray
    truth = bool if on_host else lambda array: bool(device.download(array))
    if call.op is cond.op:
        then, otherwise = runs
        return lambda predicate, *operands: (then if truth(predicate) else otherwise)(*operands)
    if call.op is while_loop.op:
        return _repeat(runs[0], runs[1], has["state"], has["limit"], truth)
    carries, specs = has["carries"], call.outputs[has["carries"] :]
    if on_host:
        return _scan_host(runs[0], carries, has["sequences"], has["length"], has["reverse"], specs)
    return _scan_device(runs[0], device, carries, has["length"], has["reverse"], specs)

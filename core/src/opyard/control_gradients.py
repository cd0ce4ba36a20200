"""The gradients of branches and scans: branches and scans again, whose bodies are the gradients of theirs.

What a branch or a step computes is computed again on the way back; of a scan only the carry before each step is kept.
Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174, for what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from .bodies import Body, finish_bodies, indexed, trace_body
from .errors import GraphError
from .graph import Value, current_graph
from .operation import Op
from .ops import _control
from .ops.arithmetic import add
from .ops.gradients import filled
from .spec import TensorSpec, is_real

Gradients = Callable[[Any, Any, Any], Any]
"""``gradients`` of reverse.py."""


def control_rule(op: Op, gradients: Gradients) -> Callable[..., Any] | None:
    """The rule of an op of control flow; None for other ops."""
    rules: dict[Op, Callable[..., Any]] = {
        _control.cond.op: _cond_rule,
        _control.scan.op: _scan_rule,
        _control.while_loop.op: _while_rule,
    }
    return partial(rules[op], gradients) if op in rules else None


def _cond_rule(
    gradients: Gradients,
    cotangents: tuple[Value | None, ...],
    outputs: tuple[Value, ...],
    predicate: Value,
    *operands: Value,
    then: Body,
    otherwise: Body,
) -> tuple[Value | None, ...]:
    graph, real = outputs[0].graph, _real(operands)
    if not real:
        return (None,) * (1 + len(operands))
    targets = _real(outputs)
    weights = [_complete(cotangents[i], outputs[i]) for i in targets]

    def back(body: Body, values: tuple[Value, ...], given: tuple[Value, ...]) -> list[Value]:
        results = _run(body, values)
        return list(gradients([results[i] for i in targets], [values[i] for i in real], list(given)))

    specs = (_specs(operands), _specs(weights))
    bodies, taken = finish_bodies(trace_body(partial(back, body), specs, graph) for body in (then, otherwise))
    found = graph.apply(
        _control.cond.op,
        (predicate, *operands, *weights, *taken),
        {"then": bodies[0], "otherwise": bodies[1]},
    )
    return (None, *_spread(found, real, len(operands)))


def _while_rule(gradients: Gradients, *arguments: Any, **attributes: Any) -> NoReturn:
    raise GraphError("how many steps there are is not known before they are done; use scan.")


def _scan_rule(
    gradients: Gradients,
    cotangents: tuple[Value | None, ...],
    outputs: tuple[Value, ...],
    *inputs: Value,
    body: Body,
    on_device: Body,
    carries: int,
    sequences: int,
    length: Any,
    reverse: bool,
) -> list[Value | None]:
    graph = outputs[0].graph
    start, xs, rest = inputs[:carries], inputs[carries : carries + sequences], inputs[carries + sequences :]
    real, targets = _real(inputs), _real(outputs)
    if not real:
        return [None] * len(inputs)
    items = body.inputs[carries : carries + sequences]
    before = _carries_before(body, start, xs, rest, items, length, reverse)
    weights = [_complete(cotangents[i], outputs[i]) for i in targets]
    last = sum(i < carries for i in targets)  # these go from step to step, the others come with the items
    shared = [inputs[i] for i in real if i >= carries + sequences]

    def back(
        after: tuple[Value, ...],
        sums: tuple[Value, ...],
        carry: tuple[Value, ...],
        x: tuple[Value, ...],
        collected: tuple[Value, ...],
        others: tuple[Value, ...],
    ) -> list[Value]:
        values = (*carry, *x, *others)
        results = _run(body, values)
        found = gradients([results[i] for i in targets], [values[i] for i in real], [*after, *collected])
        own, per_item = last, len(real) - len(shared)
        totals = [add(one, more) for one, more in zip(sums, found[per_item:], strict=True)]
        return [*found[:own], *totals, *found[own:per_item]]

    zeros = [filled(0, value.shape, value) for value in shared]
    collected_specs = [TensorSpec(w.shape[1:], w.dtype) for w in weights[last:]]
    specs = (_specs(weights[:last]), _specs(shared), _specs(start), items, collected_specs, _specs(rest))
    traced = trace_body(back, tuple(map(tuple, specs)), graph)
    arrays = ([*weights[:last], *zeros], [*before, *xs, *weights[last:]], list(rest))
    found = _scan(traced, arrays, length, not reverse)
    carried, totals, per_item = found[:last], found[last : last + len(shared)], found[last + len(shared) :]
    return _spread([*carried, *per_item, *totals], real, len(inputs))


def _carries_before(
    body: Body,
    start: Sequence[Value],
    xs: Sequence[Value],
    rest: Sequence[Value],
    items: Sequence[TensorSpec],
    length: Any,
    reverse: bool,
) -> list[Value]:
    """The carry before each step, stacked, by another run of the scan."""
    if not start:
        return []

    def forward(carry: tuple[Value, ...], x: tuple[Value, ...], others: tuple[Value, ...]) -> list[Value]:
        return [*_run(body, (*carry, *x, *others))[: len(carry)], *carry]

    traced = trace_body(forward, (_specs(start), tuple(items), _specs(rest)), start[0].graph)
    return _scan(traced, (list(start), list(xs), list(rest)), length, reverse)[len(start) :]


def _scan(
    traced: tuple[Any, Any], arrays: tuple[list[Value], list[Value], list[Value]], length: Any, reverse: bool
) -> list[Value]:
    """Records a scan of a traced body, over a carry, sequences and what does not change."""
    (body,), taken = finish_bodies([traced])
    carry, sequences, rest = arrays
    attributes = {
        "body": body,
        "on_device": indexed(body, len(carry), len(sequences), length, reverse),
        "carries": len(carry),
        "sequences": len(sequences),
        "length": length,
        "reverse": reverse,
    }
    graph = traced[0].around[0]
    return list(graph.apply(_control.scan.op, (*carry, *sequences, *rest, *taken), attributes))


def _run(body: Body, values: Sequence[Value]) -> tuple[Value, ...]:
    """Records a body in the graph that is being traced."""
    graph = current_graph.get()
    assert graph is not None  # it is a body that is traced
    return body.record(graph, values)


def _real(values: Sequence[Value]) -> list[int]:
    return [number for number, value in enumerate(values) if is_real(value.spec)]


def _specs(values: Sequence[Value]) -> tuple[TensorSpec, ...]:
    return tuple(value.spec for value in values)


def _complete(cotangent: Value | None, output: Value) -> Value:
    if cotangent is not None:
        return cotangent
    zero: Value = filled(0, output.shape, output)
    return zero


def _spread(found: Sequence[Value], places: Sequence[int], count: int) -> list[Value | None]:
    """A list of so many entries, with what was found at its places."""
    spread: list[Value | None] = [None] * count
    for place, value in zip(places, found, strict=True):
        spread[place] = value
    return spread

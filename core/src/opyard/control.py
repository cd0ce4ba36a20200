"""Control flow: ``cond``, ``while_loop``, ``scan`` and ``map``.

In a graph each becomes one node, whose branches or steps are graphs of their own, placed like any other. On arrays, outside
of graphs, Python does the same: the branch is called, the loop runs.

Sources: the interfaces follow JAX (jax.lax) and TensorFlow (tf.cond, tf.while_loop); ONNX has the same as If, Loop and Scan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import compress, repeat
from typing import Any

import numpy as np

from .bodies import BodyGraph, finish_bodies, indexed, trace_body
from .eager import to_numpy
from .errors import SpecError
from .graph import Graph, Value, current_graph, weak_scalar
from .nest import leaves, map_leaves
from .ops import _control
from .ops.joining import stack, unstack
from .spec import TensorSpec, spec_of
from .variables import Variable

__all__ = ["cond", "map", "scan", "while_loop"]

_NUMBERS = (bool, int, float, complex)


def cond(predicate: Any, then: Callable[..., Any], otherwise: Callable[..., Any], *operands: Any) -> Any:
    """``then(*operands)`` where the predicate is true, else ``otherwise(*operands)``.

    Both functions give results of the same nesting, shapes and dtypes, and may use other arrays and values, too. In a graph
    only the chosen branch runs. ``predicate`` is a boolean of shape ``[]``. Raises SpecError for anything else.
    """
    graph = _graph_for(predicate, *operands)
    if graph is not None and isinstance(predicate, Variable):
        predicate = predicate.value_in(graph)  # what it holds when the graph runs, not now
    if not isinstance(predicate, Value):
        return (then if _truth(predicate, "cond") else otherwise)(*operands)
    assert graph is not None
    given = [_as_array(leaf, operands) for leaf in leaves(operands)]
    values = [graph.enter(leaf, "cond") for leaf in given]
    specs = _refill(operands, (value.spec for value in values))
    results = []
    for branch in (then, otherwise):
        body, found = trace_body(branch, specs, graph)
        results.append((body, found, _results(body, found, f"cond: the branch {_called(branch)}")))
    (one, first, firsts), (other, second, seconds) = results
    _require_alike(first, second, firsts, seconds, "cond: the branches", (_called(then), _called(otherwise)))
    bodies, taken = finish_bodies([(one, firsts), (other, seconds)])
    made = graph.apply(
        _control.cond.op, (predicate, *values, *taken), {"then": bodies[0], "otherwise": bodies[1]}
    )
    return _refill(first, made)


def while_loop(
    condition: Callable[[Any], Any],
    body: Callable[[Any], Any],
    state: Any,
    *,
    expected_steps: int = 100,
    most_steps: int | None = None,
) -> Any:
    """``state = body(state)`` for as long as ``condition(state)``; gives the last state.

    ``state`` is an array, or arrays and numbers in tuples, lists and dicts; the body gives the same nesting, shapes and dtypes.
    ``condition`` gives a boolean of shape ``[]``. ``expected_steps`` is what placement reckons with; after ``most_steps`` the
    loop ends, whatever the condition says. Has no gradient, for nobody knows how many steps there will be: use scan. Raises
    SpecError for a state that changes its shape or dtype.
    """
    graph = _graph_for(state)
    state = _with_arrays(state)
    if graph is None:
        for _ in repeat(None) if most_steps is None else repeat(None, most_steps):
            if not _truth(condition(state), "while_loop"):
                break
            after = _with_arrays(body(state), state)
            _require_alike(state, after, leaves(state), leaves(after), "while_loop: the state", _STEP)
            state = after
        return state
    values = [graph.enter(leaf, "while_loop") for leaf in leaves(state)]
    specs = _refill(state, (value.spec for value in values))
    before, first = trace_body(condition, (specs,), graph)
    tests = [_test(before, first)]

    def step(now: Any) -> Any:
        after = _with_arrays(body(now), now)
        return after, condition(after)

    inside, (after, more) = trace_body(step, (specs,), graph)
    results = _results(inside, after, "while_loop: the body")
    _require_alike(state, after, values, results, "while_loop: the state", _STEP)
    changing = [r is not i for r, i in zip(results, inside.inputs.values(), strict=False)]
    if any(changing) and not all(changing):  # what stays the same need not be handed on from step to step
        steps = {"expected_steps": expected_steps, "most_steps": most_steps}
        return _while_changing(condition, body, state, values, changing, steps)
    bodies, taken = finish_bodies([(before, tests), (inside, [*results, _test(inside, more)])])
    made = graph.apply(
        _control.while_loop.op,
        (*values, *taken),
        {
            "first": bodies[0],
            "step": bodies[1],
            "state": len(values),
            "expected": expected_steps,
            "limit": most_steps,
        },
    )
    return _refill(state, made)


def _while_changing(
    condition: Callable[[Any], Any],
    body: Callable[[Any], Any],
    state: Any,
    values: list[Value],
    changing: list[bool],
    steps: dict[str, Any],
) -> Any:
    """The loop over the part of the state that changes; the rest is taken from around it."""

    def whole(part: Any) -> Any:
        rest = iter(part)
        return _refill(state, (next(rest) if c else v for v, c in zip(values, changing, strict=True)))

    def step(part: Any) -> Any:
        return tuple(compress(leaves(body(whole(part))), changing))

    start = tuple(compress(values, changing))
    end = while_loop(lambda part: condition(whole(part)), step, start, **steps)
    return whole(end)


def scan(
    body: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any = None,
    *,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """``carry, y = body(carry, x)`` for each item ``x`` of the sequences ``xs``; gives the last carry and all ``y``, stacked.

    ``xs`` are arrays ``[length, ...]`` in any nesting, of which the body gets ``[...]``, or None with a ``length``. ``y`` may have
    any nesting, or be None. With ``reverse`` it goes from the last item to the first, and ``y`` is stacked in the order of ``xs``.
    Raises SpecError for sequences of different lengths, and for a carry that changes its shape or dtype.
    """
    graph = _graph_for(carry, xs)
    carry = _with_arrays(carry)
    sequences = [np.asarray(x) if isinstance(x, _NUMBERS) else x for x in _leaves(xs)]
    size = _length(sequences, length)
    if graph is None:
        return _scan_arrays(body, carry, xs, sequences, size, reverse)
    values = [graph.enter(leaf, "scan") for leaf in leaves(carry)]
    items = [graph.enter(leaf, "scan") for leaf in sequences]
    specs = _refill(carry, (value.spec for value in values))
    inner = _refill(xs, (TensorSpec(value.shape[1:], value.dtype) for value in items))
    traced, found = trace_body(body, (specs, inner), graph)
    after, ys = _pair(found)
    after = _with_arrays(after, carry)
    results = _results(traced, after, "scan: the body")
    _require_alike(carry, after, values, results, "scan: the carry", _STEP)
    results += _results(traced, ys, "scan: the body")
    (inside,), taken = finish_bodies([(traced, results)])
    arrays = (*values, *items, *taken)
    attributes = {
        "body": inside,
        "on_device": indexed(inside, len(values), len(items), size, reverse),
        "carries": len(values),
        "sequences": len(items),
        "length": size,
        "reverse": reverse,
    }
    made = graph.apply(_control.scan.op, arrays, attributes)
    return _refill(carry, made[: len(values)]), _refill(ys, made[len(values) :])


def map(function: Callable[..., Any], xs: Any) -> Any:
    """``function(x)`` for each item ``x`` of the sequences ``xs``, stacked: a scan without a carry."""
    return scan(lambda _, x: ((), function(x)), (), xs)[1]


# Bodies ----------------------------------------------------------------------------------------------------------

_STEP = ("before the step", "after it")


def _results(graph: BodyGraph, found: Any, what: str) -> list[Value]:
    """The leaves of a result as values of the body."""
    return [graph.enter(leaf, what) for leaf in _leaves(found)]


def _test(graph: BodyGraph, found: Any) -> Value:
    value = graph.enter(found, "while_loop: the condition")
    if value.spec != TensorSpec((), "bool"):
        raise SpecError(
            f"while_loop: the condition gives a boolean of shape []; found {value.spec!r}. Compare, and reduce with all or any."
        )
    return value


def _pair(found: Any) -> tuple[Any, Any]:
    if not isinstance(found, tuple) or len(found) != 2:
        raise SpecError(
            f"scan: the body gives a pair, the next carry and what is collected, or None for that; found {type(found).__name__}."
        )
    return found


def _require_alike(one: Any, other: Any, firsts: Any, seconds: Any, what: str, when: tuple[str, str]) -> None:
    """Raises SpecError unless two nested results have the same nesting, and their leaves the same specs."""
    if _nesting(one) != _nesting(other):
        raise SpecError(
            f"{what} must have the same nesting; found {_nesting(one)} {when[0]} and {_nesting(other)} {when[1]}."
        )
    for number, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
        a, b = spec_of(first, what), spec_of(second, what)
        if a != b:
            raise SpecError(
                f"{what} must keep shapes and dtypes; array {number} is {a!r} {when[0]} and {b!r} {when[1]}. Convert one: cast(x, dtype={a.dtype.name!r}), reshape or broadcast_to."
            )


def _nesting(found: Any) -> str:
    return str(map_leaves(lambda leaf: None if leaf is None else _ARRAY, found))


_ARRAY = type("_ARRAY", (), {"__repr__": lambda self: "array"})()


# Arrays ----------------------------------------------------------------------------------------------------------


def _scan_arrays(
    body: Callable[[Any, Any], Any], carry: Any, xs: Any, sequences: list[Any], size: int, reverse: bool
) -> tuple[Any, Any]:
    items = [unstack(x, axis=0) for x in sequences]
    collected: list[Any] = []
    order = range(size - 1, -1, -1) if reverse else range(size)
    for number in order:
        after, y = _pair(body(carry, _refill(xs, (item[number] for item in items))))
        after = _with_arrays(after, carry)
        _require_alike(carry, after, leaves(carry), leaves(after), "scan: the carry", _STEP)
        carry = after
        collected.append(y)
    if reverse:
        collected.reverse()
    if not collected:
        raise SpecError(
            "scan: without items nothing tells what is collected; call it in a compiled function, where the body is traced."
        )
    columns = zip(*(list(_leaves(y)) for y in collected), strict=True)
    stacked = (stack(*(y if hasattr(y, "dtype") else np.asarray(y) for y in column)) for column in columns)
    return carry, _refill(collected[0], stacked)


def _graph_for(*structures: Any) -> Graph | None:
    """The graph to record in: the one that is being built, or that of a value among the arguments; None: arrays alone."""
    graph = current_graph.get()
    found = (leaf.graph for leaf in leaves(structures) if isinstance(leaf, Value))
    return next(found, None) if graph is None else graph


def _truth(predicate: Any, what: str) -> bool:
    held = predicate.array if isinstance(predicate, Variable) else predicate
    array = to_numpy(held) if hasattr(held, "dtype") else np.asarray(held)
    if array.shape != () or array.dtype != np.bool_:
        raise SpecError(
            f"{what}: the condition is a boolean of shape []; found {spec_of(array, what)!r}. Compare, and reduce with all or any."
        )
    return bool(array)


def _length(sequences: list[Any], length: int | None) -> Any:
    sizes = [length] if length is not None else []
    for x in sequences:
        if not x.shape:
            raise SpecError("scan: a sequence has a first axis to go along; found an array of shape ().")
        sizes.append(x.shape[0])
    if not sizes:
        raise SpecError("scan: without sequences it needs a length=...")
    if any(size != sizes[0] for size in sizes):
        found = ", ".join(str(size) for size in sizes)
        raise SpecError(f"scan: all sequences have one length; found {found}.")
    return sizes[0]


def _with_arrays(structure: Any, like: Any = None) -> Any:
    """The structure with arrays in the place of numbers: of the dtypes of ``like``, else int64 or a float beside others."""
    others = list(leaves(structure))
    wanted: Iterator[Any] = leaves(like) if like is not None else iter(())

    def convert(leaf: Any) -> Any:
        other = next(wanted, None)
        if isinstance(leaf, _NUMBERS) and other is not None and hasattr(other, "dtype"):
            return np.asarray(leaf, other.dtype)
        return _as_array(leaf, others)

    return map_leaves(convert, structure)


def _as_array(leaf: Any, others: Any) -> Any:
    if not isinstance(leaf, _NUMBERS):
        return leaf
    if not isinstance(leaf, float):
        return np.asarray(leaf)
    floating = [o for o in leaves(list(others)) if hasattr(o, "dtype") and np.dtype(o.dtype).kind in "fV"]
    return weak_scalar(leaf, floating)


# Nesting ---------------------------------------------------------------------------------------------------------


def _leaves(structure: Any) -> list[Any]:
    """The leaves but for None, which stands for nothing."""
    return [leaf for leaf in leaves(structure) if leaf is not None]


def _refill(structure: Any, items: Any) -> Any:
    """The same nesting with other leaves; None stays."""
    rest = iter(items)
    return map_leaves(lambda leaf: None if leaf is None else next(rest), structure)


def _called(function: Any) -> str:
    return getattr(function, "__name__", repr(function))

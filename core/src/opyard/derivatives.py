"""Derivatives of functions over arrays: ``grad``, ``value_and_grad``, ``vjp``, ``jvp``, and what steers them.

All are functions over arrays again. On arrays they are traced, placed and run like compiled functions; on values of a graph
they record themselves in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import numpy as np

from .bypass import make_bypass
from .compiled import Compiled
from .errors import GraphError, SpecError
from .graph import Graph, Value, recording
from .nest import leaves, map_leaves
from .ops.gradients import filled
from .reverse import gradients
from .scope import segment
from .spec import is_real

Argnums = int | tuple[int, ...]


def grad(function: Callable[..., Any], argnums: Argnums = 0, *, has_aux: bool = False) -> Compiled:
    """The gradient of a function that gives one number, with respect to the positional arguments ``argnums``.

    It has the nesting of the argument, or is a tuple of these for several ``argnums``. With ``has_aux`` the function gives
    a pair, of which the first is differentiated, and the gradient comes with the other: ``(gradient, aux)``.
    Raises GraphError for arguments that are no real floating numbers, and where the function gives anything but one number.
    """
    both = _value_and_grad(function, argnums, has_aux)

    @wraps(function)
    def gradient(*arguments: Any, **keywords: Any) -> Any:
        value, found = both(*arguments, **keywords)
        return (found, value[1]) if has_aux else found

    return Compiled(gradient)


def value_and_grad(function: Callable[..., Any], argnums: Argnums = 0, *, has_aux: bool = False) -> Compiled:
    """As ``grad``, but gives ``(value, gradient)``; with ``has_aux`` the value is the pair that the function gives."""
    return Compiled(wraps(function)(_value_and_grad(function, argnums, has_aux)))


def _value_and_grad(function: Callable[..., Any], argnums: Argnums, has_aux: bool) -> Callable[..., Any]:
    if not callable(function):
        raise SpecError(f"grad takes a function over arrays; found {function!r}.")
    title = getattr(function, "__name__", repr(function))

    def both(*arguments: Any, **keywords: Any) -> Any:
        graph = _graph_of((arguments, keywords), title)
        with recording(graph):
            chosen = _chosen(argnums, len(arguments), title)
            marked = list(arguments)
            for number in chosen:
                marked[number] = _marked(graph, arguments[number], f"argument {number} of {title}")
            value = function(*marked, **keywords)
            loss = _loss(graph, value, has_aux, title)
            sources = [marked[number] for number in chosen]
            found = gradients(loss, sources)
        return value, tuple(found) if isinstance(argnums, tuple) else found[0]

    return both


def _loss(graph: Graph, value: Any, has_aux: bool, title: str) -> Value:
    if has_aux:
        if not isinstance(value, tuple) or len(value) != 2:
            raise GraphError(
                f"with has_aux=True {title} gives a pair, what is differentiated and the rest; found {_kind(value)}."
            )
        value = value[0]
    if not isinstance(value, (Value, np.ndarray, np.generic, int, float)):
        raise GraphError(
            f"grad takes a function that gives one number, {title} gives {_kind(value)}; give (value, rest) and write has_aux=True, or use vjp."
        )
    loss = value if isinstance(value, Value) else graph.constant(value)
    if loss.ndim:
        raise GraphError(
            f"grad takes a function that gives one number, {title} gives {loss.spec!r}; reduce it with sum or mean, or use vjp."
        )
    return loss


def _kind(found: Any) -> str:
    return repr(found.spec) if isinstance(found, Value) else f"a {type(found).__name__}"


def _chosen(argnums: Argnums, count: int, title: str) -> tuple[int, ...]:
    numbers = argnums if isinstance(argnums, tuple) else (argnums,)
    for number in numbers:
        if not isinstance(number, int) or not -count <= number < count:
            raise SpecError(
                f"argnums={argnums!r} names positional arguments of {title}, which was given {count}; count from 0."
            )
    return tuple(number % count for number in numbers)


def _graph_of(nested: Any, title: str) -> Graph:
    """The graph whose values are among the arguments."""
    for leaf in leaves(nested):
        if isinstance(leaf, Value):
            return leaf.graph
    raise SpecError(f"the gradient of {title} was given no array; give the arguments that it depends on.")


def _pass_back(cotangents: Any, outputs: Any, *inputs: Any) -> Any:
    return cotangents


_MARK = make_bypass("argument", 1, _pass_back)
_STOP = make_bypass("stop_gradient", 1, lambda cotangents, outputs, *inputs: (None,))


def _marked(graph: Graph, nested: Any, what: str) -> Any:
    """The arrays of an argument as values of their own, so that what else reads the same array is told apart."""

    def mark(leaf: Any) -> Any:
        if not (isinstance(leaf, (Value, int, float)) or hasattr(leaf, "dtype")):
            raise GraphError(f"{what} holds {leaf!r}, which has no gradient; leave it out of argnums.")
        value = leaf if isinstance(leaf, Value) else graph.constant(leaf)
        if not is_real(value.spec):
            raise GraphError(
                f"{what} holds {value.spec!r}; gradients are taken with respect to real floating numbers. Leave it out of argnums, or cast it first."
            )
        return graph.apply(_MARK, (value,), {})[0]

    return map_leaves(mark, nested)


def vjp(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Callable[[Any], Any]]:
    """``(y, pull)``: what the function gives, and the product of a cotangent with its Jacobian matrix.

    ``pull(cotangent)``, with a cotangent in the nesting of ``y``, gives a tuple with a cotangent for each argument. For
    arrays, ``pull`` computes the function again: what it needs of it is not kept.
    """
    if any(isinstance(leaf, Value) for leaf in leaves(arguments)):
        return _recorded_vjp(function, arguments)

    @wraps(function)
    def pulled(given: tuple[Any, ...], cotangent: Any) -> Any:
        return _recorded_vjp(function, tuple(given))[1](cotangent)

    compiled = Compiled(pulled)
    return Compiled(function)(*arguments), lambda cotangent: compiled(arguments, cotangent)


def _recorded_vjp(
    function: Callable[..., Any], arguments: tuple[Any, ...]
) -> tuple[Any, Callable[[Any], Any]]:
    title = getattr(function, "__name__", repr(function))
    graph = _graph_of(arguments, title)
    with recording(graph):
        marked = tuple(_marked(graph, a, f"argument {n} of {title}") for n, a in enumerate(arguments))
        y = map_leaves(
            lambda leaf: leaf if isinstance(leaf, Value) else graph.constant(leaf), function(*marked)
        )
    return y, lambda cotangent: gradients(y, marked, cotangent)


def jvp(function: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """``(y, tangent)``: what the function gives at ``primals``, and its derivative in the direction of ``tangents``.

    It is the gradient of ``pull`` of ``vjp``, which is linear in its cotangent: forward mode from reverse mode twice.
    """
    if len(primals) != len(tangents):
        raise SpecError(
            f"jvp takes a tangent for each of {len(primals)} primals, {len(tangents)} were given; write jvp(f, (x,), (dx,))."
        )

    @wraps(function)
    def pushed(given: tuple[Any, ...], directions: tuple[Any, ...]) -> tuple[Any, Any]:
        y, pull = _recorded_vjp(function, tuple(given))

        def weight(value: Value) -> Any:
            return value.graph.apply(_MARK, (filled(0, value.shape, value),), {})[0]

        weights = map_leaves(weight, y)
        return y, gradients(pull(weights), weights, directions)

    found: tuple[Any, Any] = Compiled(pushed)(tuple(primals), tuple(tangents))
    return found


def stop_gradient(x: Any) -> Any:
    """``x``, arrays in any nesting, for gradients a constant: nothing flows back through it."""
    return map_leaves(
        lambda leaf: leaf.graph.apply(_STOP, (leaf,), {})[0] if isinstance(leaf, Value) else leaf, x
    )


def custom_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator for functions that bring their own gradient: they give ``(result, pull)``, and calls give the result.

    ``pull(cotangent)``, with a cotangent in the nesting of the result, gives the cotangents of the positional arguments: one, or
    a tuple, in their nesting, and None for those without. Values that the function reads beside its arguments get none.
    Raises GraphError where the function does not give such a pair.
    """
    title = getattr(function, "__name__", repr(function))

    @wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        pair = function(*arguments, **keywords)
        if not isinstance(pair, tuple) or len(pair) != 2 or not callable(pair[1]):
            raise GraphError(
                f"custom_gradient: {title} gives its result and a function from its cotangent to those of the arguments, as a pair; found {_kind(pair)}."
            )
        result, pull = pair
        inputs = [leaf for leaf in leaves(arguments) if isinstance(leaf, Value)]
        if not inputs:
            return result
        graph = inputs[0].graph
        outputs = [leaf if isinstance(leaf, Value) else graph.constant(leaf) for leaf in leaves(result)]
        rule = _custom_rule(pull, result, arguments, len(outputs), title)
        op = make_bypass(f"custom_gradient_of_{title}", len(outputs), rule)
        made = iter(graph.apply(op, (*outputs, *inputs), {}))
        return map_leaves(lambda _: next(made), result)

    return call


def _custom_rule(
    pull: Callable[[Any], Any], result: Any, arguments: tuple[Any, ...], count: int, title: str
) -> Callable[..., Any]:
    """The rule of the op that stands for one call of a function under ``custom_gradient``."""

    def rule(cotangents: tuple[Any, ...], outputs: tuple[Value, ...], *inputs: Value) -> tuple[Any, ...]:
        def complete(cotangent: Any, output: Value) -> Any:
            if cotangent is not None or not is_real(output.spec):
                return cotangent
            return filled(0, output.shape, output)

        pairs = zip(cotangents, outputs, strict=True)
        given = iter([complete(cotangent, output) for cotangent, output in pairs])
        found = pull(map_leaves(lambda _: next(given), result))
        if len(arguments) == 1 and not (isinstance(found, tuple) and len(found) == 1):
            found = (found,)
        entries = _aligned(tuple(arguments), found, title)
        return (*[None] * count, *entries)

    return rule


def _aligned(arguments: Any, found: Any, title: str) -> list[Any]:
    """The cotangents of the arrays among the arguments, in order; None for a whole argument stands for all of its arrays."""
    if found is None:
        return [None for leaf in leaves(arguments) if isinstance(leaf, Value)]
    if not isinstance(arguments, (tuple, list, Mapping)):
        return [found] if isinstance(arguments, Value) else []
    if isinstance(arguments, Mapping):
        alike = isinstance(found, Mapping) and found.keys() == arguments.keys()
        pairs = [(arguments[key], found[key]) for key in arguments] if alike else []
    else:
        alike = isinstance(found, (tuple, list)) and len(found) == len(arguments)
        pairs = list(zip(arguments, found, strict=True)) if alike else []
    if not alike:
        raise GraphError(
            f"custom_gradient: the cotangents that {title} gives have the nesting of its arguments, here {len(arguments)} entries; found {_kind(found)}."
        )
    return [one for argument, part in pairs for one in _aligned(argument, part, title)]


def checkpoint(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, computed again for its gradient: what lies inside is not kept from the forward to the backward pass.

    It saves memory for the time of a second forward pass. Source: Chen et al., arXiv:1604.06174.
    """

    @wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        with segment():
            return function(*arguments, **keywords)

    return call

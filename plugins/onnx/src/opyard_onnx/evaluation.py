"""Values that are known while a graph is built: constants, what is computed of them, and sizes, which may be symbolic.

ONNX computes shapes with ordinary tensor ops (Shape, Gather, Concat, Reshape). The sizes themselves are known from
inference, so these computations are done at import, with opyard's symbolic sizes as elements where there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import opyard as oy

Array = np.ndarray[Any, Any]

LARGEST, LARGEST_SUM = 2**20, 2**24
"""Elements of a result that is still computed at import, and of all of them; shapes need few, and a damaged model may ask for billions."""


MOST_STEPS = 10_000
"""Steps of a loop that is still computed at import."""


class NeedsValue(Exception):
    """What was asked for depends on numbers that are only known at run time, those of ``value``.

    because  why a branch or loop is no node of the graph, where it is one that asks
    """

    def __init__(self, value: oy.Value) -> None:
        super().__init__(value.name)
        self.value = value
        self.because = ""


class Evaluator:
    """Evaluates values of one graph, and of the bodies in it. Results are remembered."""

    def __init__(self) -> None:
        self._found: dict[oy.Value, Array] = {}
        self._elements = 0

    def tell(self, value: oy.Value, array: Array) -> None:
        """Says what a value is."""
        self._found[value] = array

    def knows(self, value: oy.Value) -> bool:
        """Whether it is the same in every run."""
        try:
            self(value)
        except NeedsValue:
            return False
        return True

    def __call__(self, value: oy.Value) -> Array:
        """The array that ``value`` is in every run; of dtype object where sizes in it are symbolic. Raises NeedsValue."""
        constant = value.graph.constants.get(value)
        if constant is not None:
            return constant
        if value in self._found:
            return self._found[value]
        stack = [value]
        while stack:  # not recursive: chains of a thousand nodes are ordinary
            top = stack[-1]
            missing = self._missing(top, value)
            if missing:
                stack += missing
            else:
                stack.pop()
                self._compute(top, value)
        return self._found[value]

    def _missing(self, value: oy.Value, asked: oy.Value) -> list[oy.Value]:
        if value in self._found or value in value.graph.constants:
            return []
        if value.node is None:
            outside = value.graph.outside(value)
            if outside is None:
                raise NeedsValue(asked)
            return self._unknown([outside])
        return [] if value.node.op.name in _OF_SHAPE else self._unknown(value.node.inputs)

    def _unknown(self, values: Iterable[oy.Value | None]) -> list[oy.Value]:
        return [v for v in values if v is not None and v not in self._found and v not in v.graph.constants]

    def _compute(self, value: oy.Value, asked: oy.Value) -> None:
        node = value.node
        if value in self._found or value in value.graph.constants:
            return
        if node is None:
            outside = value.graph.outside(value)
            assert outside is not None  # _missing asked for it
            self._found[value] = self(outside)
            return
        if node.op.name in _OF_SHAPE:
            source = node.inputs[0]
            assert source is not None
            self._found[value] = _OF_SHAPE[node.op.name](source.spec)
            return
        arrays = [None if v is None else v.graph.constants.get(v, self._found.get(v)) for v in node.inputs]
        if any(a is not None and a.dtype == object for a in arrays):
            rule = _SYMBOLIC.get(node.op.name)
            if rule is None:
                raise NeedsValue(asked)
            results: Any = rule(*arrays, **node.call.attrs)
            results = results if node.call.is_tuple else (results,)
        elif _is_long(node.call, arrays) or not self._may_compute(
            sum(int(spec.size) for spec in node.call.outputs if spec.is_concrete)
        ):
            raise NeedsValue(asked)
        else:
            results = node.call.reference(*arrays)
        for output, result in zip(node.outputs, results, strict=True):
            self._found[output] = np.asarray(result)

    def _may_compute(self, elements: int) -> bool:
        self._elements += elements
        return elements <= LARGEST and self._elements <= LARGEST_SUM


def _is_long(call: oy.Call, arrays: list[Any]) -> bool:
    """Whether a call is left to the run: for its results' size, or for its steps, which may be without an end."""
    if sum(int(spec.size) for spec in call.outputs if spec.is_concrete) > LARGEST:
        return True
    has = call.attrs
    if call.op.name == "scan":
        return not isinstance(has["length"], int) or has["length"] > MOST_STEPS
    if call.op.name != "while_loop":
        return False
    state, rest = arrays[: has["state"]], arrays[has["state"] :]
    (more,) = has["first"].reference(*state, *rest)
    limit = has["limit"]
    if limit is not None and not isinstance(limit, int):
        return True
    for _ in range(MOST_STEPS if limit is None else min(limit, MOST_STEPS)):
        if not more:
            return False
        *state, more = has["step"].reference(*state, *rest)
    return limit is None or limit > MOST_STEPS


def _sizes_array(sizes: tuple[Any, ...]) -> Array:
    if all(isinstance(n, int) for n in sizes):
        return np.array(sizes, np.int64)
    found = np.empty(len(sizes), object)
    found[:] = sizes
    return found


def _size_array(spec: oy.TensorSpec) -> Array:
    return _sizes_array((spec.size,)).reshape(())


_OF_SHAPE: dict[str, Callable[[oy.TensorSpec], Array]] = {
    "shape_of": lambda spec: _sizes_array(spec.shape),
    "size_of": _size_array,
}
"""Ops whose results depend on the shape of their input alone."""


def _slice(x: Array, **attributes: Any) -> Any:
    return oy.slice.op.reference(x, **attributes)


_SYMBOLIC: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "floor_divide": lambda a, b: a // b,
    "remainder": lambda a, b: a % b,
    "gather": lambda x, indices, axis: np.take(x, indices.astype(np.int64), axis=axis),
    "concat": lambda *arrays, axis: np.concatenate(arrays, axis=axis),
    "reshape": lambda x, shape: np.reshape(x, shape),
    "expand_dims": lambda x, axis: np.expand_dims(x, axis),
    "squeeze": lambda x, axis: np.squeeze(x, axis=axis),
    "broadcast_to": lambda x, shape: np.broadcast_to(x, shape),
    "slice": _slice,
    "identity": lambda x: x,
    "cast": lambda x, dtype: x if dtype in ("int64", "int32") else _no_sizes(dtype),
}
"""What ops do with arrays of sizes, some of which are symbolic."""


def _no_sizes(dtype: str) -> Any:
    raise oy.errors.SpecError(f"a symbolic size cannot become {dtype} before it is bound; give it a number.")

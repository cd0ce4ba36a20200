"""Operators over axes: reductions, positions, running sums, softmax, sorting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import opyard as oy
from opyard_onnx.limits import require_size
from opyard_onnx.node import OnnxNode
from opyard_onnx.operators.table import Converter, Operator

Reduce = Callable[..., Any]


def reduced(function: Reduce, empty: float | None = None) -> Converter:
    """A reduction, whose axes are an attribute in older sets and an input in newer ones.

    empty  what elements are that nothing is reduced to, for functions that need at least one
    """

    def convert(node: OnnxNode) -> Any:
        x, keep = node.x, bool(node.attribute("keepdims", 1))
        axes = node.integers("axes", 1)
        if not axes:
            if node.attribute("noop_with_empty_axes", 0):
                # the elementwise part of the reduction stays: one element is reduced to one
                return function(oy.expand_dims(x, axis=0), axis=0)
            axes = tuple(range(x.ndim))
        places = {axis % x.ndim for axis in axes} if x.ndim else set()
        if empty is not None and any(x.shape[i] == 0 for i in places):
            shape = tuple(1 if i in places else n for i, n in enumerate(x.shape) if keep or i not in places)
            require_size(math.prod(shape), "the reduction of nothing")
            return node.constant(_least(empty, shape, x.dtype))
        if not x.ndim:
            return oy.squeeze(function(oy.expand_dims(x, axis=0), axis=0, keepdims=True), axis=0)
        return function(x, axis=tuple(sorted(places)), keepdims=keep)

    return convert


def _least(value: float, shape: Any, dtype: np.dtype[Any]) -> Any:
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.full(shape, limits.min if value < 0 else limits.max, dtype)
    if dtype.kind == "b":
        return np.full(shape, value > 0)
    return np.full(shape, value).astype(dtype)


def _of_bool(function: Reduce, boolean: Reduce) -> Reduce:
    return lambda x, **options: (boolean if x.dtype.kind == "b" else function)(x, **options)


def _mean(x: Any, **options: Any) -> Any:
    if x.dtype.kind in "iu":
        return oy.cast(oy.mean(oy.cast(x, dtype="float64"), **options), dtype=x.dtype.name)
    return oy.mean(x, **options)


def _floating(function: Reduce) -> Reduce:
    """Integers are reduced as float64, and rounded towards zero."""

    def reduce(x: Any, **options: Any) -> Any:
        if x.dtype.kind in "iu":
            return oy.cast(function(oy.cast(x, dtype="float64"), **options), dtype=x.dtype.name)
        return function(x, **options)

    return reduce


def position(function: Reduce) -> Converter:
    def convert(node: OnnxNode) -> Any:
        x, axis = node.x, node.attribute("axis", 0)
        keep = bool(node.attribute("keepdims", 1))
        if not node.attribute("select_last_index", 0):
            return function(x, axis=axis, keepdims=keep)
        found = function(oy.flip(x, axis=axis), axis=axis, keepdims=keep)
        return oy.subtract(x.shape[axis] - 1, found)

    return convert


def cumulative_sum(node: OnnxNode) -> Any:
    options = {name: bool(node.attribute(name, 0)) for name in ("exclusive", "reverse")}
    return oy.cumulative_sum(node.x, axis=int(node.number(1)), **options)


def cumulative_product(node: OnnxNode) -> Any:
    """By doubling: log2(n) products of the array with itself, moved."""
    x, axis = node.x, int(node.number(1)) % node.x.ndim
    exclusive, reverse = bool(node.attribute("exclusive", 0)), bool(node.attribute("reverse", 0))
    size = int(x.shape[axis])

    def moved(values: Any, by: int) -> Any:
        by = min(by, size)
        pads = tuple(((0, by) if reverse else (by, 0)) if i == axis else (0, 0) for i in range(x.ndim))
        start = by if reverse else 0
        wide = oy.pad(values, pads=pads, value=1)
        return oy.slice(wide, starts=(start,), stops=(start + size,), axes=(axis,))

    found, step = moved(x, 1) if exclusive else x, 1
    while step < size:
        found, step = oy.multiply(found, moved(found, step)), 2 * step
    return oy.identity(found)


def softmax(function: Reduce) -> Converter:
    return lambda node: function(node.x, axis=node.attribute("axis", -1))


def flattened(function: Reduce) -> Converter:
    """Before opset 13: over all axes from ``axis`` on together."""

    def convert(node: OnnxNode) -> Any:
        x, axis = node.x, node.attribute("axis", 1)
        if x.ndim == 0 or axis % x.ndim == x.ndim - 1:
            return function(x, axis=-1)
        return oy.reshape(function(oy.flatten(x, axis=axis), axis=-1), shape=x.shape)

    return convert


def _hardmax(x: Any, axis: int) -> Any:
    chosen = oy.argmax(x, axis=axis)
    return oy.one_hot(chosen, depth=x.shape[axis], axis=axis, dtype=x.dtype.name)


def top_k(node: OnnxNode) -> Any:
    k = node.attribute("k", None) if node.version < 10 else int(node.number(1))
    options = {name: bool(node.attribute(name, 1)) for name in ("largest", "sorted")}
    return oy.top_k(node.x, k=k, axis=node.attribute("axis", -1), **options)


def lp_normalization(node: OnnxNode) -> Any:
    return oy.lp_normalization(node.x, axis=node.attribute("axis", -1), p=node.attribute("p", 2))


def _log_sum(x: Any, **options: Any) -> Any:
    return oy.log(oy.sum(x, **options))


def _l1(x: Any, **options: Any) -> Any:
    return oy.sum(oy.abs(x), **options)


def _l2(x: Any, **options: Any) -> Any:
    return oy.sqrt(oy.sum(oy.square(x), **options))


def _sum_square(x: Any, **options: Any) -> Any:
    return oy.sum(oy.square(x), **options)


REDUCTIONS: dict[str, tuple[Reduce, float | None]] = {
    "ReduceL1": (_l1, None),
    "ReduceL2": (_floating(_l2), None),
    "ReduceLogSum": (_floating(_log_sum), None),
    "ReduceLogSumExp": (_floating(oy.logsumexp), -np.inf),
    "ReduceMax": (_of_bool(oy.max, oy.any), -np.inf),
    "ReduceMean": (_mean, None),
    "ReduceMin": (_of_bool(oy.min, oy.all), np.inf),
    "ReduceProd": (oy.prod, None),
    "ReduceSum": (oy.sum, None),
    "ReduceSumSquare": (_sum_square, None),
}

OPERATORS = (
    *(Operator(name, 1, reduced(function, empty)) for name, (function, empty) in REDUCTIONS.items()),
    Operator("ArgMax", 1, position(oy.argmax)),
    Operator("ArgMin", 1, position(oy.argmin)),
    Operator("CumProd", 26, cumulative_product),
    Operator("CumSum", 11, cumulative_sum),
    Operator("Hardmax", 1, flattened(_hardmax)),
    Operator("Hardmax", 13, softmax(_hardmax)),
    Operator("LogSoftmax", 1, flattened(oy.log_softmax)),
    Operator("LogSoftmax", 13, softmax(oy.log_softmax)),
    Operator("LpNormalization", 1, lp_normalization),
    Operator("Softmax", 1, flattened(oy.softmax)),
    Operator("Softmax", 13, softmax(oy.softmax)),
    Operator("TopK", 1, top_k),
)

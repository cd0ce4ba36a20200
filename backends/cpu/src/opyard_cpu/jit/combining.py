"""Reductions of vectors: what they begin with, how two partial results become one, and how lanes become one number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from opyard.graph import Node

from .code import ELEMENTS, Code, Value, is_float


def identity(node: Node) -> Value:
    """What a reduction begins with."""
    dtype = node.outputs[0].dtype
    if node.op.name == "sum":
        return Value("", dtype.name, 1, 0)
    low = node.op.name == "max"
    if is_float(dtype.name):
        return Value("", dtype.name, 1, -np.inf if low else np.inf)
    if dtype.kind == "b":
        return Value("", dtype.name, 1, not low)
    limits = np.iinfo(dtype)
    return Value("", dtype.name, 1, int(limits.min if low else limits.max))


_COMBINE: dict[str, Callable[[Code, Value, Value], Value]] = {
    "sum": lambda code, a, b: code.add(a, b),
    "max": lambda code, a, b: code.extremum("gt", a, b),
    "min": lambda code, a, b: code.extremum("lt", a, b),
}


UFUNCS = {"sum": np.add, "max": np.maximum, "min": np.minimum}
"""What combines partial results in NumPy."""


def combine(code: Code, node: Node, a: Value, b: Value) -> Value:
    """Two partial results of a reduction as one."""
    return _COMBINE[node.op.name](code, a, b)


def horizontal(code: Code, node: Node, value: Value) -> Value:
    """One number of all lanes: one half is combined with the other. The code is between two passes, of one lane."""
    lanes, dtype = value.lanes, value.dtype
    while lanes > 1:
        kind = code.type(dtype, lanes)
        lanes //= 2
        halves = []
        for first in (0, lanes):
            picked = ", ".join(f"i32 {number + first}" for number in range(lanes))
            half = code.let(f"shufflevector {kind} {value.name}, {kind} poison, <{lanes} x i32> <{picked}>")
            if lanes == 1:
                half = code.let(f"extractelement <1 x {ELEMENTS[dtype]}> {half}, i64 0")
            halves.append(Value(half, dtype, lanes))
        code.lanes = lanes
        value = combine(code, node, *halves)
    code.lanes = 1
    return value

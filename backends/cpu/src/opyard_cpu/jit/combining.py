"""Reductions of vectors: what they begin with, how a vector is added, and how partial results and lanes become one number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opyard.graph import Node

from .code import ELEMENTS, Code, Value, is_float

UFUNCS = {
    "sum": np.add,
    "prod": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "any": np.logical_or,
    "all": np.logical_and,
}
"""What combines partial results in NumPy."""

_COMBINE: dict[str, Callable[[Code, Value, Value], Value]] = {
    "sum": lambda code, a, b: code.add(a, b),
    "prod": lambda code, a, b: code.multiply(a, b),
    "any": lambda code, a, b: code.binary("or", a, b),
    "all": lambda code, a, b: code.binary("and", a, b),
    "max": lambda code, a, b: code.extremum("gt", a, b),
    "min": lambda code, a, b: code.extremum("lt", a, b),
}


_NEUTRAL = {"sum": 0, "prod": 1, "any": False, "all": True}


def identity(node: Node) -> Value:
    """What a reduction begins with."""
    dtype = node.outputs[0].dtype
    if node.op.name in _NEUTRAL:
        return Value("", dtype.name, 1, _NEUTRAL[node.op.name])
    low = node.op.name == "max"
    if is_float(dtype.name):
        return Value("", dtype.name, 1, -np.inf if low else np.inf)
    limits = np.iinfo(dtype)
    return Value("", dtype.name, 1, int(limits.min if low else limits.max))


def combine(code: Code, node: Node, a: Value, b: Value) -> Value:
    """A partial result of a reduction, and another one or a vector, as one."""
    return _COMBINE[node.op.name](code, a, code.convert(b, a.dtype))


@dataclass(frozen=True, slots=True)
class Accumulator:
    """A vector that is carried through a loop: partial results of a reduction, or, for ``is_nan``, whether there was a NaN.

    The latter is carried apart from greatest and least numbers, for asking each time would make every step wait for the last.
    """

    node: Node
    is_nan: bool = False

    @property
    def dtype(self) -> str:
        """The dtype of its lanes."""
        return "bool" if self.is_nan else self.node.outputs[0].dtype.name

    @property
    def start(self) -> Value:
        """What it begins with."""
        return Value("", "bool", 1, False) if self.is_nan else identity(self.node)

    def step(self, code: Code, total: Value, value: Value, mask: Value | None) -> Value:
        """With one more vector, or with those lanes of it that a mask has."""
        if self.is_nan:
            found = code.is_nan(value)
            return code.binary("or", total, found if mask is None else code.binary("and", mask, found))
        value = code.convert(value, self.dtype)  # only for truth values it is another one
        if mask is not None:
            value = code.select(mask, value, self.start)
        return self.merge(code, value, total)

    def merge(self, code: Code, a: Value, b: Value) -> Value:
        """Two of them as one."""
        if self.is_nan:
            return code.binary("or", a, b)
        if not _finds_nan(self.node):
            return combine(code, self.node, a, b)
        relation = "gt" if self.node.op.name == "max" else "lt"
        return code.select(code.compare(relation, a, b), a, b)


def accumulators_of(node: Node) -> tuple[Accumulator, ...]:
    """What a reduction carries."""
    return (Accumulator(node), Accumulator(node, True)) if _finds_nan(node) else (Accumulator(node),)


def _finds_nan(node: Node) -> bool:
    """Whether it is of greatest or least numbers, among which NaN is carried apart."""
    return node.op.name in ("max", "min") and is_float(node.outputs[0].dtype.name)


def finish(code: Code, totals: dict[Accumulator, Value], node: Node) -> Value:
    """The result of a reduction. The code is between two passes, of one lane."""
    value, *nan = (_horizontal(code, one, totals[one]) for one in accumulators_of(node))
    return code.select(nan[0], code.constant(math.nan, value.dtype), value) if nan else value


def _horizontal(code: Code, accumulator: Accumulator, value: Value) -> Value:
    """One number of all lanes: one half is combined with the other."""
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
        value = accumulator.merge(code, *halves)
    code.lanes = 1
    return value

"""Elementwise logic of truth values and of bits. Source: Python array API standard 2024.12."""

from __future__ import annotations

import numpy as np

from ..cases import Case, Draw, case
from ..infer import elementwise
from ..opfunction import op
from .arithmetic import Array

__all__ = [
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
]

_SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]]
_SHAPES = [((3, 4), (3, 4)), ((2, 3, 4), (3, 1)), ((5,), ()), ((), ()), ((0, 3), (3,)), ((257, 129), (129,))]


def _truth_cases() -> list[Case]:
    return [case(Draw(left, "bool"), Draw(right, "bool")) for left, right in _SHAPES]


def _bit_cases() -> list[Case]:
    integers = [("int32", -(2**31), 2**31 - 1), ("int64", -(2**62), 2**62), ("uint8", 0, 255)]
    drawn = [case(Draw((5, 3), name, low, high), Draw((3,), name, low, high)) for name, low, high in integers]
    return [*_truth_cases(), *drawn]


def _shift_cases() -> list[Case]:
    values = [
        ("int32", -(2**31), 2**31 - 1),
        ("int64", -(2**62), 2**62),
        ("uint8", 0, 255),
        ("uint32", 0, 2**32 - 1),
    ]
    drawn = [case(Draw((5, 3), name, low, high), Draw((3,), name, 0, 7)) for name, low, high in values]
    shaped = [case(Draw(left, "int32", -99, 99), Draw(right, "int32", 0, 24)) for left, right in _SHAPES]
    return [*drawn, *shaped]


@op("logical_and", scalar="x1 and x2", commutative=True, infer=elementwise("bool"), cases=_truth_cases)
def logical_and(x1: Array, x2: Array) -> Array:
    """Whether both are true, elementwise. ``bool[...], bool[...] -> bool[...]``, broadcast."""
    return np.logical_and(x1, x2)


@op("logical_or", scalar="x1 or x2", commutative=True, infer=elementwise("bool"), cases=_truth_cases)
def logical_or(x1: Array, x2: Array) -> Array:
    """Whether one or both are true, elementwise. ``bool[...], bool[...] -> bool[...]``, broadcast."""
    return np.logical_or(x1, x2)


@op("logical_xor", scalar="x1 != x2", commutative=True, infer=elementwise("bool"), cases=_truth_cases)
def logical_xor(x1: Array, x2: Array) -> Array:
    """Whether exactly one is true, elementwise. ``bool[...], bool[...] -> bool[...]``, broadcast."""
    return np.logical_xor(x1, x2)


@op(
    "logical_not",
    scalar="not x",
    infer=elementwise("bool"),
    cases=lambda: [case(Draw(shape, "bool")) for shape, _ in _SHAPES],
)
def logical_not(x: Array) -> Array:
    """The opposite truth value, elementwise. ``bool[...] -> bool[...]``."""
    return np.logical_not(x)


@op("bitwise_and", scalar="x1 & x2", commutative=True, infer=elementwise("integer or bool"), cases=_bit_cases)
def bitwise_and(x1: Array, x2: Array) -> Array:
    """The bits that are set in both numbers, elementwise. ``[...], [...] -> [...]``, broadcast."""
    return np.bitwise_and(x1, x2)


@op("bitwise_or", scalar="x1 | x2", commutative=True, infer=elementwise("integer or bool"), cases=_bit_cases)
def bitwise_or(x1: Array, x2: Array) -> Array:
    """The bits that are set in one or both numbers, elementwise. ``[...], [...] -> [...]``, broadcast."""
    return np.bitwise_or(x1, x2)


@op("bitwise_xor", scalar="x1 ^ x2", commutative=True, infer=elementwise("integer or bool"), cases=_bit_cases)
def bitwise_xor(x1: Array, x2: Array) -> Array:
    """The bits that are set in exactly one number, elementwise. ``[...], [...] -> [...]``, broadcast."""
    return np.bitwise_xor(x1, x2)


def _invert_cases() -> list[Case]:
    return [Case(c.inputs[:1]) for c in _bit_cases()]


@op("bitwise_invert", scalar="~x", infer=elementwise("integer or bool"), cases=_invert_cases)
def bitwise_invert(x: Array) -> Array:
    """All bits flipped, elementwise; logical_not for bool. ``[...] -> [...]``."""
    return np.bitwise_invert(x)


@op("bitwise_left_shift", scalar="x1 << x2", infer=elementwise("integer"), cases=_shift_cases)
def bitwise_left_shift(x1: Array, x2: Array) -> Array:
    """The bits of x1 moved up by x2 places, elementwise; what leaves the dtype is lost. ``[...], [...] -> [...]``, broadcast.

    x2 lies between 0 and the number of bits less one; the result for others is unspecified.
    """
    return np.bitwise_left_shift(x1, x2)


@op("bitwise_right_shift", scalar="x1 >> x2", infer=elementwise("integer"), cases=_shift_cases)
def bitwise_right_shift(x1: Array, x2: Array) -> Array:
    """The bits of x1 moved down by x2 places, keeping the sign, elementwise. ``[...], [...] -> [...]``, broadcast.

    x2 lies between 0 and the number of bits less one; the result for others is unspecified.
    """
    return np.bitwise_right_shift(x1, x2)

"""Elementwise comparison. Source: Python array API standard 2024.12.

The result is bool. Numbers of two dtypes are compared in their common dtype. NaN is unequal to everything, itself included.
"""

from __future__ import annotations

import numpy as np

from ..cases import Case, Draw, case
from ..infer import elementwise
from ..opfunction import op
from ._cases import binary_cases
from .arithmetic import Array

__all__ = ["equal", "greater", "greater_equal", "less", "less_equal", "not_equal"]


def _ordered_cases() -> list[Case]:
    return [*binary_cases("int32", "uint8"), case(Draw((8, 9), "int64", 0, 2), Draw((8, 9), "int64", 0, 2))]


def _equality_cases() -> list[Case]:
    return [
        *_ordered_cases(),
        *(case(Draw((6, 7), dtype, 0, 1), Draw((7,), dtype, 0, 1)) for dtype in ("bool", "complex64")),
    ]


@op("equal", scalar="x1 == x2", commutative=True, infer=elementwise("any", "bool"), cases=_equality_cases)
def equal(x1: Array, x2: Array) -> Array:
    """Whether x1 is equal to x2, elementwise. ``[...], [...] -> bool[...]``, broadcast."""
    return np.equal(x1, x2)


@op("not_equal", scalar="x1 != x2", commutative=True, infer=elementwise("any", "bool"), cases=_equality_cases)
def not_equal(x1: Array, x2: Array) -> Array:
    """Whether x1 differs from x2, elementwise. ``[...], [...] -> bool[...]``, broadcast."""
    return np.not_equal(x1, x2)


@op("less", scalar="x1 < x2", infer=elementwise("real", "bool"), cases=_ordered_cases)
def less(x1: Array, x2: Array) -> Array:
    """Whether x1 is less than x2, elementwise. ``[...], [...] -> bool[...]``, broadcast."""
    return np.less(x1, x2)


@op("less_equal", scalar="x1 <= x2", infer=elementwise("real", "bool"), cases=_ordered_cases)
def less_equal(x1: Array, x2: Array) -> Array:
    """Whether x1 is less than or equal to x2, elementwise. ``[...], [...] -> bool[...]``, broadcast."""
    return np.less_equal(x1, x2)


@op("greater", scalar="x1 > x2", infer=elementwise("real", "bool"), cases=_ordered_cases)
def greater(x1: Array, x2: Array) -> Array:
    """Whether x1 is greater than x2, elementwise. ``[...], [...] -> bool[...]``, broadcast."""
    return np.greater(x1, x2)


@op("greater_equal", scalar="x1 >= x2", infer=elementwise("real", "bool"), cases=_ordered_cases)
def greater_equal(x1: Array, x2: Array) -> Array:
    """Whether x1 is greater than or equal to x2, elementwise. ``[...], [...] -> bool[...]``, broadcast."""
    return np.greater_equal(x1, x2)

"""Elementwise arithmetic. Source of names and meaning: Python array API standard 2024.12 unless stated otherwise.

Integers wrap around. Tolerances are the error bounds of OpenCL C 3.0, section 7.4, plus the rounding of the reference.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cases import Case, Draw, Tolerance, case
from ..infer import elementwise, require_kind, same_as_first
from ..opfunction import op
from ..spec import TensorSpec
from ._cases import binary_cases, numeric_cases, unary_cases
from ._reference import precise

__all__ = [
    "abs",
    "add",
    "divide",
    "floor_divide",
    "fmod",
    "identity",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "nextafter",
    "positive",
    "reciprocal",
    "remainder",
    "subtract",
]

Array = Any
"""Any backend's array, or a graph's Value."""

EXACT = Tolerance(0)
"""For ops that choose numbers, and so have nothing to round; a zero may stand for one of the other sign."""

BITWISE = Tolerance(0, signed_zeros=True)
"""For ops that move numbers or change their signs: zeros keep theirs."""


def constant_like(value: float, x: Array) -> np.ndarray[Any, Any]:
    """``value`` as a 0-d array in the dtype of ``x``, for decompositions. ``[]``."""
    return np.asarray(value).astype(x.dtype)


def real_part(x: TensorSpec) -> TensorSpec:
    """The spec of one real number for each number of ``x``: complex64 becomes float32. Raises SpecError for bool."""
    require_kind(x, "numeric")
    return x.with_dtype(np.finfo(x.dtype).dtype) if x.dtype.kind == "c" else x


def _identity_cases() -> list[Case]:
    return [
        case((3, 4)),
        case(()),
        case((0, 3)),
        case(Draw((7,), "int32", -9, 9)),
        case(Draw((5,), "bfloat16")),
        case(Draw((2, 3), "bool")),
    ]


@op("identity", infer=same_as_first(), cases=_identity_cases, tolerance=BITWISE)
def identity(x: Array) -> Array:
    """The same values, of any dtype. ``[...] -> [...]``. Its kernels may change the layout. Source: ONNX Identity."""
    return x


@op(
    "add",
    scalar="x1 + x2",
    commutative=True,
    infer=elementwise("numeric"),
    cases=numeric_cases,
    tolerance=Tolerance(1),
)
def add(x1: Array, x2: Array) -> Array:
    """Sum, elementwise. ``[...], [...] -> [...]``, broadcast."""
    return np.add(x1, x2)


@op("subtract", scalar="x1 - x2", infer=elementwise("numeric"), cases=numeric_cases, tolerance=Tolerance(1))
def subtract(x1: Array, x2: Array) -> Array:
    """Difference, elementwise. ``[...], [...] -> [...]``, broadcast."""
    return np.subtract(x1, x2)


@op(
    "multiply",
    scalar="x1 * x2",
    commutative=True,
    infer=elementwise("numeric"),
    cases=numeric_cases,
    tolerance=Tolerance(2),
)
def multiply(x1: Array, x2: Array) -> Array:
    """Product, elementwise. ``[...], [...] -> [...]``, broadcast."""
    return np.multiply(x1, x2)


@op(
    "divide",
    scalar="x1 / x2",
    cases=lambda: binary_cases("complex64", second=(0.25, 4.0)),
    tolerance=Tolerance(4),
)
def divide(x1: Array, x2: Array) -> Array:
    """Quotient of floating numbers, elementwise. ``[...], [...] -> [...]``, broadcast. See floor_divide for integers."""
    return np.divide(x1, x2)


def _division_cases() -> list[Case]:
    """Divisors of both signs that are not zero: dividing an integer by zero means nothing."""
    return [
        *binary_cases("int32", "uint8", first=(-9.0, 9.0), second=(0.25, 4.0)),
        case(Draw((6, 5), "float32", -9, 9), Draw((6, 5), "float32", -4, -0.25)),
        case(Draw((6, 5), "int32", -9, 9), Draw((6, 5), "int32", -4, -1)),
    ]


@op(
    "floor_divide",
    scalar="x1 // x2",
    infer=elementwise("real"),
    cases=_division_cases,
    tolerance=Tolerance(1),
)
def floor_divide(x1: Array, x2: Array) -> Array:
    """Quotient rounded towards minus infinity, elementwise. ``[...], [...] -> [...]``, broadcast.

    It is the floor of the exact quotient, as in Python: ``1.0 // 0.1`` is 9. The result of dividing an integer by zero
    is unspecified.
    """
    return np.floor_divide(precise(x1), precise(x2))


@op("remainder", scalar="x1 % x2", infer=elementwise("real"), cases=_division_cases, tolerance=Tolerance(1))
def remainder(x1: Array, x2: Array) -> Array:
    """Remainder of floor_divide, with the sign of the divisor, elementwise. ``[...], [...] -> [...]``, broadcast.

    The result of dividing an integer by zero is unspecified.
    """
    return np.remainder(precise(x1), precise(x2))


@op("fmod", scalar="fmod(x1, x2)", infer=elementwise("real"), cases=_division_cases, tolerance=Tolerance(1))
def fmod(x1: Array, x2: Array) -> Array:
    """Remainder of the quotient rounded towards zero, with the sign of the dividend. ``[...], [...] -> [...]``, broadcast.

    The result of dividing an integer by zero is unspecified. Source: C11 7.12.10.1; ONNX Mod with fmod=1.
    """
    return np.fmod(precise(x1), precise(x2))


@op(
    "negative",
    scalar="-x",
    infer=elementwise("numeric"),
    cases=lambda: unary_cases(-2, 2, "int32", "complex64"),
    tolerance=BITWISE,
)
def negative(x: Array) -> Array:
    """The number with the opposite sign, elementwise. ``[...] -> [...]``."""
    return np.negative(x)


@op(
    "positive",
    scalar="+x",
    infer=elementwise("numeric"),
    cases=lambda: unary_cases(-2, 2, "int32", "complex64"),
    tolerance=BITWISE,
)
def positive(x: Array) -> Array:
    """The number itself, elementwise. ``[...] -> [...]``."""
    return np.positive(x)


@op(
    "abs",
    scalar="abs(x)",
    infer=real_part,
    cases=lambda: unary_cases(-2, 2, "int32", "uint8", "complex64"),
    tolerance=Tolerance(4, signed_zeros=True),
)
def abs(x: Array) -> Array:
    """Absolute value, elementwise; real for complex numbers. ``[...] -> [...]``. The least int32 stays as it is."""
    return np.abs(x)


@op("reciprocal", scalar="1 / x", cases=lambda: unary_cases(0.25, 4, "complex64"), tolerance=Tolerance(4))
def reciprocal(x: Array) -> Array:
    """One divided by the number, elementwise. ``[...] -> [...]``. Source: ONNX Reciprocal."""
    return np.divide(1, precise(x))


@op(
    "maximum",
    scalar="max(x1, x2)",
    commutative=True,
    infer=elementwise("real"),
    cases=lambda: binary_cases("int32", "uint8"),
    tolerance=EXACT,
)
def maximum(x1: Array, x2: Array) -> Array:
    """The larger of two numbers, elementwise; NaN if one of them is NaN. ``[...], [...] -> [...]``, broadcast."""
    return np.maximum(x1, x2)


@op(
    "minimum",
    scalar="min(x1, x2)",
    commutative=True,
    infer=elementwise("real"),
    cases=lambda: binary_cases("int32", "uint8"),
    tolerance=EXACT,
)
def minimum(x1: Array, x2: Array) -> Array:
    """The smaller of two numbers, elementwise; NaN if one of them is NaN. ``[...], [...] -> [...]``, broadcast."""
    return np.minimum(x1, x2)


# No scalar expression: the neighbour depends on the dtype, and code generators compute narrow floats in float32.
@op("nextafter", infer=elementwise("real floating"), cases=binary_cases, tolerance=EXACT)
def nextafter(x1: Array, x2: Array) -> Array:
    """The next representable number from x1 towards x2, elementwise. ``[...], [...] -> [...]``, broadcast."""
    return np.nextafter(x1, x2)

"""Elementwise powers, roots, exponentials and logarithms, and the error function.

Source: Python array API standard 2024.12 unless stated otherwise. References compute in float64. Tolerances are the error
bounds of OpenCL C 3.0, section 7.4, plus the rounding of the reference.
"""

from __future__ import annotations

import numpy as np

from ..cases import Case, Draw, Tolerance, case
from ..infer import elementwise
from ..opfunction import op
from ..scalar import erf as error_function
from ._cases import binary_cases, unary_cases
from ._reference import precise
from .arithmetic import Array

__all__ = [
    "cbrt",
    "erf",
    "exp",
    "exp2",
    "expm1",
    "hypot",
    "log",
    "log1p",
    "log2",
    "log10",
    "logaddexp",
    "pow",
    "rsqrt",
    "sqrt",
    "square",
]


def _positive_cases() -> list[Case]:
    return unary_cases(0.1, 9, "complex64")


@op("exp", scalar="exp(x)", cases=lambda: unary_cases(-6, 6, "complex64"), tolerance=Tolerance(4))
def exp(x: Array) -> Array:
    """e to the power of x, elementwise. ``[...] -> [...]``."""
    return np.exp(precise(x))


@op(
    "exp2",
    scalar="exp2(x)",
    infer=elementwise("real floating"),
    cases=lambda: unary_cases(-6, 6),
    tolerance=Tolerance(4),
)
def exp2(x: Array) -> Array:
    """2 to the power of x, elementwise. ``[...] -> [...]``. Source: C11 7.12.6.2."""
    return np.exp2(precise(x))


@op("expm1", scalar="expm1(x)", infer=elementwise("real floating"), cases=unary_cases, tolerance=Tolerance(4))
def expm1(x: Array) -> Array:
    """e to the power of x, less 1, precise near zero, elementwise. ``[...] -> [...]``."""
    return np.expm1(precise(x))


@op("log", scalar="log(x)", cases=_positive_cases, tolerance=Tolerance(4))
def log(x: Array) -> Array:
    """Natural logarithm, elementwise: NaN below zero, -inf at zero. ``[...] -> [...]``."""
    return np.log(precise(x))


@op(
    "log1p",
    scalar="log1p(x)",
    infer=elementwise("real floating"),
    cases=lambda: unary_cases(-0.9, 4),
    tolerance=Tolerance(4),
)
def log1p(x: Array) -> Array:
    """Natural logarithm of 1 + x, precise near zero, elementwise. ``[...] -> [...]``."""
    return np.log1p(precise(x))


@op("log2", scalar="log2(x)", cases=_positive_cases, tolerance=Tolerance(4))
def log2(x: Array) -> Array:
    """Logarithm to base 2, elementwise. ``[...] -> [...]``."""
    return np.log2(precise(x))


@op("log10", scalar="log10(x)", cases=_positive_cases, tolerance=Tolerance(4))
def log10(x: Array) -> Array:
    """Logarithm to base 10, elementwise. ``[...] -> [...]``."""
    return np.log10(precise(x))


@op(
    "logaddexp",
    scalar="logaddexp(x1, x2)",
    commutative=True,
    infer=elementwise("real floating"),
    cases=binary_cases,
    tolerance=Tolerance(4, scaled=True),
)
def logaddexp(x1: Array, x2: Array) -> Array:
    """``log(exp(x1) + exp(x2))`` without overflow, elementwise. ``[...], [...] -> [...]``, broadcast."""
    return np.logaddexp(precise(x1), precise(x2))


@op("sqrt", scalar="sqrt(x)", cases=_positive_cases, tolerance=Tolerance(4))
def sqrt(x: Array) -> Array:
    """Square root, elementwise; NaN below zero. ``[...] -> [...]``."""
    return np.sqrt(precise(x))


@op("rsqrt", scalar="1 / sqrt(x)", cases=_positive_cases, tolerance=Tolerance(6))
def rsqrt(x: Array) -> Array:
    """One divided by the square root, elementwise: inf at 0, -inf at -0. ``[...] -> [...]``. Source: IEEE 754-2019, rSqrt."""
    return 1 / np.sqrt(precise(x))


@op(
    "cbrt",
    scalar="cbrt(x)",
    infer=elementwise("real floating"),
    cases=lambda: unary_cases(-9, 9),
    tolerance=Tolerance(4),
)
def cbrt(x: Array) -> Array:
    """Cube root, elementwise; negative for negative numbers. ``[...] -> [...]``. Source: C11 7.12.7.1."""
    return np.cbrt(precise(x))


@op(
    "square",
    scalar="x * x",
    infer=elementwise("numeric"),
    cases=lambda: unary_cases(-2, 2, "int32", "uint8", "complex64"),
    tolerance=Tolerance(2),
)
def square(x: Array) -> Array:
    """The number multiplied with itself, elementwise; integers wrap around. ``[...] -> [...]``."""
    return np.square(x)


def _pow_cases() -> list[Case]:
    return [
        *binary_cases("complex64", first=(0.1, 4.0), second=(-3.0, 3.0)),
        case(Draw((4, 5), "int32", -9, 9), Draw((5,), "int32", 0, 4)),
        case(Draw((9,), "uint8", 0, 9), Draw((9,), "uint8", 0, 2)),
        case(Draw((6,), "float64", -3, 3), Draw((6,), "int32", -4, 4)),
    ]


@op("pow", scalar="x1 ** x2", infer=elementwise("numeric"), cases=_pow_cases, tolerance=Tolerance(20))
def pow(x1: Array, x2: Array) -> Array:
    """x1 to the power of x2, elementwise. ``[...], [...] -> [...]``, broadcast.

    Integers wrap around; an integer has no negative integer power, there the reference raises ValueError: cast it to a
    floating dtype first.
    """
    x1, x2 = np.asarray(x1), np.asarray(x2)
    if x1.dtype.kind in "iu" and x2.dtype.kind in "iu":
        return np.power(x1, x2)
    return np.power(precise(x1), precise(x2))


@op(
    "hypot",
    scalar="hypot(x1, x2)",
    commutative=True,
    infer=elementwise("real floating"),
    cases=binary_cases,
    tolerance=Tolerance(5),
)
def hypot(x1: Array, x2: Array) -> Array:
    """``sqrt(x1**2 + x2**2)`` without overflow, elementwise; inf if one is infinite. ``[...], [...] -> [...]``, broadcast."""
    return np.hypot(precise(x1), precise(x2))


@op(
    "erf",
    scalar="erf(x)",
    infer=elementwise("real floating"),
    cases=lambda: unary_cases(-4, 4),
    tolerance=Tolerance(17),
)
def erf(x: Array) -> Array:
    """Error function, 2/sqrt(pi) times the integral of exp(-t**2) from 0 to x. ``[...] -> [...]``. Source: ONNX Erf."""
    return error_function(precise(x))

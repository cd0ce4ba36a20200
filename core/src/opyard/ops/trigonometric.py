"""Trigonometric and hyperbolic functions and their inverses, elementwise; angles are in radians.

Source: Python array API standard 2024.12. References compute in float64. Tolerances are the error bounds of OpenCL C 3.0,
section 7.4, plus the rounding of the reference.
"""

from __future__ import annotations

import numpy as np

from ..cases import Case, Tolerance
from ..infer import elementwise
from ..opfunction import op
from ._cases import binary_cases, unary_cases
from ._reference import precise
from .arithmetic import Array

__all__ = [
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "cos",
    "cosh",
    "sin",
    "sinh",
    "tan",
    "tanh",
]


def _cases() -> list[Case]:
    return unary_cases(-2, 2, "complex64")


def _angle_cases() -> list[Case]:
    return unary_cases(-9, 9, "complex64")


def _open_interval_cases() -> list[Case]:
    return unary_cases(-0.9, 0.9, "complex64")


@op("sin", scalar="sin(x)", cases=_angle_cases, tolerance=Tolerance(5))
def sin(x: Array) -> Array:
    """Sine, elementwise. ``[...] -> [...]``."""
    return np.sin(precise(x))


@op("cos", scalar="cos(x)", cases=_angle_cases, tolerance=Tolerance(5))
def cos(x: Array) -> Array:
    """Cosine, elementwise. ``[...] -> [...]``."""
    return np.cos(precise(x))


@op("tan", scalar="tan(x)", cases=_angle_cases, tolerance=Tolerance(6))
def tan(x: Array) -> Array:
    """Tangent, elementwise. ``[...] -> [...]``."""
    return np.tan(precise(x))


@op("asin", scalar="asin(x)", cases=_open_interval_cases, tolerance=Tolerance(5))
def asin(x: Array) -> Array:
    """Inverse sine in [-pi/2, pi/2], elementwise; NaN outside [-1, 1]. ``[...] -> [...]``."""
    return np.arcsin(precise(x))


@op("acos", scalar="acos(x)", cases=_open_interval_cases, tolerance=Tolerance(5))
def acos(x: Array) -> Array:
    """Inverse cosine in [0, pi], elementwise; NaN outside [-1, 1]. ``[...] -> [...]``."""
    return np.arccos(precise(x))


@op("atan", scalar="atan(x)", cases=_cases, tolerance=Tolerance(6))
def atan(x: Array) -> Array:
    """Inverse tangent in [-pi/2, pi/2], elementwise. ``[...] -> [...]``."""
    return np.arctan(precise(x))


@op(
    "atan2",
    scalar="atan2(x1, x2)",
    infer=elementwise("real floating"),
    cases=binary_cases,
    tolerance=Tolerance(7),
)
def atan2(x1: Array, x2: Array) -> Array:
    """Angle in [-pi, pi] of the point with ordinate x1 and abscissa x2, elementwise. ``[...], [...] -> [...]``, broadcast."""
    return np.arctan2(precise(x1), precise(x2))


@op("sinh", scalar="sinh(x)", cases=_cases, tolerance=Tolerance(5))
def sinh(x: Array) -> Array:
    """Hyperbolic sine, elementwise. ``[...] -> [...]``."""
    return np.sinh(precise(x))


@op("cosh", scalar="cosh(x)", cases=_cases, tolerance=Tolerance(5))
def cosh(x: Array) -> Array:
    """Hyperbolic cosine, elementwise. ``[...] -> [...]``."""
    return np.cosh(precise(x))


@op("tanh", scalar="tanh(x)", cases=_cases, tolerance=Tolerance(6))
def tanh(x: Array) -> Array:
    """Hyperbolic tangent, elementwise. ``[...] -> [...]``."""
    return np.tanh(precise(x))


@op("asinh", scalar="asinh(x)", cases=_cases, tolerance=Tolerance(5))
def asinh(x: Array) -> Array:
    """Inverse hyperbolic sine, elementwise. ``[...] -> [...]``."""
    return np.arcsinh(precise(x))


@op("acosh", scalar="acosh(x)", cases=lambda: unary_cases(1.1, 9, "complex64"), tolerance=Tolerance(5))
def acosh(x: Array) -> Array:
    """Inverse hyperbolic cosine, not negative, elementwise; NaN below 1. ``[...] -> [...]``."""
    return np.arccosh(precise(x))


@op("atanh", scalar="atanh(x)", cases=_open_interval_cases, tolerance=Tolerance(6))
def atanh(x: Array) -> Array:
    """Inverse hyperbolic tangent, elementwise; infinite at -1 and 1, NaN beyond. ``[...] -> [...]``."""
    return np.arctanh(precise(x))

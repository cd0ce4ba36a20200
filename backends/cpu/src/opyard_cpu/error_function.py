"""The error function on arrays: a rational approximation in float32, Taylor series around grid points in float64."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_LIMIT = np.float32(4.0)
"""From here on erf(x) is 1 in float32."""

# erf(x) = x * P(x * x) / Q(x * x) on [-4, 4] with a relative error below 2.5e-8, from an iteratively reweighted
# least-squares fit (C. L. Lawson, 1961) of the linearised rational problem.
_NUMERATOR = (
    *(1.128379139356728, 0.19354248809996435, 0.05310141023527761),
    *(0.0038832376425146043, 0.0002845641598591394, 1.986808579777517e-06),
)
_DENOMINATOR = (
    *(1.0, 0.5048551201578155, 0.11534894109716093),
    *(0.015207034127867882, 0.001185546796670478, 3.742036075777069e-05),
)

_STEPS = 64
"""Grid points per unit: the series is used at most 1/128 away from one."""

_END = 6.0
"""From here on erf(x) is 1 in float64."""

_DEGREE = 7
"""The first term left out is below 1e-18, and near 0, where erf(x) is as small as x, the one of odd degree after it."""


def erf(x: Array, out: Array) -> None:
    """Writes the error function of ``x``, float32 or float64, into ``out``; at most 4 units of epsilon away."""
    if x.dtype == np.float32:
        _rational(x, out)
    else:
        _series(x, out)


def _rational(x: Array, out: Array) -> None:
    x = np.clip(x, -_LIMIT, _LIMIT)
    square = np.multiply(x, x)
    _horner(square, _NUMERATOR, out)
    out *= x
    out /= _horner(square, _DENOMINATOR, x)
    np.clip(out, -1, 1, out=out)  # where rounding leads beyond the range of the function


def _horner(x: Array, coefficients: tuple[float, ...], out: Array) -> Array:
    np.multiply(x, coefficients[-1], out=out)
    for coefficient in coefficients[-2:0:-1]:
        out += coefficient
        out *= x
    out += coefficients[0]
    return out


def _series(x: Array, out: Array) -> None:
    distance = np.minimum(np.abs(x), _END)
    nearest = np.rint(distance * _STEPS)
    index = nearest.astype(np.intp)  # any number for NaN, which the distance then carries on
    nearest /= _STEPS
    distance -= nearest
    table = _taylor_coefficients()
    total = np.take(table[_DEGREE], index, mode="clip")
    term = np.empty_like(total)
    for row in table[_DEGREE - 1 :: -1]:
        total *= distance
        total += np.take(row, index, mode="clip", out=term)
    np.copysign(total, x, out=out)


@cache
def _taylor_coefficients() -> Array:
    """Coefficient ``n`` of the series of erf around grid point ``k`` at ``[n, k]``.

    The derivatives are Hermite polynomials times the Gaussian: NIST Digital Library of Mathematical Functions, 7.10.
    """
    points = np.arange(int(_END * _STEPS) + 1) / _STEPS
    slope = 2 / math.sqrt(math.pi) * np.exp(-points * points)
    rows = [np.array([math.erf(point) for point in points])]
    previous, hermite = np.zeros_like(points), np.ones_like(points)
    for n in range(1, _DEGREE + 1):
        rows.append((-1) ** (n - 1) * hermite * slope / math.factorial(n))
        previous, hermite = hermite, 2 * points * hermite - 2 * (n - 1) * previous
    return np.stack(rows)

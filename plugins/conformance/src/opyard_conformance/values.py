"""Value families: what replaces the uniform numbers of a case. Each is a function of an array and of its input's position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from opyard.cases import Case, Draw

Array = np.ndarray[Any, Any]

OFFSET = 16.0
"""Far from zero beside a spread of about one: squares minus squares of means lose their digits."""


def arrays_of(case: Case, values: str = "", seed: int = 0) -> tuple[Array | None, ...]:
    """The inputs of a case with the values of a family, or the case's own values; the same for the same seed."""
    made = case.arrays(seed)
    if not values:
        return made
    return tuple(
        array if array is None or draw is None else _changed(array, draw, position, values)
        for position, (array, draw) in enumerate(zip(made, case.inputs, strict=True))
    )


def _changed(array: Array, draw: Draw, position: int, values: str) -> Array:
    flat = array.reshape(-1).copy()
    if not flat.size:
        return array
    floats = {**FLOAT_VALUES, **ELEMENTWISE_VALUES}
    if "float" in flat.dtype.name and values in floats:
        floats[values](flat, position)
    elif "int" in flat.dtype.name and values in INTEGER_VALUES and draw.low < 0:
        INTEGER_VALUES[values](
            flat, position
        )  # counts and indices, which are not negative, stay in their range
    return flat.reshape(array.shape)


def _nan(x: Array, position: int) -> None:
    x[(x.size // 2 + position) % x.size] = np.nan


def _nan_last(x: Array, position: int) -> None:
    x[-1 - position % x.size] = np.nan


def _infinite(x: Array, position: int) -> None:
    x[position % x.size] = np.inf
    x[-1 - position % x.size] = -np.inf


def _infinite_low(x: Array, position: int) -> None:
    x[(x.size // 2 + position) % x.size] = -np.inf


def _zeros(x: Array, position: int) -> None:
    x[position % 2 :: 3] = 0.0
    x[(position + 1) % 2 :: 3] = -0.0


def _subnormal(x: Array, position: int) -> None:
    limits = ml_dtypes.finfo(x.dtype)
    x[position % 2 :: 3] = limits.smallest_subnormal
    x[(position + 1) % 2 :: 3] = -np.float64(limits.smallest_normal) / 2


def _huge(x: Array, position: int) -> None:
    largest = np.float64(ml_dtypes.finfo(x.dtype).max)
    x[position % 2 :: 4] = largest
    x[position % 2 + 1 :: 4] = -largest / 2


def _large(x: Array, position: int) -> None:
    large = np.sqrt(np.float64(ml_dtypes.finfo(x.dtype).max)) / 8
    x[position % 2 :: 4] = large
    x[position % 2 + 1 :: 4] = -large / 2


def _ties(x: Array, position: int) -> None:
    x[:] = np.round(x.astype(np.float64) * 2) / 2


def _constant(x: Array, position: int) -> None:
    x[:] = (
        0.75  # sums of it are exact: a mean that is a little off would make the variance of other numbers nonzero
    )


def _offset(x: Array, position: int) -> None:
    x[:] = x.astype(np.float64) + OFFSET


def _limits(x: Array, position: int) -> None:
    limits = ml_dtypes.iinfo(x.dtype)
    x[position % 2 :: 3] = limits.max
    x[(position + 1) % 2 :: 3] = limits.min


def _equal(x: Array, position: int) -> None:
    x[:] = x[0]


FLOAT_VALUES: dict[str, Callable[[Array, int], None]] = {
    "nan": _nan,
    "nan-last": _nan_last,
    "infinite": _infinite,
    "infinite-low": _infinite_low,
    "zeros": _zeros,
    "subnormal": _subnormal,
    "large": _large,
    "ties": _ties,
    "constant": _constant,
    "offset": _offset,
}
"""Families for floats: one NaN inside or at the end, infinities, signed zeros, subnormal numbers, numbers whose squares are
near the largest, halves and repeated numbers, one number alone, and numbers far from zero (cancellation)."""

ELEMENTWISE_VALUES = {"huge": _huge}
"""Further ones for elementwise ops: the largest numbers. What sums or squares them may overflow on the way."""

INTEGER_VALUES: dict[str, Callable[[Array, int], None]] = {"limits": _limits, "equal": _equal}
"""Families for integers: the least and greatest numbers of the dtype, and one number alone."""

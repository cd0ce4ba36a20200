"""Reductions over axes, by the ufuncs themselves: np.sum and its like spend a microsecond more on their arguments."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Axis = int | tuple[int, ...] | None


def sum(x: Array, *, axis: Axis, keepdims: bool, out: Any = None) -> Array:
    """Sum in the dtype of ``x``, pairwise along contiguous axes."""
    return np.add.reduce(x, axis=axis, dtype=x.dtype, keepdims=keepdims, out=out)


def prod(x: Array, *, axis: Axis, keepdims: bool, out: Any = None) -> Array:
    """Product in the dtype of ``x``."""
    return np.multiply.reduce(x, axis=axis, dtype=x.dtype, keepdims=keepdims, out=out)


def max(x: Array, *, axis: Axis, keepdims: bool, out: Any = None) -> Array:
    """Greatest element; NaN where there is one."""
    return np.maximum.reduce(x, axis=axis, keepdims=keepdims, out=out)


def min(x: Array, *, axis: Axis, keepdims: bool, out: Any = None) -> Array:
    """Least element; NaN where there is one."""
    return np.minimum.reduce(x, axis=axis, keepdims=keepdims, out=out)


def any(x: Array, *, axis: Axis, keepdims: bool, out: Any = None) -> Array:
    """Whether some element is not zero."""
    return np.logical_or.reduce(x, axis=axis, keepdims=keepdims, out=out)


def all(x: Array, *, axis: Axis, keepdims: bool, out: Any = None) -> Array:
    """Whether no element is zero."""
    return np.logical_and.reduce(x, axis=axis, keepdims=keepdims, out=out)


def mean(x: Array, *, axis: Axis, keepdims: bool, out: Any = None) -> Array:
    """Arithmetic mean; NaN where there are no elements."""
    total = np.asarray(np.add.reduce(x, axis=axis, keepdims=keepdims, out=out))
    with np.errstate(all="ignore"):
        total /= _count(x, axis)
    return total


def _count(x: Array, axis: Axis) -> int:
    if axis is None:
        return x.size
    return math.prod(x.shape[a] for a in (axis if isinstance(axis, tuple) else (axis,)))


def variance(x: Array, *, axis: Axis, keepdims: bool, correction: float, out: Any = None) -> Array:
    """Mean square deviation, in two passes."""
    deviation = np.asarray(np.subtract(x, mean(x, axis=axis, keepdims=True)))
    total = np.asarray(
        np.add.reduce(np.square(deviation, out=deviation), axis=axis, keepdims=keepdims, out=out)
    )
    count = _count(x, axis) - correction
    with np.errstate(all="ignore"):
        total /= count if count > 0 else 0
    return total


def standard_deviation(x: Array, *, axis: Axis, keepdims: bool, correction: float, out: Any = None) -> Array:
    """Square root of the variance."""
    result = variance(x, axis=axis, keepdims=keepdims, correction=correction, out=out)
    with np.errstate(all="ignore"):
        return np.sqrt(result, out=result)


def logsumexp(x: Array, *, axis: Axis, keepdims: bool, out: Any = None) -> Array:
    """log(sum(exp(x))) without overflow."""
    with np.errstate(all="ignore"):
        shift = np.asarray(np.maximum.reduce(x, axis=axis, keepdims=True))
        shift[np.isinf(shift)] = 0  # infinity minus infinity would be NaN
        terms = np.asarray(np.subtract(x, shift))
        total = np.asarray(np.add.reduce(np.exp(terms, out=terms), axis=axis, keepdims=keepdims, out=out))
        np.log(total, out=total)
        total += shift.reshape(total.shape)
    return total


def cumulative_sum(x: Array, *, axis: int | None, exclusive: bool, reverse: bool) -> Array:
    """Sums of all elements up to each one; floats are added up in float64, which costs an addition no more time."""
    if axis is None and x.ndim != 1:
        raise ValueError(f"axis=None is for one axis; there are {x.ndim}")
    along = np.moveaxis(x, 0 if axis is None else axis, -1)
    along = along[..., ::-1] if reverse else along
    sums = np.empty(along.shape, x.dtype)
    if exclusive:
        sums[..., :1] = 0
        along, target = along[..., :-1], sums[..., 1:]
    else:
        target = sums
    target[...] = np.add.accumulate(along, axis=-1, dtype=np.float64 if x.dtype.kind == "f" else x.dtype)
    sums = sums[..., ::-1] if reverse else sums
    return np.moveaxis(sums, -1, 0 if axis is None else axis)

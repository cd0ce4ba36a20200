"""Reductions over axes. float16 is summed in float32. ``axis`` is an integer, a tuple of integers, or None for all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from opyard.infer import normalize_axes

from ..array_module import xp

Axis = int | tuple[int, ...] | None


def wide(x: Any) -> Any:
    """``x`` in the dtype to compute in: float32 for float16."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


def _over(x: Any, axis: Axis) -> tuple[Any, Axis]:
    """``x`` and the axes to reduce; reducing no axis is reducing a new one of size 1, which every reduction can."""
    return (x[None], (0,)) if axis == () else (x, axis)


def _reduced(name: str, x: Any, axis: Axis, keepdims: bool, **options: Any) -> Any:
    values, axes = _over(x, axis)
    return getattr(xp(), name)(values, axis=axes, keepdims=keepdims and axis != (), **options)


def _accumulated(name: str, x: Any, axis: Axis, keepdims: bool) -> Any:
    dtype = np.float32 if x.dtype == np.float16 else x.dtype
    return _reduced(name, x, axis, keepdims, dtype=dtype).astype(x.dtype)


def sum(x: Any, *, axis: Axis, keepdims: bool) -> Any:
    """Sum, in the dtype of ``x``."""
    return _accumulated("sum", x, axis, keepdims)


def prod(x: Any, *, axis: Axis, keepdims: bool) -> Any:
    """Product, in the dtype of ``x``."""
    return _accumulated("prod", x, axis, keepdims)


def _extremum(name: str, x: Any, axis: Axis, keepdims: bool) -> Any:
    # CuPy refuses every empty input; the result is then empty too, as no reduced axis may be
    return sum(x, axis=axis, keepdims=keepdims) if x.size == 0 else _reduced(name, x, axis, keepdims)


def max(x: Any, *, axis: Axis, keepdims: bool) -> Any:
    """Greatest element; NaN where there is one."""
    return _extremum("max", x, axis, keepdims)


def min(x: Any, *, axis: Axis, keepdims: bool) -> Any:
    """Least element; NaN where there is one."""
    return _extremum("min", x, axis, keepdims)


def _position(name: str, x: Any, axis: int | None, keepdims: bool) -> Any:
    shape = (1,) * x.ndim if keepdims else ()
    if axis is None:
        return _position(name, x.reshape(-1), 0, False).reshape(shape)
    if x.size == 0:
        return xp().sum(x, axis=axis, keepdims=keepdims, dtype=np.int64)
    find = getattr(xp(), name)
    found = find(x, axis=axis, keepdims=keepdims)
    if x.dtype.kind == "f":  # a parallel search finds one NaN of several, not the first
        missing = xp().isnan(x)
        first = xp().argmax(missing, axis=axis, keepdims=keepdims)
        found = xp().where(xp().any(missing, axis=axis, keepdims=keepdims), first, found)
    return found.astype(np.int64)


def argmax(x: Any, *, axis: int | None, keepdims: bool) -> Any:
    """Position of the first greatest element, or of the first NaN."""
    return _position("argmax", x, axis, keepdims)


def argmin(x: Any, *, axis: int | None, keepdims: bool) -> Any:
    """Position of the first least element, or of the first NaN."""
    return _position("argmin", x, axis, keepdims)


def any(x: Any, *, axis: Axis, keepdims: bool) -> Any:
    """Whether some element is not zero."""
    return _reduced("any", x != 0, axis, keepdims)


def all(x: Any, *, axis: Axis, keepdims: bool) -> Any:
    """Whether no element is zero."""
    return _reduced("all", x != 0, axis, keepdims)


def cumulative_sum(x: Any, *, axis: int | None, exclusive: bool, reverse: bool) -> Any:
    """Sums of all elements up to each one."""
    place = 0 if axis is None else axis
    if x.size == 0:
        return x.copy()
    values = xp().moveaxis(wide(x), place, -1)
    values = values[..., ::-1] if reverse else values
    sums = xp().cumsum(values, axis=-1, dtype=values.dtype)
    if exclusive:
        sums = xp().concatenate([xp().zeros_like(sums[..., :1]), sums[..., :-1]], axis=-1)
    sums = sums[..., ::-1] if reverse else sums
    return xp().moveaxis(sums, -1, place).astype(x.dtype)


def _count(x: Any, axis: Axis) -> float:
    return float(math.prod(x.shape[i] for i in normalize_axes(axis, x.ndim)))


def _mean(values: Any, axis: Axis, keepdims: bool, correction: float = 0.0) -> Any:
    divisor = _count(values, axis) - correction
    return _reduced("sum", values, axis, keepdims, dtype=values.dtype) / (divisor if divisor > 0 else 0.0)


def mean(x: Any, *, axis: Axis, keepdims: bool) -> Any:
    """Arithmetic mean; NaN where there are no elements."""
    return _mean(wide(x), axis, keepdims).astype(x.dtype)


def _variance(x: Any, axis: Axis, keepdims: bool, correction: float) -> Any:
    values = wide(x)
    axes = normalize_axes(axis, x.ndim)
    deviation = values - (_mean(values, axes, True) if axes else values)
    return _mean(deviation * deviation, axes, keepdims, correction)


def variance(x: Any, *, axis: Axis, keepdims: bool, correction: float) -> Any:
    """Mean square deviation from the mean, in two passes."""
    return _variance(x, axis, keepdims, correction).astype(x.dtype)


def standard_deviation(x: Any, *, axis: Axis, keepdims: bool, correction: float) -> Any:
    """Square root of the variance."""
    return xp().sqrt(_variance(x, axis, keepdims, correction)).astype(x.dtype)


def logsumexp(x: Any, *, axis: Axis, keepdims: bool) -> Any:
    """Logarithm of the sum of exponentials, shifted by the greatest element against overflow."""
    if x.size == 0:
        return sum(x, axis=axis, keepdims=keepdims)
    values = wide(x)
    axes = normalize_axes(axis, x.ndim)
    greatest = max(values, axis=axes, keepdims=True) if axes else values
    # a finite shift: infinity minus infinity would be NaN
    shift = xp().where(xp().isfinite(greatest), greatest, xp().zeros_like(greatest))
    result = xp().log(sum(xp().exp(values - shift), axis=axes, keepdims=True)) + shift
    return (result if keepdims else xp().squeeze(result, axis=axes)).astype(x.dtype)

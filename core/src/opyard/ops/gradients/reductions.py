"""Gradients of reductions, of what is normalized by them, and of sorting."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from ...dim import Dim
from ...infer import normalize_axes, normalize_axis
from .._precision import cast_to, computing_dtype
from ..arithmetic import Array, add, constant_like, divide, maximum, multiply, subtract
from ..arithmetic import abs as absolute
from ..comparison import equal
from ..exponential import exp, sqrt, square
from ..indexing import take_along_axis
from ..loss import softmax_cross_entropy, softmax_cross_entropy_gradient
from ..normalization import log_softmax, lp_normalization, softmax
from ..rearrange import pad
from ..reduction import cumulative_sum, logsumexp, max, mean, min, prod, standard_deviation, sum, variance
from ..scattering import scatter
from ..selection import sign, where
from ..shape import broadcast_to, expand_dims, permute_dims, reshape
from ..slicing import slice
from ..sorting import argsort, sort, top_k
from ._sizes import filled, size_of_axis


def _over(x: Array, reduced: Array, axis: Any, keepdims: bool) -> Array:
    """What a reduction of ``x`` gave, so that it broadcasts against ``x``."""
    if keepdims or not x.ndim:
        return reduced
    axes = normalize_axes(axis, x.ndim)
    return expand_dims(reduced, axis=axes) if axes else reduced


def _sum(g: Array, y: Array, x: Array, *, axis: Any, keepdims: bool) -> Array:
    return broadcast_to(_over(x, g, axis, keepdims), shape=tuple(x.shape))


def _extremum(g: Array, y: Array, x: Array, *, axis: Any, keepdims: bool) -> Array:
    """Equal extrema share the cotangent, as in JAX."""
    chosen = equal(x, _over(x, y, axis, keepdims))
    shares = sum(where(chosen, constant_like(1, x), constant_like(0, x)), axis=axis, keepdims=True)
    part = divide(_over(x, g, axis, keepdims), shares if x.ndim else reshape(shares, shape=()))
    return where(chosen, part, constant_like(0, x))


def _prod(g: Array, y: Array, x: Array, *, axis: Any, keepdims: bool) -> Array:
    over = _over(x, g, axis, keepdims)
    axes = normalize_axes(axis, x.ndim)
    sizes = [x.shape[a] for a in axes]
    if any(isinstance(size, Dim) for size in sizes):
        return multiply(over, _product_of_others_by_division(x, axes))
    return multiply(over, _product_of_others(x, axes, int(np.prod(sizes, dtype=int))))


def _product_of_others(x: Array, axes: tuple[int, ...], count: int) -> Array:
    """For each element the product of all others, without division: products of those before it and of those after it."""
    kept = tuple(a for a in range(x.ndim) if a not in axes)
    moved = permute_dims(x, axes=(*kept, *axes))
    rows = reshape(moved, shape=(*(x.shape[a] for a in kept), count))
    before = _running(rows, (1, 0), lambda size, shift: (0, size - shift))
    after = _running(rows, (0, 1), lambda size, shift: (shift, size))
    found = reshape(multiply(before, after), shape=tuple(moved.shape))
    return permute_dims(found, axes=tuple(np.argsort((*kept, *axes)).tolist()))


def _running(rows: Array, side: tuple[int, int], kept: Callable[[int, int], tuple[int, int]]) -> Array:
    """Products along the last axis of all elements before (or after) each, in as many steps as the count has binary digits."""
    size, last = int(rows.shape[-1]), rows.ndim - 1

    def shifted(values: Array, shift: int) -> Array:
        start, stop = kept(size, shift)
        part = slice(values, starts=(start,), stops=(stop,), axes=(last,))
        ends = (side[0] * shift, side[1] * shift)
        return pad(part, pads=(*((0, 0),) * last, ends), value=1)

    if not size:
        return rows
    products, shift = shifted(rows, 1), 1
    while shift < size:
        products, shift = multiply(products, shifted(products, shift)), 2 * shift
    return products


def _product_of_others_by_division(x: Array, axes: tuple[int, ...]) -> Array:
    """The same for sizes that are not known yet, by dividing the product of what is not zero."""
    zero, one = constant_like(0, x), constant_like(1, x)
    is_zero = equal(x, zero)
    factors = where(is_zero, one, x)
    product = prod(factors, axis=axes, keepdims=True)
    zeros = sum(where(is_zero, one, zero), axis=axes, keepdims=True)
    without_zeros = where(equal(zeros, zero), divide(product, factors), zero)
    return where(is_zero, where(equal(zeros, one), product, zero), without_zeros)


def _cumulative_sum(g: Array, y: Array, x: Array, *, axis: Any, exclusive: bool, reverse: bool) -> Array:
    return cumulative_sum(g, axis=axis, exclusive=exclusive, reverse=not reverse)


def _logsumexp(g: Array, y: Array, x: Array, *, axis: Any, keepdims: bool) -> Array:
    over = _over(x, y, axis, keepdims)
    weights = softmax(x, axis=axis) if isinstance(axis, int) else exp(subtract(x, over))
    return multiply(_over(x, g, axis, keepdims), weights)


def _mean(g: Array, y: Array, x: Array, *, axis: Any, keepdims: bool) -> Array:
    wide = computing_dtype(x.dtype)  # the count may be too large for a narrow one
    share = divide(cast_to(_over(x, g, axis, keepdims), wide), _count_over(x, axis, wide))
    return broadcast_to(cast_to(share, x.dtype), shape=tuple(x.shape))


def _slope(g: Array, x: Array, axis: Any, keepdims: bool, correction: float) -> Array:
    """The deviations of ``x`` from its mean, over their number, times a cotangent of what they were reduced to."""
    wide = computing_dtype(x.dtype)
    values = cast_to(x, wide)
    deviation = subtract(values, mean(values, axis=axis, keepdims=bool(x.ndim)))
    count = maximum(add(_count_over(x, axis, wide), -float(correction)), 0.0)
    return multiply(divide(cast_to(_over(x, g, axis, keepdims), wide), count), deviation)


def _variance(g: Array, y: Array, x: Array, *, axis: Any, keepdims: bool, correction: float) -> Array:
    return cast_to(multiply(_slope(g, x, axis, keepdims, correction), 2.0), x.dtype)


def _standard_deviation(
    g: Array, y: Array, x: Array, *, axis: Any, keepdims: bool, correction: float
) -> Array:
    still = equal(y, constant_like(0, y))  # 0, and not 0 / 0, where nothing deviates
    spread = where(still, constant_like(1, y), y)
    return cast_to(_slope(divide(g, spread), x, axis, keepdims, correction), x.dtype)


def _lp_normalization(g: Array, y: Array, x: Array, *, axis: int, p: int) -> Array:
    wide = computing_dtype(x.dtype)
    values, unit, cotangent = (cast_to(v, wide) for v in (x, y, g))
    slope = sign(values) if p == 1 else unit
    magnitude = absolute(values) if p == 1 else square(values)
    total = sum(magnitude, axis=axis, keepdims=True)
    none = equal(total, constant_like(0, total))  # zeros stay zeros, and have the gradient 0
    filled_in = where(none, constant_like(1, total), total)
    norm = filled_in if p == 1 else sqrt(filled_in)
    along = sum(multiply(cotangent, unit), axis=axis, keepdims=True)
    change = divide(subtract(cotangent, multiply(slope, along)), norm)
    return cast_to(where(none, constant_like(0, change), change), x.dtype)


def _softmax(g: Array, y: Array, x: Array, *, axis: int) -> Array:
    wide = computing_dtype(x.dtype)
    weighted = multiply(cast_to(g, wide), cast_to(y, wide))
    total = sum(weighted, axis=axis, keepdims=True)
    return cast_to(subtract(weighted, multiply(cast_to(y, wide), total)), x.dtype)


def _log_softmax(g: Array, y: Array, x: Array, *, axis: int) -> Array:
    wide = computing_dtype(x.dtype)
    total = sum(cast_to(g, wide), axis=axis, keepdims=True)
    return cast_to(subtract(cast_to(g, wide), multiply(exp(cast_to(y, wide)), total)), x.dtype)


def _cross_entropy(g: Array, y: Array, logits: Array, labels: Array, *, axis: int, reduction: str) -> Any:
    wide = computing_dtype(logits.dtype)
    place = normalize_axis(axis, logits.ndim)

    def of_logits() -> Array:
        each = cast_to(g, wide)
        if reduction == "mean":
            each = divide(each, _count_over(labels, None, wide))
        if isinstance(logits.shape[place], int):
            return softmax_cross_entropy_gradient(logits, labels, each, axis=place)
        weights, positions = softmax(cast_to(logits, wide), axis=place), expand_dims(labels, axis=place)
        ones = filled(1, positions.shape, weights)
        chosen = scatter(filled(0, weights.shape, weights), positions, ones, axis=place)
        each = expand_dims(each, axis=place) if reduction == "none" else each
        return cast_to(multiply(subtract(weights, chosen), each), logits.dtype)

    return of_logits, None


def _count_over(x: Array, axis: Any, dtype: np.dtype[Any]) -> Array:
    """The number of elements of ``x`` over axes in ``dtype``, ``[]``: a number, or a value where a size is symbolic."""
    sizes = [size_of_axis(x, a) for a in normalize_axes(axis, x.ndim)]
    known = np.prod([size for size in sizes if isinstance(size, np.integer)], dtype=np.int64)
    count = reduce(multiply, [size for size in sizes if not isinstance(size, np.integer)], known)
    return count.astype(dtype) if isinstance(count, np.integer) else cast_to(count, dtype)


def _sort(g: Array, y: Array, x: Array, *, axis: int, descending: bool) -> Array:
    order = argsort(x, axis=axis, descending=descending)
    return take_along_axis(g, argsort(order, axis=axis), axis=axis)


def _top_k(g: Any, y: Any, x: Array, *, axis: int, **others: Any) -> Array:
    return scatter(filled(0, x.shape, x), y[1], g[0], axis=axis, reduction="add")


RULES = {
    sum.op: _sum,
    max.op: _extremum,
    min.op: _extremum,
    prod.op: _prod,
    cumulative_sum.op: _cumulative_sum,
    logsumexp.op: _logsumexp,
    mean.op: _mean,
    variance.op: _variance,
    standard_deviation.op: _standard_deviation,
    lp_normalization.op: _lp_normalization,
    softmax.op: _softmax,
    log_softmax.op: _log_softmax,
    softmax_cross_entropy.op: _cross_entropy,
    sort.op: _sort,
    top_k.op: _top_k,
}

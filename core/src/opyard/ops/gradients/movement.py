"""Gradients of ops that move elements: each cotangent goes back to where its element came from."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...dim import Dim
from ...infer import normalize_axis
from ...spec import Shape
from ..arithmetic import Array, add, minimum, remainder, subtract
from ..arithmetic import abs as absolute
from ..creation import iota
from ..indexing import gather, tril, triu
from ..joining import concat, split, stack
from ..rearrange import flip, pad, repeat, roll, tile
from ..reduction import sum
from ..scattering import scatter_nd
from ..selection import clip
from ..shape import (
    broadcast_to,
    expand_dims,
    permute_dims,
    reshape,
    squeeze,
)
from ..slicing import slice, slices_of
from ._sizes import filled, size_of_axis


def _same_shape(g: Array, y: Array, x: Array, **attributes: Any) -> Array:
    return reshape(g, shape=tuple(x.shape))


def _broadcast_to(g: Array, y: Array, x: Array, *, shape: Shape) -> Array:
    return g  # whoever applies the rule sums what was broadcast


def _permute_dims(g: Array, y: Array, x: Array, *, axes: tuple[int, ...]) -> Array:
    places = [axis % x.ndim for axis in axes]
    return permute_dims(g, axes=tuple(places.index(axis) for axis in range(x.ndim)))


def _flip(g: Array, y: Array, x: Array, *, axis: Any) -> Array:
    return flip(g, axis=axis)


def _roll(g: Array, y: Array, x: Array, *, shift: Any, axis: Any) -> Array:
    back = tuple(-n for n in shift) if isinstance(shift, tuple) else -shift
    return roll(g, shift=back, axis=axis)


def _tile(g: Array, y: Array, x: Array, *, repetitions: tuple[int, ...]) -> Array:
    rank = y.ndim
    counts = (1,) * (rank - len(repetitions)) + repetitions
    sizes = (1,) * (rank - x.ndim) + tuple(x.shape)
    parts = reshape(g, shape=tuple(n for pair in zip(counts, sizes, strict=True) for n in pair))
    return reshape(sum(parts, axis=tuple(range(0, 2 * rank, 2))), shape=tuple(x.shape))


def _repeat(g: Array, y: Array, x: Array, *, repeats: int, axis: int | None) -> Array:
    if axis is None:
        return reshape(sum(reshape(g, shape=(x.spec.size, repeats)), axis=1), shape=tuple(x.shape))
    place = normalize_axis(axis, x.ndim) + 1
    return sum(reshape(g, shape=(*x.shape[:place], repeats, *x.shape[place:])), axis=place)


def _tril(g: Array, y: Array, x: Array, *, k: int) -> Array:
    return tril(g, k=k)


def _triu(g: Array, y: Array, x: Array, *, k: int) -> Array:
    return triu(g, k=k)


def place(g: Array, axis: int, positions: Array, size: Any) -> Array:
    """Zeros with an axis of ``size``, to which the parts of ``g`` along this axis are added at ``positions``."""
    order = (axis, *(a for a in range(g.ndim) if a != axis))
    parts = permute_dims(g, axes=order)
    room = filled(0, (size, *parts.shape[1:]), g)
    found = scatter_nd(room, expand_dims(positions, axis=-1), parts, reduction="add")
    return permute_dims(found, axes=tuple(order.index(a) for a in range(g.ndim)))


def _slice(g: Array, y: Array, x: Array, *, starts: Any, stops: Any, axes: Any, steps: Any) -> Array:
    pads = [(0, 0)] * x.ndim
    for axis, (first, _, step) in slices_of(x.shape, starts, stops, axes, steps).items():
        count, size = y.shape[axis], x.shape[axis]
        after = size - first - count
        if step == 1 and isinstance(first, int) and isinstance(after, int):
            pads[axis] = (first, after)
        else:
            # on a symbolic axis a start that is counted from its end stays a negative number
            start = first - size if isinstance(first, Dim) else first
            positions = add(iota(size=count) if step == 1 else _multiples(step, count), np.int64(start))
            g = place(g, axis, positions, size)
    return pad(g, pads=tuple(pads)) if any(map(any, pads)) else g


def _multiples(step: int, count: Any) -> Array:
    return iota(size=count) * np.int64(step)


def _part(g: Array, axis: int, start: Any, size: Any) -> Array:
    """``size`` elements of an axis from ``start`` on, each a number, or, for start, a value of the graph."""
    if isinstance(start, (int, np.integer)) and isinstance(size, int):
        return slice(g, starts=(int(start),), stops=(int(start) + size,), axes=(axis,))
    return gather(g, add(iota(size=size), start), axis=axis)


def _concat(g: Array, y: Array, *arrays: Array, axis: int) -> Any:
    along = normalize_axis(axis, y.ndim)
    starts: list[Any] = [np.int64(0)]
    for array in arrays[:-1]:
        size = size_of_axis(array, along)
        known = isinstance(size, np.integer) and isinstance(starts[-1], np.integer)
        starts.append(starts[-1] + size if known else add(starts[-1], size))

    def of(array: Array, start: Any) -> Any:
        return lambda: _part(g, along, start, array.shape[along])

    return tuple(of(array, start) for array, start in zip(arrays, starts, strict=True))


def _stack(g: Array, y: Array, *arrays: Array, axis: int) -> Any:
    along = normalize_axis(axis, y.ndim)

    def of(number: int) -> Any:
        return lambda: squeeze(_part(g, along, number, 1), axis=along)

    return tuple(of(number) for number in range(len(arrays)))


def _split(g: Any, y: Any, x: Array, *, sections: Any, axis: int) -> Array:
    parts = [filled(0, part.shape, x) if found is None else found for found, part in zip(g, y, strict=True)]
    return concat(*parts, axis=axis)


def _pad(g: Array, y: Array, x: Array, *, pads: Any, mode: str, value: complex) -> Array:
    if mode == "constant":
        return _inner(g, pads)
    for axis, (before, after) in enumerate(pads):
        if before or after:
            size = size_of_axis(x, axis)
            positions = subtract(iota(size=y.shape[axis]), np.int64(before))
            g = place(g, axis, _source(positions, size, mode), x.shape[axis])
    return g


def _inner(g: Array, pads: Any) -> Array:
    padded = [axis for axis, pair in enumerate(pads) if any(pair)]
    if not padded:
        return g
    starts = tuple(pads[axis][0] for axis in padded)
    stops = tuple(-pads[axis][1] or None for axis in padded)
    return slice(g, starts=starts, stops=stops, axes=tuple(padded))


def _source(positions: Array, size: Any, mode: str) -> Array:
    """Which element of an axis stands at ``positions`` of the padded one; 0 is that of the first element."""
    if mode == "edge":
        return clip(positions, np.int64(0), subtract(size, np.int64(1)))
    if mode == "wrap":
        return remainder(positions, size)
    last = subtract(size, np.int64(1))
    mirrored = absolute(positions)
    return minimum(mirrored, subtract(last + last, mirrored))


RULES = {
    reshape.op: _same_shape,
    expand_dims.op: _same_shape,
    squeeze.op: _same_shape,
    broadcast_to.op: _broadcast_to,
    permute_dims.op: _permute_dims,
    flip.op: _flip,
    roll.op: _roll,
    tile.op: _tile,
    repeat.op: _repeat,
    tril.op: _tril,
    triu.op: _triu,
    slice.op: _slice,
    concat.op: _concat,
    stack.op: _stack,
    split.op: _split,
    pad.op: _pad,
}

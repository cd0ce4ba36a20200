"""Movement of elements: other shapes, permutations, joining, cutting and repeating. Views where CuPy gives them."""

from __future__ import annotations

import builtins
import itertools
import math
from typing import Any

import numpy as np

from ..array_module import xp

Axis = int | tuple[int, ...] | None


def identity(x: Any) -> Any:
    """The array itself."""
    return x


def reshape(x: Any, *, shape: tuple[int, ...]) -> Any:
    """The same elements in row-major order under another shape."""
    return xp().reshape(x, shape)


def flatten(x: Any, *, axis: int) -> Any:
    """A matrix: axes before ``axis`` become rows, the others columns."""
    split_at = axis if axis >= 0 else axis + x.ndim
    return xp().reshape(x, (math.prod(x.shape[:split_at]), math.prod(x.shape[split_at:])))


def permute_dims(x: Any, *, axes: tuple[int, ...]) -> Any:
    """Axis ``i`` of the result is axis ``axes[i]`` of ``x``."""
    return xp().transpose(x, axes)


def matrix_transpose(x: Any) -> Any:
    """Exchanges the last two axes."""
    return xp().swapaxes(x, -1, -2)


def moveaxis(x: Any, *, source: int | tuple[int, ...], destination: int | tuple[int, ...]) -> Any:
    """Moves axes to other places."""
    return xp().moveaxis(x, source, destination)


def expand_dims(x: Any, *, axis: int | tuple[int, ...]) -> Any:
    """New axes of size 1 at places of the result."""
    return x if axis == () else xp().expand_dims(x, axis)


def squeeze(x: Any, *, axis: int | tuple[int, ...]) -> Any:
    """Drops axes of size 1."""
    return x if axis == () else xp().squeeze(x, axis=axis)


def broadcast_to(x: Any, *, shape: tuple[int, ...]) -> Any:
    """Repeats axes of size 1, as a view."""
    return xp().broadcast_to(x, shape)


def concat(*arrays: Any, axis: int) -> Any:
    """Joins arrays along an axis; dtypes are promoted."""
    return xp().concatenate(arrays, axis=axis)


def stack(*arrays: Any, axis: int) -> Any:
    """Joins arrays along a new axis; dtypes are promoted."""
    return xp().stack(arrays, axis=axis)


def _along(x: Any, axis: int, start: int, stop: int) -> Any:
    return x[(*(builtins.slice(None),) * (axis % x.ndim), builtins.slice(start, stop))]


def split(x: Any, *, sections: int | tuple[int, ...], axis: int) -> tuple[Any, ...]:
    """Parts along an axis, as views."""
    sizes = sections if isinstance(sections, tuple) else (x.shape[axis] // sections,) * sections
    ends = itertools.accumulate(sizes)
    return tuple(_along(x, axis, end - size, end) for size, end in zip(sizes, ends, strict=True))


def unstack(x: Any, *, axis: int) -> tuple[Any, ...]:
    """All ``x[i]`` along an axis, as views."""
    front = xp().moveaxis(x, axis, 0)
    return tuple(front[i] for i in range(front.shape[0]))


def slice(
    x: Any,
    *,
    starts: tuple[int | None, ...],
    stops: tuple[int | None, ...],
    axes: tuple[int, ...] | None,
    steps: tuple[int, ...] | None,
) -> Any:
    """Elements from ``starts`` to before ``stops`` in ``steps``, as a view."""
    places = range(len(starts)) if axes is None else axes
    index = [builtins.slice(None)] * x.ndim
    for place, start, stop, step in zip(places, starts, stops, steps or (1,) * len(starts), strict=True):
        if (
            start is not None and step < 0
        ):  # Python takes a start before the first element as no element at all
            start = max(start, -x.shape[place])
        index[place] = builtins.slice(start, stop, step)
    return x[tuple(index)]


def flip(x: Any, *, axis: Axis) -> Any:
    """Reverses the order along axes, as a view."""
    return x if axis == () or x.ndim == 0 else xp().flip(x, axis)


def roll(x: Any, *, shift: int | tuple[int, ...], axis: Axis) -> Any:
    """Moves elements cyclically."""
    if x.size == 0 or x.ndim == 0:
        return x
    if axis is None and isinstance(shift, tuple):
        (shift,) = shift
    return xp().roll(x, shift, axis)


def tile(x: Any, *, repetitions: tuple[int, ...]) -> Any:
    """The whole tensor, so many times along each axis: a broadcast of blocks."""
    rank = max(x.ndim, len(repetitions))
    sizes = (1,) * (rank - x.ndim) + x.shape
    counts = (1,) * (rank - len(repetitions)) + repetitions
    blocks = x.reshape(tuple(n for size in sizes for n in (1, size)))
    repeated = xp().broadcast_to(blocks, tuple(n for pair in zip(counts, sizes, strict=True) for n in pair))
    return repeated.reshape(tuple(count * size for count, size in zip(counts, sizes, strict=True)))


def repeat(x: Any, *, repeats: int, axis: int | None) -> Any:
    """Each element so many times: a broadcast along a new axis."""
    values, place = (x.reshape(-1), 0) if axis is None else (x, axis % x.ndim)
    before, size, after = values.shape[:place], values.shape[place], values.shape[place + 1 :]
    repeated = xp().broadcast_to(values.reshape(*before, size, 1, *after), (*before, size, repeats, *after))
    return repeated.reshape(*before, size * repeats, *after)


def pad(x: Any, *, pads: tuple[tuple[int, int], ...], mode: str, value: complex) -> Any:
    """Adds elements on each axis: a constant, or copies of what is there by positions."""
    if mode == "constant":
        return pad_constant(x, pads, value)
    for axis, (size, (before, after)) in enumerate(zip(x.shape, pads, strict=True)):
        if before or after:
            places = np.pad(np.arange(size), (before, after), mode)  # type: ignore[call-overload]
            x = xp().take(x, xp().asarray(places), axis=axis)
    return x


def pad_constant(x: Any, pads: tuple[tuple[int, int], ...], value: complex) -> Any:
    """``x`` inside a larger array of one value."""
    if not any(itertools.chain(*pads)):
        return x
    shape = tuple(before + size + after for size, (before, after) in zip(x.shape, pads, strict=True))
    result = xp().full(shape, value, dtype=x.dtype)
    result[
        tuple(builtins.slice(before, before + size) for size, (before, _) in zip(x.shape, pads, strict=True))
    ] = x
    return result


def depth_to_space(x: Any, *, block_size: int, mode: str) -> Any:
    """Blocks of channels become squares of pixels."""
    batch, channels, height, width = x.shape
    depth = channels // (block_size * block_size)
    if mode == "DCR":
        blocks = x.reshape(batch, block_size, block_size, depth, height, width).transpose(0, 3, 4, 1, 5, 2)
    else:
        blocks = x.reshape(batch, depth, block_size, block_size, height, width).transpose(0, 1, 4, 2, 5, 3)
    return blocks.reshape(batch, depth, height * block_size, width * block_size)


def space_to_depth(x: Any, *, block_size: int) -> Any:
    """Squares of pixels become blocks of channels."""
    batch, channels, height, width = x.shape
    rows, columns = height // block_size, width // block_size
    blocks = x.reshape(batch, channels, rows, block_size, columns, block_size).transpose(0, 3, 5, 1, 2, 4)
    return blocks.reshape(batch, channels * block_size * block_size, rows, columns)


def cast(x: Any, *, dtype: str) -> Any:
    """The numbers in another dtype."""
    return x.astype(dtype)


def nan_to_num(x: Any, *, nan: float, posinf: float | None, neginf: float | None) -> Any:
    """``x`` with NaN and the infinities replaced."""
    return xp().nan_to_num(x, nan=nan, posinf=posinf, neginf=neginf)

"""Pooling, one axis after the other: maxima and sums of a window are maxima and sums of its rows.

Each pass combines shifted, strided slices of a block that fits into the cache; no padded copy, no window is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call
from opyard.ops import windows

from .taps import Range, tap_ranges
from .threads import in_parts

Array = np.ndarray[Any, Any]
Axes = list[tuple[int, list[Range], int]]
"""For each axis to reduce: its number in ``[channels, *spatial]``, the ranges of its taps, and the size it is left with."""

OPERATIONS = 10
"""Of each element, in units of those of matrix products: it is memory that takes the time."""

BLOCK_BYTES = 1 << 18
"""Size of a block of input channels; the blocks between the passes are no larger."""


def prepare_max_pool(call: Call, device: Device) -> Callable[..., Array]:
    """The function that computes this ``max_pool``; NaN wins, padding never does."""
    dtype = call.output.dtype
    least = -np.inf if dtype.kind == "f" else np.iinfo(dtype).min
    return _prepare(call, np.maximum, least, None)


def prepare_average_pool(call: Call, device: Device) -> Callable[..., Array]:
    """The function that computes this ``average_pool``."""
    return _prepare(call, np.add, 0, _elements_per_window(call).astype(call.output.dtype))


def _prepare(call: Call, combine: np.ufunc, start: Any, divisor: Array | None) -> Callable[..., Array]:
    x, result, dtype = call.inputs[0], tuple(map(int, call.output.shape)), call.output.dtype
    assert x is not None
    sizes = tuple(map(int, x.shape[2:]))
    axes = [
        (axis + 1, taps, count)
        for axis, (taps, count) in enumerate(zip(_taps(call), result[2:], strict=True))
        if taps != [Range(slice(0, count), slice(0, count, 1))]
    ]
    channels = result[0] * result[1]
    block = max(1, BLOCK_BYTES // max(1, math.prod(sizes) * dtype.itemsize))

    def run(x: Array, out: Array | None = None) -> Array:
        target = np.empty(result, dtype) if out is None or not out.flags.c_contiguous else out
        source, flat = x.reshape(channels, *sizes), target.reshape(channels, *result[2:])

        def part(begin: int, end: int) -> None:
            for first in range(begin, end, block):
                chosen = slice(first, min(first + block, end))
                reduce_windows(source[chosen], axes, combine, start, flat[chosen])
                if divisor is not None:
                    flat[chosen] /= divisor

        in_parts(part, channels, OPERATIONS * source.size)
        if out is None or out is target:
            return target
        np.copyto(out, target)
        return out

    return run


def reduce_windows(x: Array, axes: Axes, combine: np.ufunc, start: Any, out: Array) -> None:
    """Combines all windows of ``x [channels, *sizes, ...]`` into ``out [channels, *counts, ...]``, one axis at a time."""
    if not axes:
        out[...] = x
    for position, (axis, taps, count) in enumerate(axes):
        last = position == len(axes) - 1
        shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
        x = _reduce_axis(x, axis, taps, combine, start, out if last else np.empty(shape, out.dtype))


def _reduce_axis(x: Array, axis: int, taps: list[Range], combine: np.ufunc, start: Any, out: Array) -> Array:
    before = (slice(None),) * axis
    whole = slice(0, out.shape[axis])
    # taps that every window has come first: they need no starting value
    order = sorted(taps, key=lambda tap: tap.output != whole)
    if order[0].output == whole:
        first, *rest = order
        if rest and rest[0].output == whole:
            combine(x[(*before, first.input)], x[(*before, rest.pop(0).input)], out=out)
        else:
            out[...] = x[(*before, first.input)]
    else:
        rest = order
        out[...] = start
    for tap in rest:
        reached = out[(*before, tap.output)]
        combine(reached, x[(*before, tap.input)], out=reached)
    return out


def _taps(call: Call, padding_counts: bool = False) -> list[list[Range]]:
    return taps_of(call, tuple(map(int, call.output.shape[2:])), padding_counts)


def taps_of(call: Call, counts: tuple[int, ...], padding_counts: bool = False) -> list[list[Range]]:
    """The ranges of the taps of each axis, for so many windows; with ``padding_counts`` those inside the padded input."""
    x, attributes = call.inputs[0], call.attrs
    assert x is not None
    sizes = tuple(map(int, x.shape[2:]))
    rank = len(sizes)
    kernel = windows.per_axis(attributes["kernel"], rank, "kernel")
    strides = (
        kernel if attributes["strides"] is None else windows.per_axis(attributes["strides"], rank, "strides")
    )
    dilations = windows.per_axis(attributes["dilations"], rank, "dilations")
    pairs = windows.padding_pairs(attributes["padding"], sizes, kernel, strides, dilations)
    if padding_counts:
        sizes = tuple(before + n + after for n, (before, after) in zip(sizes, pairs, strict=True))
        pairs = ((0, 0),) * rank
    return tap_ranges(sizes, counts, kernel, strides, dilations, pairs)


def _elements_per_window(call: Call) -> Array:
    """How many elements each window counts, ``[*counts]``, at least 1."""
    elements = np.ones(tuple(map(int, call.output.shape[2:])))
    for axis, taps in enumerate(_taps(call, call.attrs["count_include_pad"])):
        along = np.zeros(elements.shape[axis])
        for tap in taps:
            along[tap.output] += 1
        elements *= along.reshape(-1, *(1,) * (elements.ndim - axis - 1))
    return np.maximum(elements, 1)


def global_average_pool(x: Array, out: Array | None = None) -> Array:
    """Mean over all spatial axes. ``[n, c, *spatial] -> [n, c, 1, ...]``."""
    axes = tuple(range(2, x.ndim))
    result = np.add.reduce(x, axis=axes, keepdims=True, out=out)
    result /= math.prod(x.shape[2:])
    return result


def global_max_pool(x: Array, out: Array | None = None) -> Array:
    """Greatest element over all spatial axes. ``[n, c, *spatial] -> [n, c, 1, ...]``."""
    return np.maximum.reduce(x, axis=tuple(range(2, x.ndim)), keepdims=True, out=out)

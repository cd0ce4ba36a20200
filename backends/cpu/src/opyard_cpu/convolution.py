"""Convolution on BLAS: blocks of im2col columns, plain products for 1x1 kernels, shifted products for depthwise ones.

Source of im2col: K. Chellapilla, S. Puri, P. Simard, "High Performance Convolutional Neural Networks for Document
Processing", 2006.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call
from opyard.ops import windows

from .geometry import Geometry, conv_geometry
from .taps import last_axes

Array = np.ndarray[Any, Any]
Run = Callable[..., Array]

COLUMN_BYTES = 1 << 22
"""Size of a block of columns: it is written and read again at once, so it should stay in the cache."""

LEAST_COLUMNS = 256
"""Fewer columns than this make a matrix product too narrow for BLAS, whatever the cache says."""

DEPTHWISE_BYTES = 1 << 18
"""Size of the block of a depthwise convolution, which every tap of the kernel reads and writes once."""


CALL_SECONDS = 2e-5
"""What one call takes beside the arithmetic."""


def prepare_conv(call: Call, device: Device) -> Run:
    """The function that computes this convolution, by the way that suits its kernel and groups."""
    g, dtype = conv_geometry(call), call.output.dtype
    if g.is_pointwise:
        compute: Callable[..., None] = partial(_pointwise, g)
    elif g.is_depthwise:
        compute = partial(_depthwise, g)
    elif _columns_per_block(g, dtype.itemsize) >= 2 * g.area:
        compute = partial(_several_images, g)
    else:
        compute = partial(_single_images, g)
    shape = (g.batch, g.outputs, *g.counts)

    def run(x: Array, weight: Array, bias: Array | None = None, out: Array | None = None) -> Array:
        target = np.empty(shape, dtype) if out is None or not out.flags.c_contiguous else out
        if target.size:
            compute(x, weight, bias, target)
        if out is None or out is target:
            return target
        np.copyto(out, target)
        return out

    return run


def cost(call: Call, device: Device) -> float:
    """Estimated seconds: the roofline at the efficiency of the way that prepare_conv takes."""
    g, work, abilities = conv_geometry(call), call.cost, device.capabilities
    efficiency = 0.6 if g.is_pointwise else 0.05 if g.is_depthwise else 0.08 if g.groups > 1 else 0.35
    return max(work.flops / abilities.flops, work.bytes / abilities.bandwidth) / efficiency + CALL_SECONDS


def _columns_per_block(g: Geometry, itemsize: int) -> int:
    return max(LEAST_COLUMNS, COLUMN_BYTES // max(1, g.groups * g.depth * itemsize))


def _pointwise(g: Geometry, x: Array, weight: Array, bias: Array | None, out: Array) -> None:
    """Kernels of one element: a matrix product for each image and group."""
    x = x[last_axes(slice(None, None, s) for s in g.strides)]
    rows = x.reshape(g.batch, g.groups, g.channels // g.groups, g.area)
    matrix = weight.reshape(g.groups, g.outputs // g.groups, g.depth)
    flat = out.reshape(g.batch, g.outputs, g.area)
    for image in range(g.batch):  # one by one, so that the bias is added while the product is in the cache
        np.matmul(matrix, rows[image], out=out[image].reshape(g.groups, g.outputs // g.groups, g.area))
        if bias is not None:
            flat[image] += bias[:, None]


def _single_images(g: Geometry, x: Array, weight: Array, bias: Array | None, out: Array) -> None:
    """Blocks of whole output rows of one image."""
    matrix = weight.reshape(g.groups, g.outputs // g.groups, g.depth)
    per_row = g.area // g.counts[0]
    rows = max(1, min(g.counts[0], _columns_per_block(g, out.itemsize) // per_row))
    patches = _patches(g, x, out.dtype)
    buffer = np.empty(g.groups * g.depth * rows * per_row, out.dtype)
    flat = out.reshape(g.batch, g.groups, g.outputs // g.groups, g.area)
    each = None if bias is None else bias.reshape(g.groups, -1, 1)
    for image in range(g.batch):
        for first in range(0, g.counts[0], rows):
            block = _rows(patches[image], g, first, rows)
            columns = _gather(block, buffer).reshape(g.groups, g.depth, -1)
            start = first * per_row
            target = flat[image, :, :, start : start + columns.shape[2]]
            np.matmul(matrix, columns, out=target)
            if each is not None:
                target += each


def _several_images(g: Geometry, x: Array, weight: Array, bias: Array | None, out: Array) -> None:
    """Small images: a block of columns holds several whole ones, and the product is moved to its places."""
    matrix = weight.reshape(g.groups, g.outputs // g.groups, g.depth)
    flat = out.reshape(g.batch, g.outputs, g.area)
    for images, columns in gathered_columns(g, x, out.dtype):
        result = np.matmul(matrix, columns).reshape(g.outputs, images.stop - images.start, g.area)
        if bias is not None:
            result += bias[:, None, None]
        flat[images] = result.transpose(1, 0, 2)


def gathered_columns(g: Geometry, x: Array, dtype: np.dtype[Any]) -> Iterator[tuple[slice, Array]]:
    """The columns ``[groups, depth, images * area]`` of as many whole images at a time as fit, in one buffer."""
    count = max(1, min(g.batch, _columns_per_block(g, dtype.itemsize) // max(1, g.area)))
    patches = _patches(g, x, dtype)
    buffer = np.empty(g.groups * g.depth * count * g.area, dtype)
    for first in range(0, g.batch, count):
        images = slice(first, min(first + count, g.batch))
        block = np.moveaxis(patches[images], 0, 1 + len(g.kernel))  # [c, *kernel, images, *counts]
        size = (images.stop - images.start) * g.area
        yield images, _gather(block, buffer).reshape(g.groups, g.depth, size)


def _patches(g: Geometry, x: Array, dtype: np.dtype[Any]) -> Array:
    """A view of all windows: ``[n, c, *kernel, *counts]``."""
    rank = len(g.kernel)
    padded = x
    if g.is_padded:
        room = tuple(before + n + after for n, (before, after) in zip(g.sizes, g.pairs, strict=True))
        padded = np.zeros((*x.shape[:2], *room), dtype)
        inside = (slice(before, before + n) for n, (before, _) in zip(g.sizes, g.pairs, strict=True))
        padded[last_axes(inside)] = x
    view = windows.windows(padded, g.counts, g.kernel, g.strides, g.dilations)
    return view.transpose(0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))


def _rows(image: Array, g: Geometry, first: int, count: int) -> Array:
    """The part of ``[c, *kernel, *counts]`` that makes ``count`` rows of the output."""
    others = (slice(None),) * (len(g.counts) - 1)
    rows: Array = image[last_axes((slice(first, first + count), *others))]
    return rows


def _gather(block: Array, buffer: Array) -> Array:
    """A dense copy of ``block`` at the beginning of ``buffer``."""
    dense = buffer[: block.size].reshape(block.shape)
    np.copyto(dense, block)
    return dense


def _depthwise(g: Geometry, x: Array, weight: Array, bias: Array | None, out: Array) -> None:
    """One input channel for each group: every tap adds the scaled image, shifted, to the output.

    In a padded image laid out flat a shift is an offset, so that all loops are long and contiguous; the elements between
    the rows of the output are computed and dropped, and so are those that strides leave out.
    """
    multiplier, rank = g.outputs // g.groups, len(g.kernel)
    room = tuple(before + n + after for n, (before, after) in zip(g.sizes, g.pairs, strict=True))
    steps = tuple(math.prod(room[axis + 1 :]) for axis in range(rank))
    spread = tuple(d * step for d, step in zip(g.dilations, steps, strict=True))
    offsets = [sum(t * s for t, s in zip(tap, spread, strict=True)) for tap in product(*map(range, g.kernel))]
    length = math.prod(room) - offsets[-1]
    channels = max(1, min(g.groups, DEPTHWISE_BYTES // (math.prod(room) * out.itemsize)))
    padded = np.zeros((channels, math.prod(room)), out.dtype)
    total, term = np.empty_like(padded), np.empty((channels, length), out.dtype)
    inside = padded.reshape(channels, *room)[
        last_axes(slice(before, before + n) for n, (before, _) in zip(g.sizes, g.pairs, strict=True))
    ]
    summed = total.reshape(channels, *room)[
        last_axes(slice(0, (n - 1) * s + 1, s) for n, s in zip(g.counts, g.strides, strict=True))
    ]
    scales = weight.reshape(g.groups, multiplier, len(offsets), 1)
    result = out.reshape(g.batch, g.groups, multiplier, *g.counts)
    for image, first in product(range(g.batch), range(0, g.groups, channels)):
        count = min(channels, g.groups - first)
        inside[:count] = x[image, first : first + count]
        for output in range(multiplier):
            factors = scales[first : first + count, output]
            _add_taps(padded[:count], factors, offsets, total[:count, :length], term[:count])
            result[image, first : first + count, output] = summed[:count]
    if bias is not None:
        out += bias.reshape(-1, *(1,) * rank)


def _add_taps(image: Array, factors: Array, offsets: list[int], total: Array, term: Array) -> None:
    """Writes the sum of ``image [c, ...]``, shifted by each offset and scaled by its factor, into ``total [c, length]``."""
    length = total.shape[1]
    for tap, offset in enumerate(offsets):
        shifted = image[:, offset : offset + length]
        np.multiply(shifted, factors[:, tap], out=term if tap else total)
        if tap:
            total += term

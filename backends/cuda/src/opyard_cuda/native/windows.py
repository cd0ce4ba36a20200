"""Convolution and pooling over one or two axes: ``kernels/convolution.cu`` and ``kernels/pool.cu``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call
from opyard.ops import windows

from ..kernels.windows import Pooling
from ..sources import CudaSource
from .launch import BLOCK, LARGEST, TYPES, blocks, function, instance, or_null, runner, sizes, text

_SMALL = (64, 64, 8, 4, 4)
_LARGE = (128, 128, 8, 8, 8)
"""Tiles of a convolution: out channels, pixels, taps at a time, and what a thread has of the first two."""

Axes = tuple[tuple[int, ...], ...]


def _accepts_spatial(call: Call) -> str | None:
    rank = len(sizes(call.inputs[0])) - 2
    if rank not in (1, 2):
        return f"slides over one or two axes, not {rank}"
    largest = max(math.prod(sizes(spec)) for spec in (call.inputs[0], call.output))
    return None if largest <= LARGEST else f"takes up to {LARGEST} elements, not {largest}"


def _in_two_axes(*axes: Sequence[int]) -> tuple[int, ...]:
    """The numbers of each property for rows and columns; one axis is a single row. The last property is that of padding."""
    neutral = (*(1,) * (len(axes) - 1), 0)
    filled = [
        (n, *given) if len(given) == 1 else tuple(given) for n, given in zip(neutral, axes, strict=True)
    ]
    return tuple(int(n) for pair in filled for n in pair)


def accepts_conv(call: Call, device: Device) -> str | None:
    """Takes one or two spatial axes, and one dtype for all arrays."""
    dtypes = {spec.dtype.name for spec in call.inputs if spec is not None}
    if len(dtypes) > 1:
        return f"takes one dtype for all arrays, not {', '.join(sorted(dtypes))}"
    return _accepts_spatial(call)


def prepare_conv(call: Call, device: Any) -> Callable[..., Any]:
    """A function that multiplies the weights with the windows, which are never written down."""
    (n, channels, *spatial), (outputs, _, *kernel) = sizes(call.inputs[0]), sizes(call.inputs[1])
    counts, rank, attrs = sizes(call.output)[2:], len(spatial), call.attrs
    steps = windows.per_axis(attrs["strides"], rank, "strides")
    spread = windows.per_axis(attrs["dilations"], rank, "dilations")
    pads = windows.padding_pairs(attrs["padding"], tuple(spatial), tuple(kernel), steps, spread)
    before = [pair[0] for pair in pads]
    height, width, rows, columns, *rest = _in_two_axes(spatial, counts, kernel, steps, spread, before)
    *inner, top, left, down, across = (*rest[:4], *rest[6:8], *rest[4:6])
    pixels, groups = n * math.prod(counts), attrs["groups"]
    tile = (
        _LARGE
        if outputs // groups >= 128 and pixels >= 128 * 132 and call.output.dtype.itemsize < 8
        else _SMALL
    )
    grid = (blocks(pixels, tile[1]), blocks(outputs // groups, tile[0]), groups)
    block = (tile[0] // tile[3] * tile[1] // tile[4],)
    extents = (channels, height, width, outputs, rows, columns, *inner, top, left, down, across)
    numbers = (np.int32(groups), np.int64(pixels), *map(np.int32, extents))
    function_ = function("convolution", instance("convolution", TYPES[call.output.dtype.name], *tile))

    def launch(arrays: Sequence[Any], result: Any) -> None:
        x, weight, bias = (*arrays, None)[:3]
        function_(grid, block, (x, weight, or_null(bias), result, *numbers))

    return runner(call, device, launch)


def accepts_pool(call: Call, device: Device) -> str | None:
    """Takes one or two spatial axes."""
    return _accepts_spatial(call)


def prepare_pool(call: Call, device: Any) -> Callable[..., Any]:
    """A function that runs max_pool or average_pool, one thread for each element."""
    attrs, mean = call.attrs, call.op.name == "average_pool"
    pooling = Pooling.of(
        call.inputs[0], *(attrs[name] for name in ("kernel", "strides", "padding", "dilations", "ceil_mode"))
    )
    spatial = sizes(call.inputs[0])[2:]
    before = [pair[0] for pair in pooling.padding]
    behind = [size + pair[1] for size, pair in zip(spatial, pooling.padding, strict=True)]
    total = math.prod(sizes(call.output))
    numbers = _in_two_axes(spatial, pooling.counts, pooling.kernel, pooling.strides, before)
    ends = _in_two_axes(behind, pooling.dilations, (0,) * len(spatial))[:4]
    include = np.int32(bool(attrs.get("count_include_pad", False)))
    kernel = function("pool", instance("pool", TYPES[call.output.dtype.name], mean))
    extents = (np.int64(total), *map(np.int32, (*numbers, *ends)), include)

    def launch(arrays: Sequence[Any], result: Any) -> None:
        kernel((blocks(total, BLOCK),), (BLOCK,), (arrays[0], result, *extents))

    return runner(call, device, launch)


def sources() -> Iterator[CudaSource]:
    """For each dtype both tiles of a convolution, and pooling."""
    for dtype, name in TYPES.items():
        tiles = (_SMALL, _LARGE) if dtype == "float32" else (_SMALL,)
        entries = tuple(instance("convolution", name, *tile) for tile in tiles)
        yield CudaSource(f"convolution/{dtype}", text("convolution"), entries)
        yield CudaSource(
            f"pool/{dtype}", text("pool"), tuple(instance("pool", name, mean) for mean in (False, True))
        )

"""Products and convolutions of one floating type on CPU devices, by the register tiles of kernels/tiles.cl."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call
from opyard.ops import windows
from opyard.region import Region
from opyard.spec import TensorSpec

from .array import Array
from .device import OpenCLDevice
from .formats import format_of, program, refusal
from .launch import Launch, exact, partition, table
from .layout import sizes_of
from .product import COMPILER_OPTIONS, SCRATCH_LIMIT, matrix_offsets, slots

_RUN = 256  # products, as in kernels/tiles.cl
_BLOCK = 1024  # columns of the right operand that are packed at a time
_LEAST_BLOCK, _LEAST_CHUNK = 128, 96  # columns and rows that are worth packing anew
_LONGS = np.int64
Constants = tuple[Array | None, ...]
_HEIGHTS = {32: (6, 4), 64: (12, 8)}
"""Rows of a high and of a low tile by the bytes of a vector: two vectors for each, and three beside them, fit into the registers."""
_WASTE = {32: 1.07, 64: 1.01}
"""How much more than the rows that there are high tiles may compute where low ones would compute less: these are slower, by little
where they have as many as eight rows.
"""


def accepts(call: Call, device: Device) -> str | None:
    """Why a product cannot be computed by tiles, or None."""
    reason = refusal(call, device)
    if reason is not None:
        return reason
    dtypes = {spec.dtype.name for spec in (*call.inputs, call.output) if spec is not None}
    if len(dtypes) > 1:
        return f"takes operands of one dtype, not {', '.join(sorted(dtypes))}"
    if isinstance(device, OpenCLDevice) and not device.shares_memory:
        return f"keeps operands in the caches of a few processors; {device.name} has many"
    return None


def conv_accepts(call: Call, device: Device) -> str | None:
    """Why a convolution cannot be computed by tiles, or None."""
    x = call.inputs[0]
    assert x is not None
    strides = windows.per_axis(call.attrs["strides"], x.ndim - 2, "strides")
    if any(stride != 1 for stride in strides):
        return f"takes strides of 1, not {strides}"
    if int(x.size) * x.dtype.itemsize > SCRATCH_LIMIT:
        return f"copies images with their padding, up to {SCRATCH_LIMIT >> 20} MiB; {x!r} has more"
    return accepts(call, device)


def low_accepts(call: Call, device: Device) -> str | None:
    """Why a product or a convolution cannot be computed by low tiles, or None."""
    reason = (conv_accepts if call.op.name == "conv" else accepts)(call, device)
    if (
        reason is None
        and isinstance(device, OpenCLDevice)
        and _height(device, _tiled_rows(call)) == _low(device)
    ):
        return "has the tiles that opencl/tiles takes for so many rows"
    return reason


@exact
def prepare_matmul(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs matmul or linear: ``[..., m, k], [..., k, n] (, [n]) -> [..., m, n]``."""
    return _matmul(call, device, _height(device, _tiled_rows(call)))


@exact
def prepare_low(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """The same, and conv, with low tiles: less is wasted on few rows, and each number read is used less often."""
    return (_conv if call.op.name == "conv" else _matmul)(call, device, _low(device))


def _matmul(call: Call, device: OpenCLDevice, tile: int) -> Callable[..., Array]:
    left, right = call.inputs[0], call.inputs[1]
    assert left is not None and right is not None
    a, b = sizes_of(left), sizes_of(right)
    a = (1, *a) if len(a) == 1 else a
    b = (*b, 1) if len(b) == 1 else b
    rows, depth, width = a[-2], a[-1], b[-1]
    batches = math.prod(np.broadcast_shapes(a[:-2], b[:-2]))
    offsets = matrix_offsets(a, b)
    if len(b) == 2 and len(a) > 2:  # one matrix on the right serves all batches: they are rows
        rows, batches, offsets = rows * math.prod(a[:-2]), 1, np.zeros((1, 2), np.int64)
    bias = "BIAS_COLUMN" if len(call.inputs) > 2 and call.inputs[2] is not None else ""
    return _product(device, call, (batches, rows, depth, width), offsets, bias, tile)


@exact
def prepare_conv(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs conv with strides 1: a product where the kernel has one element, else directly."""
    return _conv(call, device, _height(device, _tiled_rows(call)))


@exact
def prepare_packed(region: Region, device: OpenCLDevice, constants: Constants) -> Callable[..., Array]:
    """The same for the pattern of a convolution alone: weights that are constants are packed once."""
    (node,) = region.graph.nodes
    return _conv(node.call, device, _height(device, _tiled_rows(node.call)), constants[1])


def packed_accepts(region: Region, device: Device) -> str | None:
    """Why a convolution cannot be computed by tiles with packed weights, or None."""
    (node,) = region.graph.nodes
    return conv_accepts(node.call, device) or ("has no weights to pack" if _is_pointwise(node.call) else None)


def _is_pointwise(call: Call) -> bool:
    """Whether a convolution is a product of matrices."""
    x, weight = call.inputs[0], call.inputs[1]
    assert x is not None and weight is not None
    one = all(n == 1 for n in weight.shape[2:]) and call.attrs["groups"] == 1
    return one and x.shape[2:] == call.output.shape[2:]


def _conv(call: Call, device: OpenCLDevice, tile: int, constant: Array | None = None) -> Callable[..., Array]:
    x, weight, bias = call.inputs
    assert x is not None and weight is not None
    sizes, shape = sizes_of(x), sizes_of(weight)
    if not _is_pointwise(call):
        return _direct(call, device, tile, constant)
    places = math.prod(sizes[2:])
    offsets = np.stack([np.zeros(sizes[0], np.int64), np.arange(sizes[0]) * shape[1] * places], axis=-1)
    run = _product(
        device,
        call,
        (sizes[0], shape[0], shape[1], places),
        offsets,
        "BIAS_ROW" if bias is not None else "",
        tile,
    )
    return lambda x, weight, *rest, out=None: run(weight, x, *rest, out=out)


def _product(
    device: OpenCLDevice,
    call: Call,
    sizes: tuple[int, int, int, int],
    offsets: np.ndarray[Any, Any],
    bias: str,
    tile: int,
) -> Callable[..., Array]:
    """Runs ``batches`` products ``[rows, depth], [depth, width]``, the sizes in this order."""
    batches, rows, depth, width = sizes
    text, panel, itemsize = _program(device, call, tile, bias)
    block, chunk = _division(device, batches, rows, width, panel, tile)
    blocks, chunks = -(-width // block), -(-rows // chunk) if rows else 0
    units = batches * blocks * chunks
    deep = min(_RUN, depth)
    slot = -(-deep * (-(-block // panel) * panel + tile) // panel) * panel
    items, step, scratch = slots(device, units, slot * itemsize)
    numbers = map(_LONGS, (units, rows, depth, width, blocks, block, chunks, chunk, slot, step))
    bound = (*numbers, table(device, offsets))
    launch = Launch(device, text, "blocked_product", items, bound, COMPILER_OPTIONS) if units else None

    def run(*arrays: Array | None, out: Array | None = None) -> Array:
        result = device.empty(call.output) if out is None else out
        if launch is not None:
            operands = [array for array in arrays if array is not None]
            launch(*operands, result, device.scratch(scratch))
        return result

    return run


def _division(
    device: OpenCLDevice, batches: int, rows: int, width: int, panel: int, tile: int
) -> tuple[int, int]:
    """Columns of a block and rows of a chunk: as large as the cache allows, and small enough that all workers have some."""
    wanted = 1 if device.workers == 1 else 4 * device.workers
    block = min(_BLOCK, -(-width // panel) * panel) or panel
    chunk = max(1, rows)

    def enough() -> bool:
        return batches * -(-width // block) * -(-rows // chunk) >= wanted

    while not enough() and chunk > _LEAST_CHUNK:
        chunk = -(-chunk // 2 // tile) * tile
    while not enough() and block > _LEAST_BLOCK:
        block = -(-block // 2 // panel) * panel
    return block, chunk


def _direct(call: Call, device: OpenCLDevice, tile: int, constant: Array | None) -> Callable[..., Array]:
    x, weight, bias = call.inputs
    assert x is not None and weight is not None
    groups, batch = call.attrs["groups"], int(x.shape[0])
    rows, channels = int(weight.shape[0]) // groups, int(weight.shape[1])
    geometry, shifts, apart = _geometry(call)
    copy, places = geometry[2], geometry[1]
    taps = math.prod(int(n) for n in weight.shape[2:])
    text, panel, itemsize = _program(
        device, call, tile, "BIAS_ROW" if bias is not None else "", int(weight.shape[-1])
    )
    results = ((places[0] - 1) * copy[1] + places[1] - 1) * copy[2] + places[2]
    panels = -(-results // panel) if call.output.size else 0
    units, planes = batch * groups * panels, batch * groups * channels
    # the last panel reads beyond the last image
    images = -(-(planes * math.prod(copy) + 2 * panel + math.prod(copy[1:])) // panel) * panel
    depth, weights = channels * taps, groups * (-(-rows // tile) if rows else 0)
    known = constant is not None and depth > 0 and units > 0
    behind = 0 if known else images
    room = (images + (0 if known else weights * tile * depth) + panel) * itemsize
    g, offsets = table(device, geometry), table(device, shifts)

    def started(name: str, count: int, grain: int, facts: tuple[int, ...], *tables: Array) -> Launch:
        items, step = partition(device, count, grain)
        bound = (*map(_LONGS, (count, *facts, step)), *tables)
        return Launch(device, text, name, items, bound, COMPILER_OPTIONS)

    packed = device.empty(TensorSpec((weights * tile * depth,), call.output.dtype)) if known else None
    if units:
        pack = started("pack_weights", weights, 1, (rows, depth, behind))
        pad = started("pad_image", planes * copy[0] * copy[1], 64, (), g)
        lines, line = len(shifts), taps // max(1, len(shifts))
        facts = (groups, panels, rows, channels, lines, line, apart, behind)
        convolve = started("direct_convolution", units, 1, facts, g, offsets)
        if packed is not None and constant is not None:
            pack(constant, packed)

    def run(x: Array, weight: Array, bias: Array | None = None, *, out: Array | None = None) -> Array:
        result = device.empty(call.output) if out is None else out
        if units:
            scratch = device.scratch(room)
            factors = scratch if packed is None else packed
            if depth:
                pad(x, scratch)
                if packed is None:
                    pack(weight, factors)
            convolve(*(() if bias is None else (bias,)), factors, result, scratch)
        return result

    return run


def _geometry(call: Call) -> tuple[list[tuple[int, ...]], list[int], int]:
    """Sizes of x, of the output and of the padded copy, and padding before, for three axes each; the shift of the first tap
    of each line of the kernel; and the distance of the taps of a line.
    """
    x, weight = call.inputs[0], call.inputs[1]
    assert x is not None and weight is not None
    sizes, kernel, places = (sizes_of(spec)[2:] for spec in (x, weight, call.output))
    rank, attributes = len(sizes), call.attrs
    dilations = windows.per_axis(attributes["dilations"], rank, "dilations")
    ones = (1,) * rank
    pairs = windows.padding_pairs(attributes["padding"], sizes, kernel, ones, dilations)
    reach = tuple((n - 1) * dilation for n, dilation in zip(kernel, dilations, strict=True))
    copy = tuple(n + far for n, far in zip(places, reach, strict=True))
    rows = ((sizes, 1), (places, 1), (copy, 1), (tuple(pair[0] for pair in pairs), 0))
    geometry = [(value,) * (3 - rank) + tuple(map(int, own)) for own, value in rows]
    strides = (copy[-2] * copy[-1] if rank > 1 else 0, copy[-1], 1)[-rank:]
    lines = np.indices((*kernel[:-1], min(1, kernel[-1]))).reshape(rank, -1).T * np.array(dilations, np.int64)
    return geometry, [int(shift) for shift in lines @ np.array(strides, np.int64)], dilations[-1]


def _height(device: OpenCLDevice, rows: int) -> int:
    """Rows of a tile: of high ones, unless there are many rows and the last tile would mostly stand out beyond them."""
    size = device.vector_bytes
    high, low = (-(-rows // n) * n for n in _HEIGHTS[size])
    tall = _HEIGHTS[size][0]
    return _low(device) if rows >= 4 * tall and low < high > _WASTE[size] * rows else tall


def _low(device: OpenCLDevice) -> int:
    return _HEIGHTS[device.vector_bytes][1]


def _tiled_rows(call: Call) -> int:
    """The rows that tiles are laid over: results of a product, or output channels of a group."""
    left, right = call.inputs[0], call.inputs[1]
    assert left is not None and right is not None
    if call.op.name == "conv":
        return int(right.shape[0]) // int(call.attrs["groups"])
    sizes = sizes_of(left)
    return math.prod(sizes[:-1]) if right.ndim == 2 else sizes[-2] if len(sizes) > 1 else 1


def _program(
    device: OpenCLDevice, call: Call, tile: int, bias: str, line: int | None = None
) -> tuple[str, int, int]:
    """The program, the columns of a panel, and the bytes of an element; of a product or, with the taps of a line of its
    kernel, of a convolution.
    """
    compute, itemsize = format_of(call.output).compute, call.output.dtype.itemsize
    lanes = device.vector_bytes // itemsize
    macros: dict[str, Any] = {"V": f"{compute}{lanes}", "VLANES": lanes, "ROWS": tile}
    macros |= {
        "DIRECT": int(line is not None),
        "LINE": 3 if line == 3 else "taps_of_line",
        **{name: int(name == bias) for name in ("BIAS_ROW", "BIAS_COLUMN")},
    }
    return program("tiles", compute, macros), 2 * lanes, itemsize

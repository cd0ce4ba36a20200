"""Matrix products and convolutions, both by the register tiles of kernels/product.cl."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call
from opyard.ops import windows
from opyard.spec import TensorSpec

from .array import Array
from .device import OpenCLDevice
from .formats import format_of, program, refusal
from .launch import Launch, exact, table
from .layout import sizes_of

_ROW_GRAIN = 48  # rows of the left operand that are worth packing a panel again
_LONGS = np.int64
_BYTES = {
    "char": 1,
    "uchar": 1,
    "short": 2,
    "ushort": 2,
    "int": 4,
    "uint": 4,
    "float": 4,
    "long": 8,
    "ulong": 8,
    "double": 8,
}
SCRATCH_LIMIT = 1 << 28
"""Bytes of scratch memory for one launch."""
COMPILER_OPTIONS = ("-cl-mad-enable",)
"""Compiler options of programs of kernels/product.cl."""


def accepts(call: Call, device: Device) -> str | None:
    """Why a product cannot be computed for the dtypes of a call, or None."""
    reason = refusal(call, device)
    if reason is None and format_of(call.output).kind == "b":
        return "takes numbers, not bool"
    return reason


@exact
def prepare_matmul(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs matmul or linear: ``[..., m, k], [..., k, n] (, [n]) -> [..., m, n]``."""
    left, right = call.inputs[0], call.inputs[1]
    bias = call.inputs[2] if len(call.inputs) > 2 else None
    assert left is not None and right is not None
    a, b = sizes_of(left), sizes_of(right)
    a = (1, *a) if len(a) == 1 else a
    b = (*b, 1) if len(b) == 1 else b
    rows, depth, width = a[-2], a[-1], b[-1]
    batches = math.prod(np.broadcast_shapes(a[:-2], b[:-2]))
    offsets = matrix_offsets(a, b)
    if len(b) == 2 and len(a) > 2:  # one matrix on the right serves all batches: they are rows
        rows, batches, offsets = rows * math.prod(a[:-2]), 1, np.zeros((1, 2), np.int64)
    text, panel, compute = _program(device, call, left, right, bias, convolution=False)
    panels = -(-width // panel)
    chunks = _chunks(device, batches * panels, rows)
    chunk = -(-rows // chunks)
    units = batches * panels * chunks if rows else 0
    items, step, scratch = slots(device, units, depth * panel * _BYTES[compute])
    bound = (*map(_LONGS, (units, rows, depth, width, chunks, chunk, step)), table(device, offsets))
    return _runner(
        call,
        device,
        Launch(device, text, "product", items, bound, COMPILER_OPTIONS) if units else None,
        scratch,
    )


@exact
def prepare_conv(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs conv over one to three spatial axes; axes that are missing have size 1."""
    x, weight, bias = call.inputs
    assert x is not None and weight is not None
    geometry = _geometry(call, sizes_of(x), sizes_of(weight))
    groups = call.attrs["groups"]
    rows, channels = int(weight.shape[0]) // groups, int(weight.shape[1])
    places = math.prod(geometry[1])
    text, panel, compute = _program(device, call, weight, x, bias, convolution=True)
    units = int(x.shape[0]) * groups * -(-places // panel) if rows else 0
    items, step, scratch = slots(device, units, channels * math.prod(geometry[2]) * panel * _BYTES[compute])
    bound = (*map(_LONGS, (units, groups, rows, channels, step)), table(device, geometry))
    return _runner(
        call,
        device,
        Launch(device, text, "convolve", items, bound, COMPILER_OPTIONS) if units else None,
        scratch,
    )


def conv_accepts(call: Call, device: Device) -> str | None:
    """Why a convolution cannot be computed, or None."""
    x = call.inputs[0]
    assert x is not None
    if math.prod(sizes_of(x)[2:]) >= 2**31:
        return f"takes images of fewer than 2**31 elements for each channel; {x!r} has more"
    return refusal(call, device)


def _runner(call: Call, device: OpenCLDevice, launch: Launch | None, scratch: int) -> Callable[..., Array]:
    given = tuple(spec is not None for spec in call.inputs)

    def run(*arrays: Array, out: Array | None = None) -> Array:
        result = device.empty(call.output) if out is None else out
        if launch is not None:
            operands = [array for array, there in zip(arrays, given, strict=False) if there]
            launch(*operands, result, device.scratch(scratch))
        return result

    return run


def _program(
    device: OpenCLDevice, call: Call, a: TensorSpec, b: TensorSpec, bias: TensorSpec | None, convolution: bool
) -> tuple[str, int, str]:
    """The program, the columns of a panel, and the type that it computes in."""
    compute = format_of(call.output).compute
    macros, panel, _ = panel_macros(device, compute)
    macros |= {"CONVOLUTION": int(convolution), "TRANSPOSED": 0}
    macros |= {
        "BIAS_ROW": int(convolution and bias is not None),
        "BIAS_COLUMN": int(not convolution and bias is not None),
    }
    ports = {"A": format_of(a), "B": format_of(b), "OUT": format_of(call.output)}
    if bias is not None:
        ports["BIAS"] = format_of(bias)
    return program("product", compute, macros, **ports), panel, compute


def panel_macros(device: OpenCLDevice, compute: str) -> tuple[dict[str, Any], int, int]:
    """The macros for the vectors of a type, the columns of a panel, and the bytes of an element."""
    lanes = max(2, min(8, device.vector_bytes // _BYTES[compute]))
    macros = {"V": f"{compute}{lanes}", "VLANES": lanes, "VSTORE": f"vstore{lanes}"}
    return macros, 2 * lanes, _BYTES[compute]


def slots(device: OpenCLDevice, units: int, slot: int) -> tuple[int, int, int]:
    """Work items, units of each, and bytes of scratch memory: one slot of ``slot`` bytes for each item."""
    most = 4 * device.workers if device.shares_memory and not device.quirks.single_steps else 1024
    items = max(1, min(units, most, SCRATCH_LIMIT // max(1, slot)))
    step = -(-units // items)
    items = -(-units // step) if units else 1
    return items, step, items * slot


def _chunks(device: OpenCLDevice, units: int, rows: int) -> int:
    """Parts to cut the rows into so that all workers have work."""
    wanted = -(-4 * device.workers // max(1, units)) if units < 4 * device.workers else 1
    return max(1, min(wanted, rows // _ROW_GRAIN))


def matrix_offsets(a: tuple[int, ...], b: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Where the matrices of each batch begin in both operands, in elements: ``[batches, 2]``."""
    return np.stack([_offsets(a, b), _offsets(b, a)], axis=-1)


def _offsets(own: tuple[int, ...], other: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Where the matrix of each batch begins in an operand, in elements; batch axes broadcast."""
    size = math.prod(own[-2:])
    numbers = np.arange(math.prod(own[:-2]), dtype=np.int64).reshape(own[:-2]) * size
    return np.broadcast_to(numbers, np.broadcast_shapes(own[:-2], other[:-2])).reshape(-1)


def _geometry(call: Call, x: tuple[int, ...], weight: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Sizes of x, of the output and of the kernel, strides, padding before and dilations, for three axes each."""
    attributes, kernel, rank = call.attrs, weight[2:], len(x) - 2
    strides = windows.per_axis(attributes["strides"], rank, "strides")
    dilations = windows.per_axis(attributes["dilations"], rank, "dilations")
    pairs = windows.padding_pairs(attributes["padding"], x[2:], kernel, strides, dilations)
    before = tuple(pair[0] for pair in pairs)
    filled = (
        (x[2:], 1),
        (sizes_of(call.output)[2:], 1),
        (kernel, 1),
        (strides, 1),
        (before, 0),
        (dilations, 1),
    )
    return [(value,) * (3 - rank) + tuple(sizes) for sizes, value in filled]

"""Softmax and normalizations, a row to a block."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call

from ..native import rows
from ..native.launch import runner, sizes
from .launch import Program, launcher, missing

LONGEST = 1 << 14
"""Elements of a row: a block of 512 threads keeps all of them in registers."""


def accepts_softmax(call: Call, device: Device) -> str | None:
    """Takes the last axis alone, and rows that fit into the registers of a block."""
    return (
        missing(device) or rows.accepts_softmax(call, device) or _accepts_columns(sizes(call.inputs[0])[-1])
    )


def accepts_normalization(call: Call, device: Device) -> str | None:
    """Takes what ``native.rows`` takes, of rows that fit into the registers of a block."""
    return missing(device) or rows.accepts_normalization(call, device) or _accepts_columns(_extents(call)[1])


def _accepts_columns(columns: int) -> str | None:
    return None if columns <= LONGEST else f"takes rows of up to {LONGEST} elements, not {columns}"


def _extents(call: Call) -> tuple[int, int]:
    """Rows, and elements of a row, of a normalization."""
    shape = sizes(call.output)
    axis = call.attrs["axis"] % len(shape)
    return math.prod(shape[:axis]), math.prod(shape[axis:])


def _block(columns: int) -> int:
    """A power of two that a row fits into."""
    return max(32, 1 << (columns - 1).bit_length())


def _warps(columns: int) -> int:
    """Warps of a block: each thread keeps at most 32 elements of the row."""
    return min(16, max(1, _block(columns) // 256))


def prepare_softmax(call: Call, device: Any) -> Callable[..., Any]:
    """A function that runs softmax or log_softmax along the last axis."""
    shape, dtype = sizes(call.output), call.output.dtype.name
    count, columns = math.prod(shape[:-1]), shape[-1]
    if not call.output.size:
        return runner(call, device, lambda arrays, result: None)
    program = Program.of(
        "softmax",
        {"x": dtype, "result": dtype},
        {"columns": columns},
        {"LOGARITHM": call.op.name == "log_softmax", "BLOCK": _block(columns)},
        warps=_warps(columns),
    )
    start = launcher(program, device, (count,))

    def launch(arrays: Sequence[Any], result: Any) -> None:
        start(arrays[0], result, np.int32(columns))

    return runner(call, device, launch)


def prepare_normalization(call: Call, device: Any) -> Callable[..., Any]:
    """A function that runs layer_normalization or rms_normalization over trailing axes."""
    (count, columns), centred = _extents(call), call.op.name == "layer_normalization"
    if not call.output.size:
        return runner(call, device, lambda arrays, result: None)
    x, scale, bias = (*(None if spec is None else spec.dtype.name for spec in call.inputs), None, None)[:3]
    program = Program.of(
        "normalization",
        {"x": x, "scale": scale, "bias": bias, "result": x},
        {"columns": columns},
        {"CENTRED": centred, "BLOCK": _block(columns)},
        floats=("epsilon",),
        warps=_warps(columns),
    )
    start = launcher(program, device, (count,))
    numbers = np.int32(columns), np.float32(call.attrs["epsilon"])

    def launch(arrays: Sequence[Any], result: Any) -> None:
        start(*(array for array in arrays if array is not None), result, *numbers)

    return runner(call, device, launch)

"""Products of large matrices by oneDNN's ``sgemm``, which packs both as it goes: its primitives pack the second one first."""

from __future__ import annotations

from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.errors import KernelError
from opyard.operation import Call

from .addresses import Array, address, dense
from .chains import SECONDS, Run
from .layouts import concrete
from .library import describe_status, library, missing
from .products import plain_cost

LEAST, SLOWER = 768, 1.1
"""Rows, columns and depth from which on it is faster than a primitive, and how many times as long it takes below."""

PEAK = 0.97
"""Fraction of the device's peak that it reaches."""


def accepts(call: Call, device: Device) -> str | None:
    """Why a product is not computed in this way, or None."""
    if reason := missing():
        return reason
    second = call.inputs[1]
    assert second is not None
    if second.ndim != 2:
        return f"takes one matrix for all rows, [k, n], not {second!r}"
    if any(spec is not None and not spec.size for spec in call.inputs):
        return "an empty tensor is nothing for oneDNN"
    return None


def _sizes(call: Call) -> tuple[int, int, int]:
    """Rows, depth and columns; a stack of rows for one matrix is a longer matrix."""
    assert call.inputs[1] is not None
    depth, columns = concrete(call.inputs[1].shape)
    return int(call.output.size) // columns, depth, columns


def prepare(call: Call, device: Device) -> Run:
    """``run(x1, x2)`` on plain arrays, the second of which may lie by columns, as a transposed view does."""
    rows, depth, columns = _sizes(call)
    shape, found = concrete(call.output.shape), library()
    multiply: Any = found.functions["sgemm"]

    def run(x1: Array, x2: Array, out: Array | None = None) -> Array:
        x1, by_columns = dense(x1), x2.flags.f_contiguous
        x2 = x2 if by_columns else dense(x2)
        order, stride = (b"T", depth) if by_columns else (b"N", columns)
        fits = out is not None and out.flags.c_contiguous
        result = out if out is not None and fits else np.empty(shape, np.float32)
        factors = (address(x1), depth, address(x2), stride)
        found.use_threads()
        status = multiply(b"N", order, rows, columns, depth, 1.0, *factors, 0.0, address(result), columns)
        if status:
            raise KernelError(f"oneDNN's sgemm failed: {describe_status(status)}")
        if out is None or fits:
            return result
        np.copyto(out, result)
        return out

    return run


def cost(call: Call, device: Device) -> float:
    """Estimated seconds."""
    if min(_sizes(call)) < LEAST:
        return SLOWER * plain_cost(call, device)
    abilities, (flops, nbytes) = device.capabilities, call.cost
    return max(flops / (abilities.flops * PEAK), nbytes / abilities.bandwidth) + SECONDS

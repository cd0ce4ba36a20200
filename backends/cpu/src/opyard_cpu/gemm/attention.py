"""The kernel of ``scaled_dot_product_attention``: arrays are taken as they lie, so that heads need not be brought together before."""

from __future__ import annotations

import ctypes
import math

import numpy as np

from opyard.driver import Device
from opyard.operation import Call
from opyard.settings import num_threads

from ..jit import machine
from ..jit.teams import on_threads
from ..onednn.addresses import Array, address
from ..onednn.chains import SECONDS, Run
from ..onednn.layouts import concrete
from ..onednn.library import missing as no_onednn
from .attention_shape import ROWS, VECTORS, Shape
from .attention_source import AttentionSource

PEAK = 1.0
"""Times the device's peak that the products reach."""

STREAMING = 1.1
"""Times the memory's bandwidth, which is that of large arrays, at which keys and values of few queries are read."""

EXPONENTIALS = 2e9
"""A second, of one thread."""

MOST_BYTES = 1 << 20
"""What a thread may have on its stack."""


def shape_of(call: Call) -> Shape:
    """The sizes of a call."""
    query, key, value = (concrete(spec.shape) for spec in call.inputs[:3] if spec is not None)
    batch, heads, length, width = query
    scale = call.attrs["scale"]
    factor = scale if scale is not None else 1.0 / math.sqrt(width)
    mask = call.inputs[3]
    pairs, threads = batch * heads, num_threads()
    wanted = 1 if threads == 1 else -(-2 * threads // pairs)
    return Shape(
        *(batch, heads, heads // key[1], length, key[2], width, value[3]),
        machine.host().vector_bytes // 4,
        float(factor),
        bool(call.attrs["causal"]),
        "" if mask is None else "hide" if mask.dtype.kind == "b" else "add",
        min(wanted, -(-length // ROWS)),
    )


def accepts(call: Call, device: Device) -> str | None:
    """Why an attention is not compiled, or None."""
    if reason := machine.missing() or no_onednn():
        return reason
    specs = [spec for spec in call.inputs if spec is not None]
    if any(not spec.size for spec in specs):
        return "an attention without elements needs no compiler"
    for name, spec in zip(("query", "key", "value"), specs, strict=False):
        if spec.dtype.name != "float32":
            return f"takes {name} of float32, not {spec.dtype.name}"
    if len(specs) > 3 and specs[3].dtype.name not in ("float32", "bool"):
        return f"takes a mask of float32 or bool, not {specs[3].dtype.name}"
    shape = shape_of(call)
    unit = VECTORS * shape.lanes
    if shape.width % unit or shape.values % unit:
        return f"takes heads whose widths are multiples of {unit}, not {shape.width} and {shape.values}"
    nbytes = 4 * sum(shape.sizes.values())
    if nbytes > MOST_BYTES:
        return f"keeps keys and values of a head in {MOST_BYTES} bytes, and these take {nbytes}"
    return None


def _steps(array: Array) -> tuple[Array, list[int]]:
    """An array whose last axis is dense, and its strides in numbers."""
    if array.strides[-1] != 4 or any(step % 4 for step in array.strides):
        array = np.ascontiguousarray(array)
    return array, [step // 4 for step in array.strides[:3]]


def prepare(call: Call, device: Device) -> Run:
    """``run(query, key, value, mask)``. The result has the heads behind the positions in memory, as the next product wants them."""
    shape = shape_of(call)
    module = machine.compiler().function(AttentionSource(shape).text())
    work = 2 * shape.units * shape.length * shape.keys * shape.width
    compute = on_threads(module, shape.units, num_threads() if work > 2e6 else 1)
    kind = ctypes.c_void_p * 5
    whole = (shape.batch, shape.heads, shape.length, shape.keys)

    def run(query: Array, key: Array, value: Array, mask: Array | None = None) -> Array:
        made = np.empty((shape.batch, shape.length, shape.heads, shape.values), np.float32)
        result = made.transpose(0, 2, 1, 3)
        given = [_steps(array) for array in (query, key, value, result)]
        words = [address(array) for array, _ in given]
        table = [step for _, steps in given for step in steps]
        added = None
        if mask is not None:
            added = _numbers(mask, shape.keys)
            words.append(address(added))
            table += [step // 4 for step in np.broadcast_to(added, whole).strides[:3]]
        else:
            words.append(0)
            table += [0, 0, 0]
        compute(kind(*words), (ctypes.c_int64 * len(table))(*table))
        return result

    return run


def _numbers(mask: Array, keys: int) -> Array:
    """A mask as numbers, with a last axis of its own; of a boolean one those that are not zero say what to hide."""
    if mask.dtype.kind == "b":
        mask = ~mask
    return np.ascontiguousarray(np.broadcast_to(mask, (*mask.shape[:-1], keys)), np.float32)


def cost(call: Call, device: Device) -> float:
    """Estimated seconds: products, exponentials, and reading, which few queries wait for."""
    shape, abilities = shape_of(call), device.capabilities
    scores = shape.batch * shape.heads * shape.length * shape.keys * (0.55 if shape.causal else 1.0)
    products = 2 * scores * (shape.width + shape.values) / (abilities.flops * PEAK)
    others = scores / EXPONENTIALS / min(num_threads(), shape.units) + 2 * SECONDS
    return max(products, call.cost.bytes / (abilities.bandwidth * STREAMING)) + others

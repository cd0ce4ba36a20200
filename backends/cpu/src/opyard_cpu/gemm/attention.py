"""The kernel of ``scaled_dot_product_attention``: arrays are taken as they lie, so that heads need not be brought together before.

The same behind joins of keys and values with those of earlier steps is one kernel, too, which reads these once.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence

import numpy as np

from opyard.driver import Device
from opyard.kernels import Work
from opyard.operation import Call
from opyard.settings import num_threads

from ..jit import machine
from ..jit.launch import aligned
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

LEAST_WORK, LEAST_BYTES = 2e6, 1 << 18
"""Operations, or bytes that are read and written, from which on another thread pays."""

MOST_BYTES = 1 << 20
"""What a thread may have on its stack."""


def _base(work: Work) -> tuple[Call, int]:
    """The attention, and how many keys come from an array of their own."""
    if isinstance(work, Call):
        return work, 0
    past = work.inputs[1]
    assert past is not None
    return work.graph.nodes[-1].call, int(past.shape[2])


def shape_of(work: Work) -> Shape:
    """The sizes of an attention."""
    call, past = _base(work)
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
        past,
    )


def accepts(work: Work, device: Device) -> str | None:
    """Why an attention is not compiled, or None."""
    if reason := machine.missing() or no_onednn():
        return reason
    call, _ = _base(work)
    specs = [spec for spec in call.inputs if spec is not None]
    if any(not spec.size for spec in specs):
        return "an attention without elements needs no compiler"
    for name, spec in zip(("query", "key", "value"), specs, strict=False):
        if spec.dtype.name != "float32":
            return f"takes {name} of float32, not {spec.dtype.name}"
    if len(specs) > 3 and specs[3].dtype.name not in ("float32", "bool"):
        return f"takes a mask of float32 or bool, not {specs[3].dtype.name}"
    shape = shape_of(work)
    unit = VECTORS * shape.lanes
    if shape.width % unit or shape.values % unit:
        return f"takes heads whose widths are multiples of {unit}, not {shape.width} and {shape.values}"
    nbytes = 4 * sum(shape.sizes.values())
    if nbytes > MOST_BYTES:
        return f"keeps keys and values of a head in {MOST_BYTES} bytes, and these take {nbytes}"
    if isinstance(work, Call):
        return None
    before = [concrete(spec.shape)[2] for spec in (work.inputs[1], work.inputs[3]) if spec is not None]
    if not shape.is_narrow:
        return f"joins caches for fewer than {ROWS} queries, not {shape.length}"
    if before[0] != before[1] or not before[0]:
        return f"takes as many keys as values, at least one, not {before[0]} and {before[1]}"
    return None


def _steps(array: Array) -> tuple[Array, list[int]]:
    """An array whose last axis is dense, and its strides in numbers."""
    if array.strides[-1] != 4 or any(step % 4 for step in array.strides):
        array = np.ascontiguousarray(array)
    return array, [step // 4 for step in array.strides[:3]]


def prepare(work: Work, device: Device) -> Run:
    """``run(query, key, value, mask)``. The result has the heads behind the positions in memory, as the next product wants them."""
    shape = shape_of(work)
    module = machine.compiler().function(AttentionSource(shape).text())
    operations = 2 * shape.units * shape.length * shape.keys * shape.width
    several = operations > LEAST_WORK or work.cost.bytes > LEAST_BYTES
    compute = on_threads(module, shape.units, num_threads() if several else 1)
    kind = ctypes.c_void_p * len(shape.words)
    whole = (shape.batch, shape.heads, shape.length, shape.keys)

    def run(
        query: Array, key: Array, value: Array, mask: Array | None = None, caches: Sequence[Array] = ()
    ) -> Array:
        made = np.empty((shape.batch, shape.length, shape.heads, shape.values), np.float32)
        result = made.transpose(0, 2, 1, 3)
        if mask is not None:
            mask = _numbers(mask, shape.keys)
        given = [_steps(array) for array in (query, key, value, result)]
        others = [_steps(array) for array in caches]
        masked = (address(mask), np.broadcast_to(mask, whole).strides) if mask is not None else (0, (0,) * 3)
        words = [*(address(array) for array, _ in given), masked[0], *(address(array) for array, _ in others)]
        table = [step for _, steps in given for step in steps]
        table += [step // 4 for step in masked[1][:3]]
        table += [step for _, steps in others for step in steps]
        compute(kind(*words), (ctypes.c_int64 * len(table))(*table))
        return result

    return run


def prepare_cached(work: Work, device: Device) -> Callable[..., tuple[Array, Array, Array]]:
    """``run(query, past_key, key, past_value, value, mask)``, which gives all keys, all values, and the result."""
    attend, sizes = prepare(work, device), [tuple(map(int, spec.shape)) for spec in work.outputs[:2]]

    def run(
        query: Array, past_key: Array, key: Array, past_value: Array, value: Array, mask: Array | None = None
    ) -> tuple[Array, Array, Array]:
        keys, values = (aligned(4 * math.prod(size)).view(np.float32).reshape(size) for size in sizes)
        found = attend(query, key, value, mask, (past_key, past_value, keys, values))
        return keys, values, found

    return run


def _numbers(mask: Array, keys: int) -> Array:
    """A mask as numbers, with a last axis of its own; of a boolean one those that are not zero say what to hide."""
    if mask.dtype.kind == "b":
        mask = ~mask
    return np.ascontiguousarray(np.broadcast_to(mask, (*mask.shape[:-1], keys)), np.float32)


def cost(work: Work, device: Device) -> float:
    """Estimated seconds: products, exponentials, and reading, which few queries wait for."""
    shape, abilities = shape_of(work), device.capabilities
    scores = shape.batch * shape.heads * shape.length * shape.keys * (0.55 if shape.causal else 1.0)
    products = 2 * scores * (shape.width + shape.values) / (abilities.flops * PEAK)
    others = scores / EXPONENTIALS / min(num_threads(), shape.units) + 2 * SECONDS
    return max(products, work.cost.bytes / (abilities.bandwidth * STREAMING)) + others

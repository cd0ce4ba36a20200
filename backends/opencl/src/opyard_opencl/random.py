"""Random numbers of a key: philox_bits, split_key, random_uniform, random_normal, random_bernoulli.

Integers, and uniform numbers on devices with fp64, are those of the references, bit for bit. Without fp64 numbers are
computed in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from opyard.operation import Call

from .array import Array
from .device import OpenCLDevice
from .formats import FORMATS, format_of, program
from .launch import Launch, Single, exact, partition

_GRAIN = 512  # blocks of four words for each work item
_LONGS = np.int64
_BITS = {
    "float64": 53,
    "float32": 24,
    "float16": 11,
    "bfloat16": 8,
}  # of a unit number, as in opyard.ops.random
_KERNELS = {
    "philox_bits": "words",
    "split_key": "keys",
    "random_bernoulli": "bernoulli",
    "random_uniform": "uniform",
    "random_normal": "normal",
}
_NARROWED = {"float16": "odd_float(v)", "bfloat16": "(float)(v)", "float32": "(float)(v)", "float64": "(v)"}
"""How a computed number is brought to the type that is stored, with the roundings of NumPy and ml_dtypes."""


@exact
def prepare(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs a random op."""
    name, output = call.op.name, call.output
    count = math.prod(int(n) for n in output.shape)
    wide = output.dtype.name == "float64"
    double = wide or (output.dtype.kind != "b" and "fp64" in device.capabilities.features)
    compute = "double" if double and name in ("random_uniform", "random_normal") else "float"
    numbers, extra = _parameters(call, compute, wide)
    blocks = int(output.shape[0]) if name == "split_key" else -(-count // numbers)
    target = format_of(output) if output.dtype.name in _NARROWED else FORMATS["float32"]
    macros = {"WIDE": int(wide), "NARROWED(v)": _NARROWED.get(output.dtype.name, "(v)")}
    text = program("random", compute, macros, OUT=target)
    items, step = partition(device, blocks, _GRAIN)
    bound = (*map(_LONGS, (blocks, count, step)), *extra)
    launch = Launch(device, text, _KERNELS[name], items, bound) if count else None
    return Single(device, output, launch)


def _parameters(call: Call, compute: str, wide: bool) -> tuple[int, tuple[Any, ...]]:
    """Numbers that a block gives, and the kernel's parameters behind the sizes."""
    attributes, real = call.attrs, np.float64 if compute == "double" else np.float32
    bits = np.int32(_BITS.get(call.output.dtype.name, 24))
    if call.op.name == "random_uniform":
        low = attributes["low"]
        return 2 if wide else 4, (bits, real(low), real(attributes["high"] - low))
    if call.op.name == "random_normal":
        bits = bits if wide else np.int32(24)
        return 2 if wide else 4, (bits, real(attributes["mean"]), real(attributes["standard_deviation"]))
    if call.op.name == "random_bernoulli":
        return 4, (np.uint32(math.ceil(attributes["probability"] * 2**24)),)
    return 4, ()

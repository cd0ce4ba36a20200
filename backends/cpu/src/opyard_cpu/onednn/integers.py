"""Sums of products of bytes in int32, exact to the bit: what MatMulInteger, ConvInteger and their QLinear kin of ONNX become.

In a graph these are casts, zero points that are subtracted, and a product of int32 or a convolution of float64. Here the bytes
themselves are multiplied. With u = x + a in uint8 and v = w - b in int8, a one number and b one for each column,

    sum (x - zero) w = sum u v + b sum u - (zero + a) (sum v + k b)

where the last two terms are sums of rows and columns. All of it is modulo 2^32, as int32 is. oneDNN's products of int8 with
int8 are not used: some of them round sums beyond 2^24 (measured), and those of uint8 with int8 do not.

Weights are int32 or float64 after constants have been folded, and a tensor without its zero point that several products share is
int32. Whether they are bytes is seen when they are known. Those that are not are computed by the references of the ops.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.errors import KernelError
from opyard.operation import Call
from opyard.region import Region
from opyard.settings import num_threads

from ..geometry import Geometry, conv_geometry
from .addresses import Array, dense
from .chains import SECONDS
from .convolution import result_shape, weights_shape, windows_of
from .execution import reordered
from .layouts import concrete
from .library import library
from .memory import Descriptor, any_layout, channels_last, strided
from .neighbourhoods import Windows, convolution
from .plain import on_arrays
from .primitives import Primitive, matmul
from .processors import refusal

MOST = 2**31 // (255 * 128)
"""Products whose sum int32 holds in any case: what float64 makes of a larger one is not what wraps around."""

Kernel = Callable[..., Array]

AMX, WITHOUT_AMX = 6.0, 2.0
"""How many times the float32 peak such products reach, with AMX and without it."""

EXACT = "brg"
"""How the names of oneDNN's implementations begin that keep int32 as it is on the way to memory."""

LARGEST = 2**24 // (255 * 128)
"""Products whose sum is exact in the others, which make float32 of it on the way."""


@lru_cache(maxsize=256)
def _product(rows: int, depth: int, columns: int, threads: int) -> Primitive | str:
    shapes = (strided((rows, depth), dtype="uint8"), any_layout((depth, columns), "int8"))
    try:
        return _exact(matmul(*shapes, strided((rows, columns), dtype="int32")), depth)
    except KernelError as error:
        return str(error)


def _padded(g: Geometry) -> tuple[int, ...]:
    """The shape of the images with their padding."""
    sizes = (size + before + after for size, (before, after) in zip(g.sizes, g.pairs, strict=True))
    return (g.batch, g.channels, *sizes)


@lru_cache(maxsize=256)
def _convolution(g: Geometry, threads: int) -> Primitive | str:
    """The convolution of images that are padded already."""
    none, windows, shape = (0,) * len(g.sizes), windows_of(g), _padded(g)
    try:
        found = convolution(
            strided(shape, channels_last(shape), "uint8"),
            any_layout(weights_shape(g), "int8"),
            strided(result_shape(g), channels_last(result_shape(g)), "int32"),
            Windows(windows.strides, windows.dilations, none, none),
        )
        return _exact(found, g.depth)
    except KernelError as error:
        return str(error)


def _exact(primitive: Primitive, depth: int) -> Primitive | str:
    if primitive.implementation.startswith(EXACT) or depth <= LARGEST:
        return primitive
    return f"oneDNN's {primitive.implementation} rounds sums of {depth} products of bytes"


def _base(region: Region) -> Call:
    """The product or the convolution."""
    return next(node.call for node in region.graph.nodes if node.op.name in ("matmul", "conv"))


def _sizes(call: Call) -> tuple[int, int, int]:
    """Rows, depth and columns of a product with a matrix."""
    depth, columns = concrete(call.inputs[1].shape)  # type: ignore[union-attr]
    return int(call.output.size) // columns, depth, columns


def _described(region: Region) -> Primitive | str:
    call = _base(region)
    if call.op.name == "conv":
        return _convolution(conv_geometry(call), num_threads())
    return _product(*_sizes(call), num_threads())


def accepts(region: Region, device: Device) -> str | None:
    """Why oneDNN does not compute this, or None."""
    if reason := refusal("int8"):
        return reason
    specs = {name: spec for name, spec in zip(region.input_names, region.inputs, strict=True) if spec}
    call = _base(region)
    if not call.output.size or any(not spec.size for spec in specs.values()):
        return "an empty tensor is nothing for oneDNN"
    x, weight = call.inputs[:2]
    assert x is not None and weight is not None
    if call.op.name == "matmul" and (weight.ndim != 2 or x.ndim < 2):
        return "takes stacks of rows and one matrix of weights"
    if (zero := specs.get("zero")) and (zero.size != 1 or zero.ndim > x.ndim):
        return f"takes one zero point of x, not {zero!r}"
    if (zero := specs.get("weight_zero")) and (zero.ndim > 1 or zero.size not in (1, weight.shape[-1])):
        return f"takes one zero point of the weights, or one for each column, not {zero!r}"
    if call.op.name == "conv" and (depth := conv_geometry(call).depth) > MOST:
        return f"sums of {depth} products of bytes may be beyond int32"
    found = _described(region)
    return found if isinstance(found, str) else None


def prepare(region: Region, device: Device, constants: tuple[Any, ...]) -> Kernel:
    """``run(x, ...)`` in the order of the pattern's parameters; weights that are constant are packed once."""
    primitive, names = _described(region), region.input_names
    if isinstance(primitive, str):
        raise KernelError(primitive)
    call = _base(region)
    make = _convolved if call.op.name == "conv" else _multiplied
    compute, known = make(call, primitive), dict(zip(names, constants, strict=True))
    fixed = None
    if all(known[name] is not None for name in names if name.startswith("weight")):
        fixed = _packed(primitive, _weights(known["weight"], known.get("weight_zero"), call))

    def run(*arrays: Array) -> Array:
        given = dict(zip(names, arrays, strict=True))
        weights = fixed
        if weights is None:
            weights = _packed(primitive, _weights(given["weight"], given.get("weight_zero"), call))
        zero = int(given["zero"].reshape(())) if "zero" in given else 0
        found = None if weights is None else compute(given["x"], zero, *weights)
        return region.reference(*arrays)[0] if found is None else found

    return run


def _weights(weight: Array, zero: Array | None, call: Call) -> tuple[Array, Array] | None:
    """int8 weights, and the int32 that is to be added to each column or, for a convolution, to all; None where none fit."""
    axes = 0 if call.op.name == "matmul" else None
    if weight.dtype.itemsize == 1:
        moved = 128 if weight.dtype == np.uint8 else 0
        offset = np.array([moved], np.int32) - (np.zeros(1, np.int32) if zero is None else zero)
        return _signed(weight), offset
    low, high = weight.min(axis=axes), weight.max(axis=axes)
    if np.all(low >= -128) and np.all(high <= 127):
        bytes_ = weight.astype(np.int8)
        return (bytes_, np.zeros(1, np.int32)) if np.array_equal(bytes_, weight) else None
    if axes is None or np.any(high.astype(np.int64) - low > 255):
        return None  # the sums of all windows would be needed
    offset = (low.astype(np.int64) + 128).astype(np.int32)
    return (weight - offset).astype(np.int8), offset


def _signed(x: Array) -> Array:
    """int8 that are less by 128 than uint8; int8 itself."""
    return x if x.dtype == np.int8 else np.bitwise_xor(x, 128).view(np.int8)


def _unsigned(x: Array, zero: int) -> tuple[Array, int] | None:
    """uint8 and their zero point: those of int8 are greater by 128, those of int32 by the smallest. None where none fit."""
    if x.dtype == np.uint8:
        return x, zero
    if x.dtype == np.int8:
        return np.bitwise_xor(x.view(np.uint8), 128), zero + 128
    low = int(x.min())
    return None if int(x.max()) - low > 255 else ((x - np.int32(low)).astype(np.uint8), zero - low)


def _packed(primitive: Primitive, weights: tuple[Array, Array] | None) -> tuple[Array, ...] | None:
    """Weights as the primitive wants them, their sums for each column or output channel, and what is added to them."""
    if weights is None:
        return None
    array, offset = weights
    wanted = primitive.memories["weights"]
    is_matrix = primitive.kind == "matmul"
    axes = 0 if is_matrix else tuple(range(1, array.ndim))
    sums = array.sum(axis=axes, dtype=np.int32)
    if is_matrix:
        sums = sums + np.int32(len(array)) * offset
    packed = reordered(dense(array), strided(wanted.shape, dtype="int8"), wanted)
    return packed, sums, offset


def _on_packed(primitive: Primitive, x: Descriptor, result: Descriptor) -> Callable[..., None]:
    return on_arrays(primitive, ("src", "weights", "dst"), (x, primitive.memories["weights"], result))


def _wrapped(number: int) -> Array:
    """A number modulo 2^32, as int32 ``[1]``: one of rank 0 would warn where it wraps."""
    return np.array([number & 0xFFFFFFFF], np.uint32).view(np.int32)


def _multiplied(call: Call, primitive: Primitive) -> Callable[..., Array | None]:
    rows, depth, columns = _sizes(call)
    shape = concrete(call.output.shape)
    plain = strided((rows, depth), dtype="uint8"), strided((rows, columns), dtype="int32")
    multiply = _on_packed(primitive, *plain)

    def compute(x: Array, zero: int, packed: Array, sums: Array, offset: Array) -> Array | None:
        found = _unsigned(dense(x).reshape(rows, depth), zero)
        if found is None:
            return None
        bytes_, zero = found
        result = np.empty((rows, columns), np.int32)
        multiply(bytes_, packed, result)
        if offset.any():
            result += bytes_.sum(axis=1, dtype=np.int32, keepdims=True) * offset
        if zero:
            result -= sums * _wrapped(zero)
        return result.reshape(shape)

    return compute


def _convolved(call: Call, primitive: Primitive) -> Callable[..., Array | None]:
    g = conv_geometry(call)
    shape, result_sizes = _padded(g), result_shape(g)
    convolve = _on_packed(primitive, strided(shape, dtype="uint8"), strided(result_sizes, dtype="int32"))
    inner: Any = (..., *(slice(pair[0], pair[0] + n) for pair, n in zip(g.pairs, g.sizes, strict=True)))
    per_channel = (g.outputs, *(1,) * len(g.sizes))

    def compute(x: Array, zero: int, packed: Array, sums: Array, offset: Array) -> Array | None:
        found = _unsigned(dense(x), zero)
        if found is None or not 0 <= found[1] <= 255:
            return None  # padding, which is as the zero point, would be no byte
        images, zero = found
        if g.is_padded:
            padded = np.full(shape, zero, np.uint8)
            padded[inner] = images
            images = padded
        result = np.empty(result_sizes, np.int32)
        convolve(images, packed, result)
        if zero:
            result -= (sums * np.int32(zero)).reshape(per_channel)
        return result

    return compute


def cost(region: Region, device: Device) -> float:
    """Estimated seconds: the product, and passes over what goes in and out."""
    abilities, call = device.capabilities, _base(region)
    result = call.output
    factor = AMX if "amx" in library().instruction_set() else WITHOUT_AMX
    given = region.inputs[region.input_names.index("x")]
    assert given is not None
    moved = 4.0 * given.nbytes + 12.0 * int(result.size)
    passes = 3 if call.op.name == "conv" else 1
    return call.cost.flops / (abilities.flops * factor) + moved / abilities.bandwidth + passes * 3 * SECONDS

"""Products and convolutions of bfloat16, summed in float32 and rounded once. Only bfloat16 inputs come here.

Processors without instructions for bfloat16 are refused: oneDNN would imitate them, slower than float32.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.errors import KernelError
from opyard.operation import Call
from opyard.settings import num_threads

from ..geometry import Geometry, conv_geometry
from .addresses import Array, address, dense
from .chains import SECONDS, Run
from .convolution import result_shape, source_shape, weights_shape, windows_of
from .execution import Execution
from .layouts import concrete
from .library import library
from .memory import Descriptor, any_layout, channels_last, strided
from .neighbourhoods import convolution
from .plain import into, on_arrays
from .primitives import Primitive, matmul
from .processors import refusal

DTYPE = "bfloat16"

AMX, WITHOUT_AMX = 5.0, 1.7
"""How many times the float32 peak such products reach, with AMX and without it (measured with batches of 1024 rows)."""

Shape = tuple[int, ...]
Description = tuple[Primitive, tuple[str, ...], tuple[Descriptor, ...]]
"""A primitive, its roles in the order of the inputs with the result behind, and how plain arrays for them lie."""


@lru_cache(maxsize=1024)
def _product(first: Shape, second: Shape, result: Shape, bias: bool, threads: int) -> Description | str:
    """``first @ second + bias`` of arrays of one rank."""
    given = (
        *(strided(first, dtype=DTYPE), strided(second, dtype=DTYPE)),
        *([strided((*(1,) * (len(result) - 1), result[-1]), dtype=DTYPE)] if bias else []),
        strided(result, dtype=DTYPE),
    )
    # a stack of second factors is seldom made of weights, so only a single one may be packed
    second_layout = any_layout(second, DTYPE) if len(second) == 2 else given[1]
    try:
        found = matmul(given[0], second_layout, given[-1], bias=given[2] if bias else None)
    except KernelError as error:
        return str(error)
    return found, ("src", "weights", *(["bias"] if bias else []), "dst"), given


@lru_cache(maxsize=1024)
def _convolution(g: Geometry, bias: bool, threads: int) -> Description | str:
    images = [strided(shape, channels_last(shape), DTYPE) for shape in (source_shape(g), result_shape(g))]
    vector = strided((g.outputs,), dtype=DTYPE) if bias else None
    try:
        found = convolution(
            images[0], any_layout(weights_shape(g), DTYPE), images[1], windows_of(g), bias=vector
        )
    except KernelError as error:
        return str(error)
    shapes = (source_shape(g), weights_shape(g), *([(g.outputs,)] if bias else []), result_shape(g))
    roles = ("src", "weights", *(["bias"] if bias else []), "dst")
    return found, roles, tuple(strided(shape, dtype=DTYPE) for shape in shapes)


def _has_bias(call: Call) -> bool:
    return len(call.inputs) > 2 and call.inputs[2] is not None


def _described(call: Call) -> Description | str:
    if call.op.name == "conv":
        return _convolution(conv_geometry(call), _has_bias(call), num_threads())
    shapes = (concrete(spec.shape) for spec in (call.inputs[0], call.inputs[1], call.output) if spec)
    first, second, result = shapes
    if len(second) == 2:
        rows = math.prod(result[:-1])
        return _product((rows, first[-1]), second, (rows, result[-1]), _has_bias(call), num_threads())
    rank = len(result)
    padded = ((1,) * (rank - len(shape)) + shape for shape in (first, second))
    return _product(*padded, result, False, num_threads())


def _empty(call: Call) -> str | None:
    specs = (*call.inputs, call.output)
    if any(spec is not None and not spec.size for spec in specs):
        return "an empty tensor is nothing for oneDNN"
    return None


def _reason(call: Call) -> str | None:
    found = _described(call)
    return found if isinstance(found, str) else None


def accepts_product(call: Call, device: Device) -> str | None:
    """Why oneDNN does not compute this product of bfloat16, or None."""
    if reason := refusal(DTYPE) or _empty(call):
        return reason
    if any(spec is not None and spec.ndim < 2 for spec in call.inputs[:2]):
        return "takes matrices, not vectors"
    return _reason(call)


def accepts_packed(call: Call, device: Device) -> str | None:
    """The same with packed weights, which are one matrix."""
    weight = call.inputs[1]
    if weight is not None and weight.ndim != 2:
        return f"packed weights are [k, n], not {weight!r}"
    return accepts_product(call, device)


def accepts_conv(call: Call, device: Device) -> str | None:
    """Why oneDNN does not compute this convolution of bfloat16, or None."""
    return refusal(DTYPE) or _empty(call) or _reason(call)


def _found(call: Call) -> Description:
    found = _described(call)
    if isinstance(found, str):
        raise KernelError(found)
    return found


def prepare_plain(call: Call, device: Device) -> Run:
    """``run(x, weight, bias)`` on plain arrays, the weights of which are packed in each call."""
    primitive, roles, given = _found(call)
    write = on_arrays(primitive, roles, given)
    kernel = into(write, concrete(call.output.shape), call.output.dtype)

    def run(*arrays: Array | None, out: Array | None = None) -> Array:
        return kernel(*(array for array in arrays if array is not None), out=out)

    return run


def prepare_ready(call: Call, device: Device) -> Run:
    """``run(x, weight, bias)`` with packed weights; the images of convolutions are channels-last."""
    primitive, roles, given = _found(call)
    execution, wanted, plain = Execution(primitive, roles), primitive.memories["weights"], given[1]
    shape = concrete(call.output.shape)
    if call.op.name == "conv":
        shape = (shape[0], *shape[2:], shape[1])
    dtype = call.output.dtype

    def run(x: Any, weight: Any, *bias: Array | None) -> Array:
        x, result = dense(x), np.empty(shape, dtype)
        arrays = [dense(array) for array in bias if array is not None]
        form = weight.form(plain, wanted)
        execution.run(address(x), address(form), *map(address, arrays), address(result))
        return result

    return run


def cost(call: Call, device: Device) -> float:
    """Estimated seconds with packed weights and channels-last images."""
    abilities, work = device.capabilities, call.cost
    factor = AMX if "amx" in library().instruction_set() else WITHOUT_AMX
    return max(work.flops / (abilities.flops * factor), work.bytes / abilities.bandwidth) + SECONDS


def plain_cost(call: Call, device: Device) -> float:
    """The same with the weights packed in each call, and the images brought into another layout and back."""
    moved = 2 * call.cost.bytes / device.capabilities.bandwidth
    return cost(call, device) + moved + 3 * SECONDS

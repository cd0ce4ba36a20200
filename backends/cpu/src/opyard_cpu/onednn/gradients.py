"""Gradients of convolutions and of max pooling by oneDNN, for float32, on plain arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opyard.driver import Device
from opyard.errors import KernelError
from opyard.operation import Call
from opyard.ops.pooling import pool_geometry
from opyard.ops.windows import padding_pairs

from ..convolution_transpose import steps_of
from ..geometry import Geometry, geometry
from .addresses import Array, address
from .execution import Execution
from .library import missing
from .memory import any_layout, strided
from .neighbourhoods import (
    Windows,
    convolution_data_gradient,
    convolution_weights_gradient,
    pooling,
    pooling_gradient,
)
from .plain import into, on_plain_arrays, room, room_for
from .primitives import Primitive

Kernel = Callable[..., Array]

CALL_SECONDS = 2e-5
"""What one call takes beside the arithmetic and the copies."""

EFFICIENCY = 0.8
"""Of the processor's matrix products."""


def _windows(strides: Any, dilations: Any, pairs: Any) -> Windows:
    before, after = (tuple(int(pair[side]) for pair in pairs) for side in (0, 1))
    return Windows(tuple(strides), tuple(dilations), before, after)


def _grouped(outputs: int, inputs: int, groups: int, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of weights as oneDNN sees them."""
    if groups == 1:
        return (outputs, inputs, *kernel)
    return (groups, outputs // groups, inputs // groups, *kernel)


def _weights_geometry(call: Call) -> Geometry:
    x, cotangent = call.inputs
    assert x is not None and cotangent is not None
    attributes = {key: value for key, value in call.attrs.items() if key != "kernel"}
    return geometry(x.shape, call.output.shape, cotangent.shape, attributes)


def _weights_primitive(g: Geometry) -> tuple[Primitive, tuple[tuple[int, ...], ...]]:
    shapes = (
        (g.batch, g.channels, *g.sizes),
        (g.batch, g.outputs, *g.counts),
        _grouped(g.outputs, g.channels, g.groups, g.kernel),
    )
    x, cotangent, weight = map(any_layout, shapes)
    windows = _windows(g.strides, g.dilations, g.pairs)
    return convolution_weights_gradient(x, weight, cotangent, windows), shapes


def prepare_conv_weight_gradient(call: Call, device: Device) -> Kernel:
    """The gradient of a convolution by its weights."""
    primitive, shapes = _weights_primitive(_weights_geometry(call))
    run = on_plain_arrays(primitive, ("src", "diff_dst", "diff_weights"), shapes)
    return into(run, tuple(map(int, call.output.shape)))


def accepts_conv_weight_gradient(call: Call, device: Device) -> str | None:
    """Why oneDNN does not compute this gradient, or None."""
    return _refusal(call, lambda: _weights_primitive(_weights_geometry(call)))


def _transposed_primitive(call: Call) -> tuple[Primitive, tuple[tuple[int, ...], ...]]:
    x, weight = call.inputs[0], call.inputs[1]
    assert x is not None and weight is not None
    source, result = tuple(map(int, x.shape)), tuple(map(int, call.output.shape))
    kernel = tuple(map(int, weight.shape[2:]))
    windows = _windows(*steps_of(call.attrs, kernel))
    # the convolution of which this is the gradient by its input makes x of the result
    shapes = (source, _grouped(source[1], result[1], call.attrs["groups"], kernel), result)
    cotangent, weights, made = map(any_layout, shapes)
    return convolution_data_gradient(made, weights, cotangent, windows), shapes


def prepare_conv_transpose(call: Call, device: Device) -> Kernel:
    """A transposed convolution, which is the gradient of a convolution by its input; the bias is added to it."""
    primitive, shapes = _transposed_primitive(call)
    compute = on_plain_arrays(primitive, ("diff_dst", "weights", "diff_src"), shapes)
    kernel, rank = into(compute, shapes[-1]), len(shapes[-1]) - 2

    def run(x: Array, weight: Array, bias: Array | None = None, out: Array | None = None) -> Array:
        result = kernel(x, weight, out=out)
        if bias is not None:
            result += bias.reshape(-1, *(1,) * rank)
        return result

    return run


def accepts_conv_transpose(call: Call, device: Device) -> str | None:
    """Why oneDNN does not compute this transposed convolution, or None."""
    return _refusal(call, lambda: _transposed_primitive(call))


def _pooling_primitives(call: Call) -> tuple[Primitive, Primitive]:
    """Max pooling that notes which elements it took, and its gradient."""
    x, cotangent = call.inputs
    assert x is not None and cotangent is not None
    source, result = tuple(map(int, x.shape)), tuple(map(int, cotangent.shape))
    sizes, steps, gaps = pool_geometry(
        len(source) - 2, *(call.attrs[k] for k in ("kernel", "strides", "dilations"))
    )
    pairs = padding_pairs(call.attrs["padding"], source[2:], sizes, steps, gaps)
    beyond = []  # what windows take after the padding, or leave out
    for size, count, kernel, step, gap, (before, after) in zip(
        source[2:], result[2:], sizes, steps, gaps, pairs, strict=True
    ):
        reach = (count - 1) * step + (kernel - 1) * gap + 1
        beyond.append((before, max(after, reach - size - before)))
    windows = _windows(steps, gaps, beyond)
    memories = strided(source), strided(result)
    forward = pooling("max", *memories, sizes, windows, training=True)
    return forward, pooling_gradient("max", *memories, sizes, windows, forward)


def prepare_max_pool_gradient(call: Call, device: Device) -> Kernel:
    """The gradient of max pooling: the pooling is done again, which is quicker than to look for the maxima otherwise."""
    forward, backward = _pooling_primitives(call)
    result, notes = (room_for(forward.memories[role].nbytes) for role in ("dst", "workspace"))
    again = Execution(forward, ("src", "dst", "workspace"))
    back = Execution(backward, ("diff_dst", "workspace", "diff_src"))

    def run(x: Array, g: Array, out: Array) -> None:
        place = room().of(result + notes)
        again.run(address(x), place, place + result)
        back.run(address(g), place + result, address(out))

    return into(run, tuple(map(int, call.output.shape)))


def accepts_max_pool_gradient(call: Call, device: Device) -> str | None:
    """Why oneDNN does not compute this gradient, or None."""
    return _refusal(call, lambda: _pooling_primitives(call))


def cost(call: Call, device: Device) -> float:
    """Estimated seconds: the arithmetic, and copies of all arrays between layouts, which pooling does not need."""
    work, abilities = call.cost, device.capabilities
    if call.op.name == "max_pool_gradient":
        return work.bytes / abilities.bandwidth
    return work.flops / abilities.flops / EFFICIENCY + 2 * work.bytes / abilities.bandwidth + CALL_SECONDS


def _refusal(call: Call, describe: Callable[[], object]) -> str | None:
    if reason := missing():
        return reason
    if any(int(spec.size) == 0 for spec in (*call.inputs, *call.outputs) if spec is not None):
        return "an array without elements needs no primitive"
    try:
        describe()
    except KernelError as error:
        return str(error)
    return None

"""Gradients of convolutions and of max pooling by oneDNN, for float32: of plain arrays, and of channels-last ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from opyard.driver import Device
from opyard.errors import KernelError
from opyard.operation import Call
from opyard.ops.windows import padding_pairs, per_axis

from ..convolution_transpose import steps_of
from ..geometry import Geometry, geometry
from .addresses import Array, address, dense, images_maker
from .chains import SECONDS, Chain
from .checks import bounded
from .convolution import images, result_shape, source_shape, weights_shape, windows_of
from .execution import Execution
from .layouts import Packed, concrete
from .library import missing
from .memory import Descriptor, any_layout, contiguous, strided
from .neighbourhoods import (
    Windows,
    convolution_data_gradient,
    convolution_weights_gradient,
    deconvolution,
    pooling,
    pooling_gradient,
)
from .plain import into, on_arrays, room, room_for
from .primitives import Primitive

Kernel = Callable[..., Array]
Layout = Callable[[tuple[int, ...]], Descriptor]

PEAK = 0.8
"""Fraction of the device's peak that these gradients reach."""


def _shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """The shape of an array of images ``[n, c, *spatial]`` that lies so."""
    return (shape[0], *shape[2:], shape[1]) if layout is images else shape


def _wanted(layout: Layout) -> Layout:
    """Of plain images a primitive makes what it likes best; channels-last ones it takes as they are."""
    return images if layout is images else any_layout


# The weights of a convolution ----------------------------------------------------------------------------------------


def _weights_geometry(call: Call) -> Geometry:
    x, cotangent = call.inputs
    assert x is not None and cotangent is not None
    attributes = {key: value for key, value in call.attrs.items() if key != "kernel"}
    return geometry(x.shape, call.output.shape, cotangent.shape, attributes)


def _weights_primitive(call: Call, layout: Layout) -> Primitive:
    g, wanted = _weights_geometry(call), _wanted(layout)
    weight = any_layout(weights_shape(g))
    return convolution_weights_gradient(
        wanted(source_shape(g)), weight, wanted(result_shape(g)), windows_of(g)
    )


def prepare_conv_weight_gradient(call: Call, device: Device, layout: Layout = strided) -> Kernel:
    """The gradient of a convolution by its weights."""
    g = _weights_geometry(call)
    given = (layout(source_shape(g)), layout(result_shape(g)), strided(weights_shape(g)))
    run = on_arrays(_weights_primitive(call, layout), ("src", "diff_dst", "diff_weights"), given)
    return into(run, concrete(call.output.shape))


# The input of a convolution ------------------------------------------------------------------------------------------


def _transposed_shapes(call: Call) -> tuple[tuple[int, ...], ...]:
    """Of the input, the weights as oneDNN sees them, and the output."""
    x, weight = call.inputs[0], call.inputs[1]
    assert x is not None and weight is not None
    source, weights, groups = concrete(x.shape), concrete(weight.shape), call.attrs["groups"]
    grouped = weights if groups == 1 else (groups, weights[0] // groups, *weights[1:])
    return source, grouped, concrete(call.output.shape)


def _transposed_windows(call: Call) -> Windows:
    source, weights, _ = _transposed_shapes(call)
    strides, dilations, pairs = steps_of(call.attrs, weights[-len(source) + 2 :])
    before, after = (tuple(pair[side] for pair in pairs) for side in (0, 1))
    return Windows(strides, dilations, before, after)


def _transposed_primitive(call: Call, layout: Layout) -> Primitive:
    source, weights, result = _transposed_shapes(call)
    wanted = _wanted(layout)
    # the convolution of which this is the gradient by its input makes the input of the output
    return convolution_data_gradient(
        wanted(result), any_layout(weights), wanted(source), _transposed_windows(call)
    )


def prepare_conv_transpose(call: Call, device: Device) -> Kernel:
    """A transposed convolution, which is the gradient of a convolution by its input; the bias is added to it."""
    source, weights, result = _transposed_shapes(call)
    given = (strided(source), strided(weights), strided(result))
    compute = on_arrays(_transposed_primitive(call, strided), ("diff_dst", "weights", "diff_src"), given)
    kernel, trailing = into(compute, result), len(result) - 2

    def run(x: Array, weight: Array, bias: Array | None = None, out: Array | None = None) -> Array:
        found = kernel(x, weight, out=out)
        if bias is not None:
            found += bias.reshape(-1, *(1,) * trailing)
        return found

    return run


def _deconvolution(call: Call) -> tuple[Primitive, Descriptor] | None:
    """The same with its bias, and how the weights lie that are given; None where oneDNN is not quick at it."""
    source, weights, result = _transposed_shapes(call)
    strides = contiguous(weights)
    first = len(weights) - len(source)  # 1 behind groups
    order = [*range(first), first + 1, first, *range(first + 2, len(weights))]
    shape = tuple(weights[axis] for axis in order)
    bias = strided((result[1],))
    try:
        made = deconvolution(
            images(source), any_layout(shape), images(result), _transposed_windows(call), bias
        )
    except KernelError:
        return None
    return made, strided(shape, tuple(strides[axis] for axis in order))


def prepare_conv_transpose_nhwc(call: Call, device: Device) -> Kernel:
    """``run(x, weight, bias)`` on channels-last images and packed weights."""
    biased = call.inputs[2] is not None
    primitive, plain = (_deconvolution(call) if biased else None) or (
        _transposed_primitive(call, images),
        strided(_transposed_shapes(call)[1]),
    )
    fused = "bias" in primitive.roles
    roles = ("src", "weights", "bias", "dst") if fused else ("diff_dst", "weights", "diff_src")
    execution, wanted = Execution(primitive, roles), primitive.memories["weights"]
    number, make = wanted.number, images_maker(_shape(concrete(call.output.shape), images))

    def run(x: Array, weight: Packed, bias: Array | None = None) -> Array:
        form = weight.forms.get(number)
        if form is None:
            form = weight.form(plain, wanted)
        result, added = make(), None if bias is None else dense(bias)
        given = (x, form, result) if added is None or not fused else (x, form, added, result)
        execution.run(*map(address, given))
        if added is not None and not fused:
            result += added
        return result

    return bounded(run, Chain(call, ()))


# Max pooling ---------------------------------------------------------------------------------------------------------


def _pooling_primitives(call: Call, layout: Layout) -> tuple[Primitive, Primitive]:
    """Max pooling that notes which elements it took, and its gradient."""
    x, cotangent = call.inputs
    assert x is not None and cotangent is not None
    source, result = concrete(x.shape), concrete(cotangent.shape)
    attributes, rank = call.attrs, len(source) - 2
    kernel = per_axis(attributes["kernel"], rank, "kernel")
    given = attributes["strides"]
    steps = kernel if given is None else per_axis(given, rank, "strides")
    gaps = per_axis(attributes["dilations"], rank, "dilations")
    pairs = padding_pairs(attributes["padding"], source[2:], kernel, steps, gaps)
    before = tuple(pair[0] for pair in pairs)
    reach = [
        (n - 1) * s + (k - 1) * gap + 1 for n, s, k, gap in zip(result[2:], steps, kernel, gaps, strict=True)
    ]
    beyond = (r - size - ahead for r, size, ahead in zip(reach, source[2:], before, strict=True))
    after = tuple(max(pair[1], more) for pair, more in zip(pairs, beyond, strict=True))
    windows = Windows(steps, gaps, before, after)
    memories = layout(source), layout(result)
    forward = pooling("max", *memories, kernel, windows, training=True)
    return forward, pooling_gradient("max", *memories, kernel, windows, forward)


def prepare_max_pool_gradient(call: Call, device: Device, layout: Layout = strided) -> Kernel:
    """The gradient of max pooling: the pooling is done again, which is quicker than to look for the maxima otherwise."""
    forward, backward = _pooling_primitives(call, layout)
    result, notes = (room_for(forward.memories[role].nbytes) for role in ("dst", "workspace"))
    again = Execution(forward, ("src", "dst", "workspace"))
    back = Execution(backward, ("diff_dst", "workspace", "diff_src"))

    def run(x: Array, g: Array, out: Array) -> None:
        place = room().of(result + notes)
        again.run(address(x), place, place + result)
        back.run(address(g), place + result, address(out))

    return into(run, _shape(concrete(call.output.shape), layout))


# All of them ---------------------------------------------------------------------------------------------------------

_DESCRIBED: dict[str, Callable[[Call, Layout], object]] = {
    "conv_weight_gradient": _weights_primitive,
    "conv_transpose": _transposed_primitive,
    "max_pool_gradient": _pooling_primitives,
}

prepare_conv_weight_gradient_nhwc = partial(prepare_conv_weight_gradient, layout=images)
prepare_max_pool_gradient_nhwc = partial(prepare_max_pool_gradient, layout=images)


def accepts(call: Call, device: Device, layout: Layout = strided) -> str | None:
    """Why oneDNN does not compute this gradient, or None."""
    if reason := missing():
        return reason
    if any(int(spec.size) == 0 for spec in (*call.inputs, *call.outputs) if spec is not None):
        return "an empty tensor is nothing for oneDNN"
    try:
        _DESCRIBED[call.op.name](call, layout)
    except KernelError as error:
        return str(error)
    return None


accepts_nhwc = partial(accepts, layout=images)


def cost_nhwc(call: Call, device: Device) -> float:
    """Estimated seconds on channels-last images."""
    work, abilities = call.cost, device.capabilities
    streamed = work.bytes / abilities.bandwidth
    if call.op.name == "max_pool_gradient":  # whose operations are no products
        return streamed + SECONDS
    return max(work.flops / abilities.flops / PEAK, streamed) + SECONDS


def cost(call: Call, device: Device) -> float:
    """The same with the reorders of all that goes in and out; pooling takes plain images twice as long instead."""
    return cost_nhwc(call, device) + call.cost.bytes / device.capabilities.bandwidth + 3 * SECONDS

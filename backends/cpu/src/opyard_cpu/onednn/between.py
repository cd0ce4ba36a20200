"""What lies between convolutions in a step of training, on channels-last images: the gradient of relu, sums over all but the
channels, max pooling. So images stay as convolutions like them, and none is brought into another layout and back.

The first two are compiled (see opyard_cpu.jit) as what they are on such images: elementwise, and a sum of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from opyard import TensorSpec, relu_gradient, sum, trace
from opyard.driver import Device
from opyard.operation import Call
from opyard.region import Region

from ..jit import region as jit
from .addresses import Array
from .layouts import accepts_images, concrete

Kernel = Callable[..., Array]


def _region(call: Call) -> Region:
    """The same of one array of elements, or of ``[rows, channels]``."""
    x = call.inputs[0]
    assert x is not None
    if call.op is sum.op:
        channels = int(x.shape[1])
        rows = TensorSpec((int(x.size) // channels, channels), x.dtype)
        return Region(trace(partial(sum, axis=0), rows))
    flat = TensorSpec((int(x.size),), x.dtype)
    assert relu_gradient.op.decompose is not None
    return Region(trace(relu_gradient.op.decompose, flat, flat))


def accepts(call: Call, device: Device) -> str | None:
    """Why this is not computed on channels-last images, or None."""
    if reason := accepts_images(call, device):
        return reason
    x = call.inputs[0]
    assert x is not None
    if call.op is sum.op:
        axes, kept = call.attrs["axis"], (0, *range(2, x.ndim))
        if call.attrs["keepdims"] or not isinstance(axes, tuple) or tuple(sorted(axes)) != kept:
            return f"only sums over {kept}, all but the channels, are made here"
    elif any(spec != x for spec in call.inputs):
        return "inputs of several shapes or dtypes are not compiled here"
    region = _region(call)
    refusals = (jit.claims(node.call, device) for node in region.graph.nodes)
    return next(filter(None, refusals), None) or jit.accepts(region, device)


def prepare(call: Call, device: Device) -> Kernel:
    """The function of these ops on dense arrays ``[n, *spatial, c]``."""
    x = call.inputs[0]
    assert x is not None
    region, shape = _region(call), concrete(x.shape)
    compute = jit.prepare(region, device)
    given = region.inputs[0]
    assert given is not None
    flat = concrete(given.shape)
    result = concrete(call.output.shape) if call.op is sum.op else (shape[0], *shape[2:], shape[1])

    def run(*arrays: Array) -> Array:
        return compute(*(array.reshape(flat) for array in arrays)).reshape(result)  # type: ignore[no-any-return]

    return run


def cost(call: Call, device: Device) -> float:
    """Estimated seconds."""
    return jit.cost(_region(call), device)

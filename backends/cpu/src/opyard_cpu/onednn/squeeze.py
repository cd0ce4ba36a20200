"""Squeeze and excitation: channels of images weighted by what they hold, on channels-last arrays in one kernel.

``x * sigmoid(conv(activation(conv(global_average_pool(x)))))`` with 1x1 convolutions, which are products of the means. Source: Hu et al.
2018. One by one these are six short calls, and the means and weights would change their layouts in between.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.errors import KernelError
from opyard.graph import Node
from opyard.kernels import Work
from opyard.operation import Call
from opyard.region import Region

from ..geometry import conv_geometry
from .addresses import Array, address, images_maker
from .chains import ACTIVATIONS, SECONDS, Run
from .convolution import described, images, is_product, plain_weights
from .execution import Execution
from .held import on_dense
from .images import global_means, mean_of_pixels
from .layouts import Packed, accepts_images, concrete
from .memory import strided
from .primitives import Primitive, binary


def _nodes(work: Work) -> dict[str, Node]:
    """The nodes by their ops; the first two convolutions as "squeeze" and "excite"."""
    assert isinstance(work, Region)
    squeeze, excite, *_ = (node for node in work.graph.nodes if node.op.name == "conv")
    return {node.op.name: node for node in work.graph.nodes} | {"squeeze": squeeze, "excite": excite}


def _activation(nodes: dict[str, Node]) -> Call:
    return next(nodes[name].call for name in ("silu", "relu") if name in nodes)


def _product(conv: Call, activation: Call) -> Primitive:
    found = described(conv, ACTIVATIONS[activation.op.name](activation))
    if isinstance(found, str):
        raise KernelError(found)
    return found


def _weighted(shape: tuple[int, ...]) -> Primitive:
    """One channels-last image ``[c, *spatial]`` times ``[c]``."""
    channels, pixels = shape[0], math.prod(shape[1:])
    image = images((1, channels, pixels, 1))
    return binary("mul", image, strided((1, channels, 1, 1)), image)


def accepts(work: Work, device: Device) -> str | None:
    """Why these steps are no squeeze and excitation that oneDNN computes, or None."""
    nodes = _nodes(work)
    if reason := accepts_images(nodes["global_average_pool"].call, device):
        return reason
    for name in ("squeeze", "excite"):
        call = nodes[name].call
        if not is_product(conv_geometry(call)) or any(size != 1 for size in call.output.shape[2:]):
            weight = call.inputs[1]
            assert weight is not None
            return f"takes 1x1 convolutions of one pixel, not one with weights {list(weight.shape)}"
    x = nodes["global_average_pool"].call.inputs[0]
    assert x is not None
    shape = concrete(x.shape)
    if concrete(nodes["excite"].call.output.shape)[:2] != shape[:2]:
        return f"takes as many weights as x has channels, {shape[1]}"
    try:
        global_means(shape), _weighted(shape[1:])
        _product(nodes["squeeze"].call, _activation(nodes))
        _product(nodes["excite"].call, nodes["sigmoid"].call)
    except KernelError as error:
        return str(error)
    return None


def prepare(work: Work, device: Device) -> Run:
    """``run(x, weight, bias, weight2, bias2)`` on channels-last images and packed weights; a bias may be None."""
    shape = concrete(_nodes(work)["multiply"].call.output.shape)
    batch, channels, *spatial = shape
    excited = weights_of_channels(work)
    weigh = Execution(_weighted(shape[1:]), ("src", "src_1", "dst"))
    make, row = images_maker((batch, *spatial, channels)), 4 * channels
    image = row * math.prod(spatial)

    def run(x: Array, weight: Packed, bias: Array | None, weight2: Packed, bias2: Array | None) -> Array:
        factors, result = excited(x, weight, bias, weight2, bias2), make()
        places = address(x), address(factors), address(result)
        for number in range(batch):
            weigh.run(
                *(place + number * step for place, step in zip(places, (image, row, image), strict=True))
            )
        return result

    return run


def weights_of_channels(work: Work) -> Run:
    """``run(x, weight, bias, weight2, bias2)``: the weights ``[n, c]`` of the channels of images."""
    nodes = _nodes(work)
    shape = concrete(nodes["multiply"].call.output.shape)
    means = mean_of_pixels(shape)
    squeeze = _layer(nodes["squeeze"].call, _activation(nodes))
    excite = _layer(nodes["excite"].call, nodes["sigmoid"].call)

    def run(x: Array, weight: Packed, bias: Array | None, weight2: Packed, bias2: Array | None) -> Any:
        pooled = np.empty(shape[:2], np.float32)
        means(x, pooled)
        return excite(squeeze(pooled, weight, bias), weight2, bias2)

    return run


def _layer(conv: Call, activation: Call) -> Any:
    """``layer(x [n, c], weight, bias)``: a dense layer with its activation."""
    primitive, g = _product(conv, activation), conv_geometry(conv)
    roles = ["src", "weights", *(["bias"] if "bias" in primitive.roles else []), "dst"]
    compute, plain, wanted = (
        on_dense(primitive, roles, g.work),
        plain_weights(g),
        primitive.memories["weights"],
    )

    def layer(x: Array, weight: Packed, bias: Array | None) -> Any:
        result = np.empty((g.batch, g.outputs), np.float32)
        form = weight.form(plain, wanted)
        return compute(x, form, result) if bias is None else compute(x, form, bias, result)

    return layer


def cost(work: Work, device: Device) -> float:
    """Estimated seconds: x is read twice, and the result is written."""
    x = _nodes(work)["global_average_pool"].call.inputs[0]
    assert x is not None
    return (work.cost.bytes + x.nbytes) / device.capabilities.bandwidth + 2 * SECONDS

"""Squeeze and excitation with the 1x1 convolution behind it: the weights of channels go into those of the convolution, not into the image.

``conv(x * s, w)`` of an image with a number ``s`` for each channel is ``conv(x, w * s)``. Weights are multiplied in registers, on their way
into the products, so that neither they nor the image are written and read again. Source of the block: Tan and Le 2019 (EfficientNet).
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

from opyard import Graph, TensorSpec, add, linear, matmul
from opyard.driver import Device
from opyard.graph import Node
from opyard.kernels import Work
from opyard.region import Region

from ..geometry import conv_geometry
from ..jit import machine
from ..jit.teams import on_threads
from ..onednn import squeeze
from ..onednn.addresses import Array, address, dense, images_maker
from ..onednn.chains import SECONDS, Run
from ..onednn.convolution import is_product
from ..onednn.layouts import concrete
from ..onednn.plain import room
from .pointwise import cut_of, panels_of, product_seconds, threads_for
from .products import LEAST_ROWS
from .source import Source
from .tail import Tail, tail_of

SCALED = 1.12
"""How much longer the product takes for it."""

IMAGE_SECONDS = 3e-6
"""What each image takes beside it, calls by Python included."""


def _parts(work: Work) -> tuple[Node, Node | None]:
    """The convolution, and the sum behind it."""
    assert isinstance(work, Region)
    projection = [node for node in work.graph.nodes if node.op.name == "conv"][2]
    last = work.graph.nodes[-1]
    return projection, None if last is projection else last


@lru_cache(maxsize=1024)
def _tail(work: Work) -> Tail:
    """The product of one image: pixels times weights, a bias, and a residual."""
    projection, added = _parts(work)
    g = conv_geometry(projection.call)
    with Graph() as flat:
        x = flat.input("x", TensorSpec((g.area, g.channels), "float32"))
        weight = flat.input("weight", TensorSpec((g.channels, g.outputs), "float32"))
        if projection.inputs[2:] and projection.inputs[2] is not None:
            bias = flat.input("bias", TensorSpec((g.outputs,), "float32"))
            result = flat.apply(linear.op, [x, weight, bias], {})
        else:
            result = flat.apply(matmul.op, [x, weight], {})
        if added is not None:
            residual = flat.input("residual", TensorSpec((g.area, g.outputs), "float32"))
            result = flat.apply(add.op, [result, residual], {})
        flat.output("output", result)
    found = tail_of(Region(flat))
    assert isinstance(found, Tail)
    return found


def accepts(work: Work, device: Device) -> str | None:
    """Why these steps are not computed so, or None."""
    if reason := machine.missing() or squeeze.accepts(work, device):
        return reason
    projection, added = _parts(work)
    g = conv_geometry(projection.call)
    if not is_product(g):
        return "takes 1x1 convolutions in one group, with strides of 1 and no padding"
    if g.area < LEAST_ROWS:
        return f"takes {LEAST_ROWS} pixels or more, not {g.area}"
    if added is not None:
        shapes = {
            concrete(value.spec.shape) for value in (*added.inputs, *added.outputs) if value is not None
        }
        if len(shapes) > 1:
            return "takes a residual as large as the result"
    return None


def prepare(work: Work, device: Device) -> Run:
    """``run(x, weight, bias, weight2, bias2, weight3, bias3[, residual])`` on channels-last images and packed weights."""
    tail, g = _tail(work), conv_geometry(_parts(work)[0].call)
    excited, threads = squeeze.weights_of_channels(work), threads_for(tail)
    cut = cut_of(tail, threads)
    compute = on_threads(
        machine.compiler().function(Source(cut, tail, is_scaled=True).text()), cut.units, threads
    )
    make = images_maker((g.batch, *g.counts, g.outputs))
    names = [value.name for value, _, _ in tail.operands]
    used = [{"bias": 5, "residual": 6}[name] for name in names]
    pixels, results = 4 * g.area * g.channels, 4 * g.area * g.outputs
    steps = [pixels, 0, *(results if name == "residual" else 0 for name in names), results]
    scratch = [0] if cut.scratch_bytes else []
    steps += [*scratch, 4 * g.channels]
    words: Any = ctypes.c_void_p * len(steps)

    def run(x: Array, *inputs: Any) -> Array:
        factors = excited(x, *inputs[:4])
        form = panels_of(inputs[4], cut)
        given = [dense(inputs[place]) for place in used]
        result, x = make(), dense(x)
        shared = [room().of(cut.scratch_bytes)] if scratch else []
        places = [*map(address, (x, form, *given, result)), *shared, address(factors)]
        for number in range(g.batch):
            compute(words(*(place + number * step for place, step in zip(places, steps, strict=True))), None)
        return result

    return run


def cost(work: Work, device: Device) -> float:
    """Estimated seconds: x is read twice, and the result is written."""
    tail, x = _tail(work), work.inputs[0]
    assert x is not None
    batch = concrete(x.shape)[0]
    product = product_seconds(tail, work.cost.bytes / batch, device) - SECONDS
    return batch * (SCALED * product + IMAGE_SECONDS) + x.nbytes / device.capabilities.bandwidth + 2 * SECONDS

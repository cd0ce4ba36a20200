"""The gradient of convolution by its weights: products of columns, as im2col makes them, with the cotangent."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call

from .blocks import write_dense
from .convolution import gathered_columns
from .geometry import Geometry, geometry

Array = np.ndarray[Any, Any]


def prepare_conv_weight_gradient(call: Call, device: Device) -> Callable[..., Array]:
    """The function that computes this gradient."""
    x, cotangent = call.inputs
    assert x is not None and cotangent is not None
    weight, dtype = call.output.shape, call.output.dtype
    attributes = {key: value for key, value in call.attrs.items() if key != "kernel"}
    g = geometry(x.shape, weight, cotangent.shape, attributes)

    def run(x: Array, cotangent: Array, out: Array | None = None) -> Array:
        return write_dense(out, tuple(map(int, weight)), dtype, partial(_gathered, g, x, cotangent))

    return run


def _gathered(g: Geometry, x: Array, cotangent: Array, out: Array) -> None:
    """Block by block of images, whose columns are gathered element by element."""
    total = out.reshape(g.groups, g.outputs // g.groups, g.depth)
    total[...] = 0
    if not g.work:  # no sum has any terms, or there is none
        return
    for images, columns in gathered_columns(g, x, out.dtype):
        part = cotangent[images].reshape(-1, g.outputs, g.area).swapaxes(0, 1)
        rows = part.reshape(g.groups, g.outputs // g.groups, -1)
        total += np.matmul(rows, columns.swapaxes(1, 2))

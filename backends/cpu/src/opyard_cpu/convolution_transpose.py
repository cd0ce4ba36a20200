"""Transposed convolution: a matrix product on BLAS, then the taps are added into the output (col2im)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call
from opyard.ops import windows

from .taps import tap_ranges

Array = np.ndarray[Any, Any]


def prepare_conv_transpose(call: Call, device: Device) -> Callable[..., Array]:
    """The function that computes this transposed convolution, one image and one row of the kernel after the other.

    Along each axis the output sees the input as a convolution's input sees its output, so that padding, which is cut off
    here, never has to be computed.
    """
    x, weight = call.inputs[0], call.inputs[1]
    assert x is not None and weight is not None
    spatial, kernel = tuple(map(int, x.shape[2:])), tuple(map(int, weight.shape[2:]))
    result = tuple(map(int, call.output.shape))
    strides, dilations, pairs = steps_of(call.attrs, kernel)
    groups, dtype = call.attrs["groups"], call.output.dtype
    ranges = tap_ranges(result[2:], spatial, kernel, strides, dilations, pairs)
    taps = list(zip(product(*map(range, kernel)), product(*ranges), strict=True))
    depth, width, area = int(weight.shape[0]) // groups, int(weight.shape[1]), math.prod(spatial)
    # the product holds every tap of an image: [groups * width, *kernel, *spatial]
    products = (groups * width, *kernel, *spatial)

    def run(x: Array, weight: Array, bias: Array | None = None, out: Array | None = None) -> Array:
        target = np.empty(result, dtype) if out is None else out
        start = np.zeros(result[1], dtype) if bias is None else bias
        target[...] = start.reshape(-1, *(1,) * len(kernel))
        rows = x.reshape(len(x), groups, depth, area)
        matrix = weight.reshape(groups, depth, width * math.prod(kernel)).transpose(0, 2, 1)
        for source, image in zip(rows, target, strict=True):
            terms = np.matmul(matrix, source).reshape(products)
            for place, tap in taps:
                image[(slice(None), *(r.input for r in tap))] += terms[
                    (slice(None), *place, *(r.output for r in tap))
                ]
        return target

    return run


def steps_of(
    attributes: dict[str, Any], kernel: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], windows.Pairs]:
    """Strides, dilations, and how much is cut off before and after along each axis."""
    rank = len(kernel)
    strides = windows.per_axis(attributes["strides"], rank, "strides")
    dilations = windows.per_axis(attributes["dilations"], rank, "dilations")
    padding = attributes["padding"]
    if padding == "valid":
        return strides, dilations, ((0, 0),) * rank
    if padding not in ("same_upper", "same_lower"):
        return strides, dilations, windows.explicit_pairs(padding, rank)
    extra = windows.per_axis(attributes["output_padding"], rank, "output_padding", least=0)
    extents = windows.window_extents(kernel, dilations)
    totals = [max(0, e - s + p) for e, s, p in zip(extents, strides, extra, strict=True)]
    return strides, dilations, tuple(windows.split_total(total, padding) for total in totals)

"""The gradient of max pooling: taps compete for the windows, then each gets what its windows give."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from itertools import product
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call

from .blocks import write_dense
from .pooling import BLOCK_BYTES, taps_of
from .threads import in_parts

Array = np.ndarray[Any, Any]

OPERATIONS = 40
"""Of each element and tap that overlaps no other, in units of those of matrix products: it is memory that takes the time."""


def prepare_max_pool_gradient(call: Call, device: Device) -> Callable[..., Array]:
    """The function that computes this gradient: first of equals, as the op says."""
    x, cotangent = call.inputs
    assert x is not None and cotangent is not None
    counts, dtype = tuple(map(int, cotangent.shape[2:])), call.output.dtype
    shape = tuple(map(int, x.shape))
    ranges = taps_of(call, counts)
    taps = [((..., *(r.output for r in tap)), (..., *(r.input for r in tap))) for tap in product(*ranges)]
    channels, sizes = shape[0] * shape[1], shape[2:]
    block = max(1, BLOCK_BYTES // max(1, math.prod(sizes) * dtype.itemsize))
    apart = _apart(taps, sizes)

    def write(x: Array, cotangent: Array, target: Array) -> None:
        source, given = x.reshape(channels, *sizes), cotangent.reshape(channels, *counts)
        result = target.reshape(channels, *sizes)

        def part(first: int, last: int) -> None:
            for start in range(first, last, block):
                chosen = slice(start, min(start + block, last))
                _give(source[chosen], given[chosen], taps, apart, result[chosen])

        in_parts(part, channels, OPERATIONS * target.size)

    def run(x: Array, g: Array, out: Array | None = None) -> Array:
        return write_dense(out, shape, dtype, lambda target: write(x, g, target))

    return run


def _apart(taps: list[Any], sizes: tuple[int, ...]) -> bool:
    """Whether every element is in exactly one window."""
    met = np.zeros(sizes, np.int64)
    for _, source in taps:
        met[source] += 1
    return bool((met == 1).all())


def _give(x: Array, g: Array, taps: list[Any], apart: bool, out: Array) -> None:
    """Writes into ``out [channels, *sizes]`` what the windows ``g [channels, *counts]`` give to their greatest elements."""
    values = [_seen(x, tap, g.shape) for tap in taps]
    best = reduce(np.maximum, values)
    beside_nan = bool(np.isnan(best).any())
    integer = np.dtype(f"i{g.dtype.itemsize}")
    bits, free = g.view(integer), np.ones(g.shape, np.bool_)
    if not apart:
        out[...] = 0
    for found, (output, target) in zip(values, taps, strict=True):
        chosen = np.equal(found, best)
        if beside_nan:
            chosen |= np.isnan(found)
        chosen &= free
        free ^= chosen
        mask = chosen.astype(integer)
        np.negative(mask, out=mask)
        np.bitwise_and(bits, mask, out=mask)
        if apart:
            out.view(integer)[target] = mask[output]
        else:
            out[target] += mask.view(g.dtype)[output]


def _seen(x: Array, tap: Any, shape: tuple[int, ...]) -> Array:
    """What the windows have at one place, ``[channels, *counts]``: padding is the least number."""
    output, source = tap
    found = x[source]
    if found.shape == shape:
        return np.ascontiguousarray(found)
    whole = np.full(shape, -np.inf, x.dtype)
    whole[output] = found
    return whole

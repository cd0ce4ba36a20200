"""Choices, limits and conversions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call
from opyard.spec import as_dtype

from .blocks import write_dense
from .elementwise import BLOCK

Array = np.ndarray[Any, Any]


def clip(x: Array, min: Array | None = None, max: Array | None = None, out: Array | None = None) -> Array:
    """x limited to [min, max]; max wins where min is greater, NaN in any of the three gives NaN."""
    if min is not None:
        lower = np.maximum(x, min, out=out)
        return lower if max is None else np.minimum(lower, max, out=out)
    return np.positive(x, out=out) if max is None else np.minimum(x, max, out=out)


def prepare_where(call: Call, device: Device) -> Callable[..., Array]:
    """Chooses bits by a mask, in blocks: an element is ``other ^ ((chosen ^ other) & mask)``, which no processor has to guess."""
    output, dtype = tuple(map(int, call.output.shape)), call.output.dtype
    size = math.prod(output)
    specs = [spec for spec in call.inputs if spec is not None]
    sizes = [math.prod(map(int, spec.shape)) for spec in specs]
    plain = all(count in (1, size) for count in sizes) and dtype.itemsize in _INTEGERS
    if not plain or any(spec.dtype != dtype for spec in specs[1:]):
        return _where

    def run(condition: Array, x1: Array, x2: Array, out: Array | None = None) -> Array:
        arrays = [np.asarray(array) for array in (condition, x1, x2)]
        if not all(array.flags.c_contiguous for array in arrays):
            return _where(condition, x1, x2, out=out)
        flat = [array.reshape(-1) for array in arrays]
        return write_dense(out, output, dtype, lambda target: choose(*flat, out=target.reshape(-1)))

    return run


_INTEGERS = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}
"""Integers of a size in bytes."""


def _where(condition: Array, x1: Array, x2: Array, out: Array | None = None) -> Array:
    if out is None:
        return np.where(condition, x1, x2)
    np.copyto(out, np.where(condition, x1, x2))
    return out


def choose(truth: Array, chosen: Array, other: Array, *, out: Array) -> None:
    """Writes the chosen or the others into ``out [n]``; what has one element stands for all."""
    integer = _INTEGERS[out.dtype.itemsize]
    chosen, other, target = chosen.view(integer), other.view(integer), out.view(integer)
    mask = np.empty(min(BLOCK, len(out)), integer)
    for start in range(0, len(out), BLOCK):
        end = min(start + BLOCK, len(out))
        block, part = mask[: end - start], target[start:end]
        told, one, two = (a if len(a) == 1 else a[start:end] for a in (truth, chosen, other))
        np.copyto(block, told)
        np.negative(block, out=block)
        if len(other) == 1 and not other[0]:
            np.bitwise_and(one, block, out=part)
            continue
        np.bitwise_and(one ^ two, block, out=block)
        np.bitwise_xor(block, two, out=part)


def prepare_cast(call: Call, device: Device) -> Callable[..., Array]:
    """Converts to a dtype that is looked up once; equal dtypes share the memory."""
    target = as_dtype(call.attrs["dtype"])

    def cast(x: Array, out: Array | None = None) -> Array:
        with np.errstate(
            all="ignore"
        ):  # a number that the dtype does not hold has an unspecified value, no warning
            if out is None:
                return x.astype(target, copy=False)
            np.copyto(out, x, casting="unsafe")
        return out

    return cast

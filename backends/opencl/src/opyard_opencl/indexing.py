"""Reading by position: gather, embedding, gather_nd, take_along_axis, one_hot.

A device cannot raise: a position out of range gives elements of all one bits, which are NaN for floating dtypes and -1 for
signed integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from opyard.operation import Call

from . import movement
from .array import Array
from .device import OpenCLDevice
from .formats import FORMATS, program
from .launch import Launch, exact, partition, table
from .layout import broadcast_strides, collapsed, sizes_of
from .movement import UNITS

_GRAIN = 8192  # elements for each work item
_LONGS = np.int64


@exact
def prepare_gather(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs gather along one axis, or embedding."""
    swapped = call.op.name == "embedding"
    x, indices = reversed(call.inputs) if swapped else call.inputs
    assert x is not None and indices is not None
    sizes, axis = sizes_of(x), 0 if swapped else call.attrs["axis"] % x.ndim
    count, width = math.prod(sizes_of(indices)), math.prod(sizes[axis + 1 :])
    units = math.prod(sizes[:axis]) * count if width else 0
    items, step = partition(device, units, max(1, _GRAIN // max(1, width)))
    bound = tuple(map(_LONGS, (units, sizes[axis], count, width, step)))
    launch = Launch(device, _text(call, indices.dtype), "gather", items, bound) if units else None
    return _runner(call, device, launch, swapped)


@exact
def prepare_tuples(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs gather_nd."""
    x, indices = call.inputs
    assert x is not None and indices is not None
    sizes, batch = sizes_of(x), call.attrs["batch_dims"]
    *tuples, depth = sizes_of(indices)
    count, width = math.prod(tuples[batch:]), math.prod(sizes[batch + depth :])
    units = math.prod(tuples) if width else 0
    items, step = partition(device, units, max(1, _GRAIN // max(1, width)))
    places = table(
        device, [*sizes[batch : batch + depth], *broadcast_strides(sizes, sizes)[batch : batch + depth]]
    )
    bound = (*map(_LONGS, (units, count, math.prod(sizes[batch:]), depth, width, step)), places)
    launch = Launch(device, _text(call, indices.dtype), "gather_tuples", items, bound) if units else None
    return _runner(call, device, launch)


@exact
def prepare_along(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs take_along_axis; all axes but the one that is read along broadcast."""
    x, indices = call.inputs
    assert x is not None and indices is not None
    shape, axis = sizes_of(call.output), call.attrs["axis"] % x.ndim
    of_x, of_indices = (broadcast_strides(shape, sizes_of(spec)) for spec in (x, indices))
    along, of_x[axis] = of_x[axis], 0
    sizes, strides = collapsed(shape, (of_indices, of_x))
    *outer, width = sizes
    rows = math.prod(outer) if width else 0
    items, step = partition(device, rows, max(1, _GRAIN // max(1, width)))
    facts = (rows, width, strides[0][-1], strides[1][-1], int(x.shape[axis]), along, step)
    places = table(device, [*outer, *strides[0][:-1], *strides[1][:-1]])
    bound = (*map(_LONGS, facts), np.int32(len(outer)), places)
    launch = Launch(device, _text(call, indices.dtype), "take_along", items, bound) if rows else None
    return _runner(call, device, launch)


@exact
def prepare_one_hot(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs one_hot."""
    indices, output = call.inputs[0], call.output
    assert indices is not None
    sizes, axis = sizes_of(indices), call.attrs["axis"] % output.ndim
    outer, width, depth = math.prod(sizes[:axis]), math.prod(sizes[axis:]), int(output.shape[axis])
    units = outer * depth
    items, step = partition(device, units, max(1, _GRAIN // max(1, width)))
    values = (movement.pattern(call.attrs[name], output) for name in ("on_value", "off_value"))
    bound = (*map(_LONGS, (units, depth, width, step)), *values)
    launch = Launch(device, _text(call, indices.dtype), "one_hot", items, bound) if output.nbytes else None
    return _runner(call, device, launch)


def _text(call: Call, index: np.dtype[Any]) -> str:
    return program("gather", "int", {"U": UNITS[call.output.dtype.itemsize]}, INDEX=FORMATS[index.name])


def _runner(
    call: Call, device: OpenCLDevice, launch: Launch | None, swapped: bool = False
) -> Callable[..., Array]:
    def run(*arrays: Array, out: Array | None = None) -> Array:
        result = device.empty(call.output) if out is None else out
        if launch is not None:
            launch(*(reversed(arrays) if swapped else arrays), result)
        return result

    return run

"""Writing by position: scatter and scatter_nd. Results do not depend on chance: updates of one element come in their order.

A device cannot raise: an update whose position is out of range is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call
from opyard.spec import TensorSpec

from . import movement
from .array import Array
from .device import OpenCLDevice
from .formats import FORMATS, Format, format_of, program, refusal
from .launch import Launch, exact, partition, table
from .layout import broadcast_strides, collapsed, sizes_of

_GRAIN = 4096  # updates for each work item
_CHUNK = 256  # columns that are worth a unit of their own
_LONGS = np.int64
_HOW = ("none", "add", "mul", "max", "min")  # numbered as in kernels/scatter.cl
_MOVED = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64"}
"""The dtype that stands for elements of so many bytes where their numbers do not matter."""
_WIDER = {"float16": "float32", "bfloat16": "float32"}
"""Dtypes that are combined in another one, and rounded once."""


def accepts(call: Call, device: Device) -> str | None:
    """Why a scatter cannot be computed, or None."""
    if call.attrs["reduction"] == "none":
        return movement.accepts(call, device)
    return refusal(call, device)


@exact
def prepare_lanes(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs scatter: updates along one axis."""
    x, indices, _ = call.inputs
    assert x is not None and indices is not None
    shape, axis = sizes_of(indices), call.attrs["axis"] % x.ndim
    length, size = shape[axis], int(x.shape[axis])
    lanes = tuple(1 if place == axis else n for place, n in enumerate(shape))
    of_updates, of_output = (broadcast_strides(own, own) for own in (shape, sizes_of(x)))
    sizes, strides = collapsed(lanes, (of_updates, of_output))
    count = math.prod(sizes) if length else 0
    parts = _parts(device, count, length, size)
    items, step = partition(device, count * parts, max(1, _GRAIN // max(1, length)))
    facts = (count * parts, parts, length, size, of_updates[axis], of_output[axis], step)
    how = np.int32(_HOW.index(call.attrs["reduction"]))
    places = table(device, [*sizes, *strides[0], *strides[1]])
    bound = (*map(_LONGS, facts), how, np.int32(len(sizes)), places)
    return _runner(call, device, "scatter_lanes", items if count else 0, bound)


@exact
def prepare_tuples(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs scatter_nd: updates at index tuples."""
    x, indices, _ = call.inputs
    assert x is not None and indices is not None
    *tuples, depth = sizes_of(indices)
    sizes = sizes_of(x)
    count, positions, width = math.prod(tuples), math.prod(sizes[:depth]), math.prod(sizes[depth:])
    chunks = max(1, min(width // _CHUNK, 4 * device.workers))
    chunk = -(-width // chunks)
    chunks = -(-width // chunk) if width else 0
    parts = _parts(device, chunks, count * min(width, chunk), positions)
    units = chunks * parts if count else 0
    items, step = partition(device, units, max(1, _GRAIN // max(1, count * chunk)))
    facts = (units, parts, count, positions, depth, width, chunk, step)
    how = np.int32(_HOW.index(call.attrs["reduction"]))
    places = table(device, [*sizes[:depth], *broadcast_strides(sizes[:depth], sizes[:depth])])
    return _runner(call, device, "scatter_tuples", items if units else 0, (*map(_LONGS, facts), how, places))


def _parts(device: OpenCLDevice, units: int, work: int, places: int) -> int:
    """Parts to cut the places of an output into so that all workers have work; each part goes through all updates."""
    wanted = device.workers if device.shares_memory else 16 * device.workers
    if not units or units >= wanted or work < 4 * _GRAIN:
        return 1
    return max(1, min(-(-wanted // units), places))


def _runner(
    call: Call, device: OpenCLDevice, name: str, items: int, bound: tuple[Any, ...]
) -> Callable[..., Array]:
    """Copies the input, in the dtype that is combined in, writes the updates, and rounds if that is another dtype."""
    indices, output = call.inputs[1], call.output
    assert indices is not None
    own, between = _formats(call)
    wide = TensorSpec(output.shape, _WIDER[output.dtype.name]) if between is not own else output
    text = program("scatter", between.compute, X=own, OUT=between, INDEX=format_of(indices))
    count = math.prod(sizes_of(output))
    ends, step = partition(device, count, _GRAIN)
    sizes = (_LONGS(count), _LONGS(step))
    if count:
        begin, finish = (Launch(device, text, end, ends, sizes) for end in ("begin", "finish"))
    launch = Launch(device, text, name, items, bound) if items and count else None

    def run(x: Array, indices: Array, updates: Array, *, out: Array | None = None) -> Array:
        result = device.empty(output) if out is None else out
        if not count:
            return result
        sums = device.empty(wide) if wide is not output else result
        begin(x, sums)
        if launch is not None:
            launch(indices, updates, sums)
        if sums is not result:
            finish(sums, result)
        return result

    return run


def _formats(call: Call) -> tuple[Format, Format]:
    """How the elements are stored, and how they are while updates are combined."""
    dtype = call.output.dtype
    if call.attrs["reduction"] == "none":
        moved = FORMATS[_MOVED[dtype.itemsize]]
        return moved, moved
    own = FORMATS[dtype.name]
    return own, FORMATS[_WIDER[dtype.name]] if dtype.name in _WIDER else own

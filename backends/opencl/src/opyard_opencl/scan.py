"""cumulative_sum along one axis."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from opyard.operation import Call

from .array import Array
from .device import OpenCLDevice
from .formats import format_of, program
from .launch import Launch, exact, partition
from .layout import sizes_of

_COLUMNS = 64  # as in kernels/scan.cl
_GRAIN = 4096  # elements for each work item
_MOST_CHUNKS = 512  # each chunk adds up the sums of those before it
_LONGS = np.int64


@exact
def prepare(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs cumulative_sum, in two launches where one row has to serve several workers."""
    output = call.output
    sizes, axis = sizes_of(output), (call.attrs["axis"] or 0) % output.ndim
    outer, length, width = math.prod(sizes[:axis]), sizes[axis], math.prod(sizes[axis + 1 :])
    found = format_of(output)
    text = program("scan", found.compute, X=found, OUT=found)
    lanes = outer * -(-width // _COLUMNS)
    chunks = _chunks(device, lanes, length * min(width, _COLUMNS))
    chunk = -(-length // chunks)
    units = lanes * chunks
    items, step = partition(device, units, max(1, _GRAIN // max(1, chunk * min(width, _COLUMNS))))
    reverse, exclusive = (np.int32(call.attrs[name]) for name in ("reverse", "exclusive"))
    facts = (*map(_LONGS, (units, length, width, chunks, chunk, step)), reverse)
    if output.size:
        scan = Launch(device, text, "scan", items, (*facts, exclusive))
        first = Launch(device, text, "sum_chunks", items, facts) if chunks > 1 else None
    room = outer * chunks * width * 8  # bytes: no type is wider

    def run(x: Array, *, out: Array | None = None) -> Array:
        result = device.empty(output) if out is None else out
        if output.size:
            scratch = device.scratch(room)
            if first is not None:
                first(x, scratch)
            scan(x, result, scratch)
        return result

    return run


def _chunks(device: OpenCLDevice, lanes: int, work: int) -> int:
    """Parts to cut each row into: the work doubles, so only where most workers would have none."""
    wanted = device.workers if device.shares_memory else 64 * device.workers
    if lanes * 2 >= wanted or work < 8 * _GRAIN:
        return 1
    return max(1, min(4 * wanted // max(1, lanes), work // _GRAIN, _MOST_CHUNKS))

"""sort, argsort and top_k: stable merge sorts of all rows at the same time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call
from opyard.spec import TensorSpec

from .array import Array
from .device import OpenCLDevice
from .formats import format_of, program, refusal
from .launch import Launch, exact, partition
from .layout import sizes_of

_RUN = 32  # as in kernels/sort.cl, and the most that are selected without sorting
_SEGMENT = 512  # elements of a merge that are one unit of work
_GRAIN = 1024  # elements for each work item
_LONGS = np.int64
_KEYS = {
    "float": "float32",
    "double": "float64",
    "char": "int8",
    "short": "int16",
    "int": "int32",
    "long": "int64",
}
_KEYS |= {"uchar": "uint8", "ushort": "uint16", "uint": "uint32", "ulong": "uint64"}
"""The dtype of each type to compute in."""


def accepts(call: Call, device: Device) -> str | None:
    """Why rows cannot be sorted, or None."""
    x = call.inputs[0]
    assert x is not None
    if int(x.shape[call.attrs["axis"] % x.ndim]) >= 2**31:
        return f"sorts rows of fewer than 2**31 elements; {x!r} has longer ones"
    return refusal(call, device)


@exact
def prepare(call: Call, device: OpenCLDevice) -> Callable[..., Any]:
    """A function that runs sort, argsort or top_k."""
    x = call.inputs[0]
    assert x is not None
    rows, length, width = _rows(call)
    kept = call.attrs.get("k", length)
    name = call.op.name
    descending = np.int32(call.attrs["largest" if name == "top_k" else "descending"])
    found = format_of(x)
    text = program("sort", found.compute, X=found)
    few = name == "top_k" and kept <= _RUN and (device.shares_memory or rows >= 64 * device.workers)
    make = _few if few else _order
    order = make(device, text, call, descending) if rows * kept else None
    items, step = partition(device, rows * kept, _GRAIN)
    facts = tuple(map(_LONGS, (rows * kept, length, width, kept, kept if few else length, step)))
    if order is not None:
        write_values = Launch(device, text, "write_values", items, facts) if name != "argsort" else None
        write_places = Launch(device, text, "write_places", items, facts) if name != "sort" else None

    def run(x: Array) -> Any:
        results = tuple(device.empty(spec) for spec in call.outputs)
        if order is not None:
            places = order(x)
            if write_values is not None:
                write_values(x, places, results[0])
            if write_places is not None:
                write_places(places, results[-1])
        return results if call.is_tuple else results[0]

    return run


def _rows(call: Call) -> tuple[int, int, int]:
    """How many rows there are, their length, and the stride of their elements."""
    x = call.inputs[0]
    assert x is not None
    sizes, axis = sizes_of(x), call.attrs["axis"] % x.ndim
    width = math.prod(sizes[axis + 1 :])
    return math.prod(sizes[:axis]) * width, sizes[axis], width


def _few(device: OpenCLDevice, text: str, call: Call, descending: Any) -> Callable[[Array], Array]:
    """A function that gives the positions of the first few elements of each row in their order, ``[rows, k]``."""
    (rows, length, width), kept = _rows(call), call.attrs["k"]
    items, step = partition(device, rows, max(1, _GRAIN // length))
    facts = (*map(_LONGS, (rows, length, width, kept, step)), descending)
    select = Launch(device, text, "select_few", items, facts)

    def order(x: Array) -> Array:
        places = device.empty(TensorSpec((rows * kept,), "int32"))
        select(x, places)
        return places

    return order


def _order(device: OpenCLDevice, text: str, call: Call, descending: Any) -> Callable[[Array], Array]:
    """A function that gives the positions of the elements of each row in their order, ``[rows, length]``."""
    rows, length, width = _rows(call)
    x = call.inputs[0]
    assert x is not None
    spaces = (
        TensorSpec((rows * length,), _KEYS[format_of(x).compute]),
        TensorSpec((rows * length,), "int32"),
    )
    runs = -(-length // _RUN)
    items, step = partition(device, rows * runs, max(1, _GRAIN // _RUN))
    facts = (*map(_LONGS, (rows * runs, length, width, runs, step)), descending)
    begin, merges, run = Launch(device, text, "sort_runs", items, facts), [], _RUN
    while run < length:
        segment = min(2 * run, _SEGMENT)
        segments = -(-length // segment)
        items, step = partition(device, rows * segments, max(1, _GRAIN // segment))
        facts = (*map(_LONGS, (rows * segments, length, run, segments, segment, step)), descending)
        merges.append(Launch(device, text, "merge_runs", items, facts))
        run *= 2

    def order(x: Array) -> Array:
        keys, places = map(device.empty, spaces)
        begin(x, keys, places)
        if merges:
            others = tuple(map(device.empty, spaces))
            for merge in merges:
                merge(keys, places, *others)
                (keys, places), others = others, (keys, places)
        return places

    return order

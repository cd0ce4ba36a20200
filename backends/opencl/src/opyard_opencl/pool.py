"""max_pool and average_pool over one to three spatial axes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from opyard.operation import Call
from opyard.ops import windows

from .array import Array
from .device import OpenCLDevice
from .formats import format_of, program
from .launch import Launch, Single, exact, partition, table

_GRAIN = 1024  # elements of windows for each work item


@exact
def prepare(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs a pooling op; axes that are missing have size 1."""
    x = call.inputs[0]
    assert x is not None
    sizes, places = (tuple(int(n) for n in spec.shape) for spec in (x, call.output))
    rank, attributes = len(sizes) - 2, call.attrs
    kernel = windows.per_axis(attributes["kernel"], rank, "kernel")
    strides = (
        kernel if attributes["strides"] is None else windows.per_axis(attributes["strides"], rank, "strides")
    )
    dilations = windows.per_axis(attributes["dilations"], rank, "dilations")
    pairs = windows.padding_pairs(attributes["padding"], sizes[2:], kernel, strides, dilations)
    before = tuple(pair[0] for pair in pairs)
    counted = attributes.get("count_include_pad", False)
    least = tuple(-pair[0] if counted else 0 for pair in pairs)
    end = tuple(n + (int(pair[1]) if counted else 0) for n, pair in zip(sizes[2:], pairs, strict=True))
    rows = (
        (sizes[2:], 1),
        (places[2:], 1),
        (kernel, 1),
        (strides, 1),
        (before, 0),
        (dilations, 1),
        (least, 0),
        (end, 1),
    )
    geometry = [(value,) * (3 - rank) + tuple(own) for own, value in rows]
    text = program(
        *("pool", format_of(x).compute, {"AVERAGE": int(call.op.name == "average_pool")}),
        X=format_of(x),
        OUT=format_of(call.output),
    )
    units = math.prod(places[:-1])
    items, step = partition(device, units, max(1, _GRAIN // max(1, places[-1] * math.prod(kernel))))
    bound = (np.int64(units), np.int64(step), table(device, geometry))
    launch = Launch(device, text, "pool", items, bound) if call.output.nbytes else None
    return Single(device, call.output, launch)

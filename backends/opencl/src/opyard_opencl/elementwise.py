"""Kernels of elementwise ops, generated from their scalar expressions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from opyard.operation import Call

from . import library
from .array import Array
from .device import OpenCLDevice
from .expressions import body_of, compute_of, inputs_of
from .launch import Launch, exact, partition, table
from .layout import broadcast_strides, collapsed, sizes_of

_GRAIN = 4096  # elements: about a microsecond of the simplest operation
_LONGS = np.int64


@exact
def prepare(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs an op with a scalar expression.

    Inputs broadcast. Where every input has the output's shape, or one element, the elements are numbered through;
    else rows of the last axes are run through, whose places are worked out from a table of sizes and strides.
    """
    output = call.output
    shape = sizes_of(output)
    names, specs = zip(*inputs_of(call), strict=True)
    sizes, strides = collapsed(shape, [broadcast_strides(shape, sizes_of(spec)) for spec in specs])
    flat, width = len(sizes) == 1, sizes[-1]
    steps = tuple(1 if flat and width == 1 else own[-1] for own in strides)
    rows = math.prod(sizes[:-1])
    compute = compute_of(call)
    source, name = library.kernel(
        *(names, tuple(spec.dtype.name for spec in specs), output.dtype.name),
        *(compute, body_of(call, compute), steps, flat, device.quirks.compiles_late),
    )
    if flat:
        items, step = partition(device, width, _GRAIN)
        bound: tuple[Any, ...] = (_LONGS(width), _LONGS(step))
    else:
        items, step = partition(device, rows, max(1, _GRAIN // max(1, width)))
        values = [*sizes[:-1], *(s for own in strides for s in own[:-1])]
        bound = (_LONGS(rows), _LONGS(width), _LONGS(step), np.int32(len(sizes) - 1), table(device, values))
    launch = Launch(device, source, name, items, bound) if width * rows else None
    given = tuple(spec is not None for spec in call.inputs)

    def run(*arrays: Array, out: Array | None = None) -> Array:
        result = device.empty(output) if out is None else out
        if launch is not None:
            launch(*(array for array, there in zip(arrays, given, strict=False) if there), result)
        return result

    return run

"""Kernels of elementwise ops, generated from their scalar expressions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from opyard.operation import Call
from opyard.spec import TensorSpec
from opyard_codegen.elementwise import Body, body_of

from . import library
from .array import Array
from .device import OpenCLDevice
from .launch import Launch, Single, exact, partition, table
from .layout import broadcast_strides, collapsed, sizes_of

_GRAIN = 4096  # elements: about a microsecond of the simplest operation
_LONGS = np.int64


@exact
def prepare(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs an op with a scalar expression."""
    specs = [spec for spec in call.inputs if spec is not None]
    return Single(device, call.output, launch_of(body_of(call), specs, call.output, device))


def launch_of(body: Body, specs: list[TensorSpec], output: TensorSpec, device: OpenCLDevice) -> Launch | None:
    """The kernel that computes a body for every element of ``output``; None where that has none.

    Inputs broadcast. Where every input has the output's shape, or one element, the elements are numbered through;
    else rows of the last axes are run through, whose places are worked out from a table of sizes and strides.
    """
    shape = sizes_of(output)
    sizes, strides = collapsed(shape, [broadcast_strides(shape, sizes_of(spec)) for spec in specs])
    flat, width, grid = len(sizes) == 1, sizes[-1], not device.shares_memory
    steps = tuple(1 if flat and width == 1 else own[-1] for own in strides)
    lanes = device.vector_bytes  # of float32: four vectors
    source, name = library.kernel(body, steps, flat, grid, device.quirks.compiles_late, lanes)
    count, rows = math.prod(sizes), math.prod(sizes[:-1])
    if not count:
        return None
    if grid:
        places = table(device, [*sizes, *(s for own in strides for s in own)])
        bound: tuple[Any, ...] = (_LONGS(count),)
        bound += () if flat else (np.int32(len(sizes)), places)
        return Launch(device, source, name, count, bound)
    if flat:
        items, step = partition(device, width, _GRAIN)
        return Launch(device, source, name, items, (_LONGS(width), _LONGS(step)))
    items, step = partition(device, rows, max(1, _GRAIN // max(1, width)))
    places = table(device, [*sizes[:-1], *(s for own in strides for s in own[:-1])])
    bound = (_LONGS(rows), _LONGS(width), _LONGS(step), np.int32(len(sizes) - 1), places)
    return Launch(device, source, name, items, bound)

"""Transposition by tiles, and gathering: ``kernels/move.cu``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call

from ..sources import CudaSource
from .launch import BLOCK, LARGEST, blocks, function, instance, runner, sizes, text

_BITS = {
    1: "unsigned char",
    2: "unsigned short",
    4: "unsigned int",
    8: "unsigned long long",
    16: "Pack<unsigned long long, 2>",
}
"""What an element is moved as, by its bytes."""

INDEX_TYPES = {
    "int8": "signed char",
    "int16": "short",
    "int32": "int",
    "int64": "long long",
    "uint8": "unsigned char",
    "uint16": "unsigned short",
    "uint32": "unsigned int",
    "uint64": "unsigned long long",
}
"""Types of indices, by dtype."""


def _permutation(call: Call) -> tuple[int, ...]:
    rank = len(sizes(call.inputs[0]))
    if call.op.name == "matrix_transpose":
        return (*range(rank - 2), rank - 1, rank - 2)
    return tuple(axis % rank for axis in call.attrs["axes"])


def merged(shape: Sequence[int], axes: Sequence[int]) -> tuple[list[int], list[int]]:
    """A permutation of as few axes as possible: those that stay neighbours become one, those of size 1 are left out."""
    groups: list[list[int]] = []
    for axis in (axis for axis in axes if shape[axis] != 1):
        between = range(groups[-1][-1] + 1, axis) if groups and groups[-1][-1] < axis else None
        if between is not None and all(shape[i] == 1 for i in between):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    order = sorted(range(len(groups)), key=lambda g: groups[g][0])
    sources = [math.prod(shape[i] for i in groups[g]) for g in order]
    return sources, [order.index(g) for g in range(len(groups))]


def accepts_transpose(call: Call, device: Device) -> str | None:
    """Takes what exchanges two axes behind the others, after neighbours are put together."""
    shape, axes = merged(sizes(call.inputs[0]), _permutation(call))
    if axes not in ([1, 0], [0, 2, 1]):
        return f"exchanges two parts of the axes behind the others, not {_permutation(call)} of {sizes(call.inputs[0])}"
    tiles = math.prod(shape[:-2]) * blocks(shape[-2], 32) * blocks(shape[-1], 32)
    return None if tiles <= LARGEST else f"takes up to {LARGEST} tiles, not {tiles}"


def prepare_transpose(call: Call, device: Any) -> Callable[..., Any]:
    """A function that gives a dense array, whose elements are read and written in rows."""
    shape, _ = merged(sizes(call.inputs[0]), _permutation(call))
    rows, columns = shape[-2:]
    grid = (math.prod(shape[:-2]) * blocks(rows, 32) * blocks(columns, 32),)
    kernel = function("move", instance("transpose", _BITS[call.output.dtype.itemsize]))

    def launch(arrays: Sequence[Any], result: Any) -> None:
        kernel(grid, (32, 8), (arrays[0], result, np.int64(rows), np.int64(columns)))

    return runner(call, device, launch)


def accepts_gather(call: Call, device: Device) -> str | None:
    """Takes what has rows to gather."""
    count = math.prod(sizes(call.output))
    return None if count <= LARGEST * BLOCK else f"gives up to {LARGEST * BLOCK} elements, not {count}"


def prepare_gather(call: Call, device: Any) -> Callable[..., Any]:
    """A function that gathers along an axis, or the rows of a table for embedding."""
    embedding = call.op.name == "embedding"
    table, indices = (sizes(spec) for spec in (call.inputs[::-1] if embedding else call.inputs))
    axis = 0 if embedding else call.attrs["axis"] % len(table)
    outer, size, inner = math.prod(table[:axis]), table[axis], math.prod(table[axis + 1 :])
    count, bytes_ = math.prod(indices), call.output.dtype.itemsize
    wide = next(b for b in sorted(_BITS, reverse=True) if inner * bytes_ % b == 0 and b >= bytes_)
    inner = inner * bytes_ // wide
    total = outer * count * inner
    index = call.inputs[0 if embedding else 1]
    assert index is not None
    kernel = function("move", instance("gather", _BITS[wide], INDEX_TYPES[index.dtype.name]))
    extents = tuple(map(np.int64, (total, size, count, inner)))

    def launch(arrays: Sequence[Any], result: Any) -> None:
        x, places = arrays[::-1] if embedding else arrays
        kernel((blocks(total, BLOCK),), (BLOCK,), (x, places, result, *extents))

    return runner(call, device, launch)


def sources() -> Iterator[CudaSource]:
    """All instances for indices of 32 and 64 bits."""
    transposes = [instance("transpose", bits) for size, bits in _BITS.items() if size <= 8]
    gathers = [
        instance("gather", bits, index)
        for bits in _BITS.values()
        for index in (INDEX_TYPES["int32"], INDEX_TYPES["int64"])
    ]
    yield CudaSource("move/all", text("move"), (*transposes, *gathers))

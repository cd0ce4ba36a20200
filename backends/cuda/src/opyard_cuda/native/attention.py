"""Scaled dot product attention: ``kernels/attention.cu``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call

from ..sources import CudaSource
from .launch import LARGEST, TYPES, blocks, function, instance, or_null, runner, sizes, text

_QUERIES = 32
_WIDTHS = (32, 64, 128)
"""Widths of heads that there is an instance for."""


def _most_width(dtype: str) -> int:
    # shared memory: 48 KB hold two tiles of 32 rows
    return 64 if dtype == "float64" else 128


def accepts(call: Call, device: Device) -> str | None:
    """Takes one dtype, masks of it or of bool, and heads that fit into shared memory."""
    query, key, value, mask = call.inputs
    assert query is not None and key is not None and value is not None
    dtype = call.output.dtype.name
    if dtype not in TYPES or {spec.dtype.name for spec in (query, key, value)} != {dtype}:
        return f"takes query, key and value of one of {', '.join(TYPES)}"
    if mask is not None and mask.dtype.name not in ("bool", dtype):
        return f"takes masks of bool and {dtype}, not {mask.dtype.name}"
    width = max(sizes(query)[3], sizes(value)[3])
    if width > _most_width(dtype):
        return f"takes heads up to a width of {_most_width(dtype)}, not {width}"
    largest = max(math.prod(sizes(spec)) for spec in (query, key, value, call.output))
    return None if largest <= LARGEST else f"takes up to {LARGEST} elements, not {largest}"


def _mask_strides(call: Call) -> tuple[int, int, int, int]:
    """Elements from one batch, head, query and key of the mask to the next; 0 where it is broadcast."""
    mask = call.inputs[3]
    shape = (1,) * 4 if mask is None else (*(1,) * (4 - mask.ndim), *sizes(mask))
    steps = [0 if shape[axis] == 1 else math.prod(shape[axis + 1 :]) for axis in range(4)]
    return steps[0], steps[1], steps[2], steps[3]


def prepare(call: Call, device: Any) -> Callable[..., Any]:
    """A function that attends without writing the scores."""
    (batch, heads, length, width), (_, groups, keys, _) = sizes(call.inputs[0]), sizes(call.inputs[1])
    out_width, mask, dtype = sizes(call.output)[3], call.inputs[3], call.output.dtype.name
    scale = call.attrs["scale"]
    if scale is None:
        scale = 1.0 / math.sqrt(width) if width else 1.0
    kind = 0 if mask is None else 1 if mask.dtype.name == "bool" else 2
    most = next(w for w in _WIDTHS if w >= max(width, out_width))
    kernel = function("attention", instance("attention", TYPES[dtype], kind, most))
    grid = (batch * heads * blocks(length, _QUERIES),)
    numbers = (
        *map(np.int32, (heads, groups, length, keys, width, out_width, bool(call.attrs["causal"]))),
        *map(np.int64, _mask_strides(call)),
        np.float64(scale),
    )

    def launch(arrays: Sequence[Any], result: Any) -> None:
        query, key, value, given = (*arrays, None)[:4]
        kernel(grid, (128,), (query, key, value, or_null(given), result, *numbers))

    return runner(call, device, launch)


def sources() -> Iterator[CudaSource]:
    """For each dtype the widest heads with an added mask, for float32 with every kind."""
    for dtype, name in TYPES.items():
        entries = tuple(
            instance("attention", name, kind, _most_width(dtype))
            for kind in ((0, 1, 2) if dtype == "float32" else (2,))
        )
        yield CudaSource(f"attention/{dtype}", text("attention"), entries)

"""Softmax and normalizations of rows: ``kernels/rows.cu``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call
from opyard.region import Region
from opyard.spec import TensorSpec

from ..sources import CudaSource
from .launch import FLOATS, LARGEST, TYPES, blocks, function, instance, or_null, pack, runner, sizes, text

_WARP_BLOCK = 128
"""Threads of a block whose warps have a row each."""

_GROUP = 256
_LONG_GROUP = 512
"""Threads that share a row, in one pass and in several."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How rows are divided: elements of a pack, packs of a thread (0: several passes), threads of a row, and of a block."""

    width: int
    packs: int
    group: int
    block: int

    @staticmethod
    def of(dtype: np.dtype[Any], columns: int) -> Plan:
        """The plan for rows of so many elements: a thread keeps at most 32 of them, or 16 of float64."""
        width, most = pack(dtype, columns), 16 if dtype.itemsize == 8 else 32
        for group, block in ((32, _WARP_BLOCK), (_GROUP, _GROUP)):
            if columns <= group * most:
                needed = blocks(columns, group * width)
                return Plan(width, 1 << max(0, needed - 1).bit_length(), group, block)
        return Plan(width, 0, _LONG_GROUP, _LONG_GROUP)

    def launch(
        self, template: str, types: tuple[str, ...], last: bool, rows: int, columns: int
    ) -> tuple[Any, tuple[int], tuple[int], tuple[Any, ...]]:
        """The kernel, its grid and block, and the sizes that it is given behind the arrays."""
        last_sizes: tuple[Any, ...] = (
            (np.int64(rows), np.int32(columns)) if self.packs else (np.int32(columns),)
        )
        grid = blocks(rows, self.block // self.group)
        return function("rows", self.entry(template, types, last)), (grid,), (self.block,), last_sizes

    def entry(self, template: str, types: tuple[str, ...], last: bool) -> str:
        """The name of the instance."""
        if self.packs:
            return instance(template, *types, self.width, self.packs, self.group, last)
        return instance(f"long_{template}", *types, self.width, self.group, last)


def accepts_softmax(call: Call, device: Device) -> str | None:
    """Takes the last axis alone: its elements lie side by side."""
    shape, axis = sizes(call.inputs[0]), call.attrs["axis"]
    if axis % len(shape) != len(shape) - 1:
        return f"works along the last axis, which is {len(shape) - 1}, not along axis {axis}"
    return _accepts_sizes(math.prod(shape[:-1]), shape[-1])


def _accepts_sizes(rows: int, columns: int) -> str | None:
    if max(rows, columns) > LARGEST:
        return f"takes up to {LARGEST} rows and columns, not {rows} and {columns}"
    return None


def prepare_softmax(call: Call, device: Any) -> Callable[..., Any]:
    """A function that runs softmax or log_softmax along the last axis."""
    x, shape = call.output, sizes(call.output)
    rows, columns = math.prod(shape[:-1]), shape[-1]
    kernel, grid, block, extents = Plan.of(x.dtype, columns).launch(
        "softmax", (TYPES[x.dtype.name],), call.op.name == "log_softmax", rows, columns
    )

    def launch(arrays: Sequence[Any], result: Any) -> None:
        kernel(grid, block, (arrays[0], result, *extents))

    return runner(call, device, launch)


def accepts_normalization(call: Call, device: Device) -> str | None:
    """Takes scale and bias of the sizes of the axes that are normalized, and of one dtype, that of ``x`` or float32."""
    return _accepts_parameters(call)


def _accepts_parameters(call: Call) -> str | None:
    x, shape = call.output, sizes(call.output)
    axis = call.attrs["axis"] % len(shape)
    columns = math.prod(shape[axis:])
    given = [spec for spec in call.inputs[1:] if spec is not None]
    for spec in given:
        if math.prod(sizes(spec)) != columns:
            return f"takes scale and bias of shape {shape[axis:]}, not {spec!r}"
    dtypes = {spec.dtype.name for spec in given}
    if len(dtypes) > 1 or not dtypes <= {x.dtype.name, "float32"}:
        return f"takes scale and bias of {x.dtype.name} or both of float32, not {', '.join(sorted(dtypes))}"
    return _accepts_sizes(math.prod(shape[:axis]), columns)


@dataclass(frozen=True, slots=True)
class _Normalization:
    """A launch of layer_normalization or rms_normalization, with or without a residual."""

    kernel: Any
    grid: tuple[int]
    block: tuple[int]
    extents: tuple[Any, ...]
    epsilon: float

    @staticmethod
    def of(call: Call) -> _Normalization:
        x, shape = call.output, sizes(call.output)
        axis = call.attrs["axis"] % len(shape)
        rows, columns = math.prod(shape[:axis]), math.prod(shape[axis:])
        parameters = next((spec.dtype for spec in call.inputs[1:] if spec is not None), x.dtype)
        types, centred = (TYPES[x.dtype.name], TYPES[parameters.name]), call.op.name == "layer_normalization"
        plan = Plan.of(x.dtype, columns).launch("normalization", types, centred, rows, columns)
        return _Normalization(*plan, call.attrs["epsilon"])

    def __call__(self, x: Any, residual: Any, scale: Any, bias: Any, total: Any, result: Any) -> None:
        arrays = (x, *map(or_null, (residual, scale, bias, total)), result)
        self.kernel(self.grid, self.block, (*arrays, *self.extents, np.float64(self.epsilon)))


def prepare_normalization(call: Call, device: Any) -> Callable[..., Any]:
    """A function that runs layer_normalization or rms_normalization over trailing axes."""
    normalize = _Normalization.of(call)

    def launch(arrays: Sequence[Any], result: Any) -> None:
        x, scale, bias = (*arrays, None, None)[:3]
        normalize(x, None, scale, bias, None, result)

    return runner(call, device, launch)


def accepts_residual(region: Region, device: Device) -> str | None:
    """Takes two arrays of one shape and dtype, and what the normalization takes."""
    x, residual = region.inputs[:2]
    assert x is not None and residual is not None
    if x != residual or x.dtype.name not in FLOATS:
        return f"adds two arrays of one shape and one of {', '.join(FLOATS)}, not {x!r} and {residual!r}"
    return _accepts_parameters(region.graph.nodes[1].call)


def prepare_residual(region: Region, device: Any) -> Callable[..., Any]:
    """A function that gives the sum and its normalization, of which the second needs no memory to be read again."""
    normalization = region.graph.nodes[1].call
    normalize = _Normalization.of(normalization)

    def run(x: Any, residual: Any, scale: Any = None, bias: Any = None) -> Any:
        total = device.empty(normalization.output)

        def launch(arrays: Sequence[Any], result: Any) -> None:
            dense_x, dense_residual, dense_scale, dense_bias = arrays
            normalize(dense_x, dense_residual, dense_scale, dense_bias, total, result)

        result = runner(normalization, device, launch)(x, residual, scale, bias)
        return total, result

    return run


def sources() -> Iterator[CudaSource]:
    """For each dtype the instances that take most registers, and for float32 those that move single elements, too."""
    for dtype, name in TYPES.items():
        spec = TensorSpec((1,), dtype)
        plans = [Plan.of(spec.dtype, columns) for columns in (1024, 65536)]
        if dtype == "float32":
            plans += [Plan.of(spec.dtype, columns) for columns in (1023, 8192)]
        entries = [plan.entry("softmax", (name,), False) for plan in plans]
        entries += [
            plan.entry("normalization", (name, name), last) for plan in plans for last in (False, True)
        ]
        yield CudaSource(f"rows/{dtype}", text("rows"), tuple(entries))

"""Regions as one generated kernel: elementwise calls with broadcasting, and reductions of rows among them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.errors import SpecError
from opyard.operation import Call
from opyard.region import Region
from opyard_codegen import CUDA, Dialect
from opyard_codegen import accepts as expression_refusal
from opyard_codegen.elementwise import Entry, program
from opyard_codegen.expressions import has_expression
from opyard_codegen.layout import broadcast_strides, collapsed, sizes_of
from opyard_codegen.regions import array_refusal, body_of_region, shape_refusal, specs_of
from opyard_codegen.row_plan import REDUCTIONS, plan_of, reduction_refusal
from opyard_codegen.rows import NAME, row_program

from . import sources
from .native.launch import BLOCK, blocks, dense, is_dense
from .sources import CudaSource

MOST_BLOCKS = 8192
"""Blocks of a launch; with more elements each thread computes several, a grid apart."""

GROUPS = (32, 256)
"""The least and the most threads that compute a row together."""

ROWS_EFFICIENCY = 0.6
"""Of the roofline: an estimate, as nothing here was measured on a GPU. Elements are computed anew in each pass."""

UNITS = 132
"""Multiprocessors of a large GPU (H100, H200)."""

ENTRY = "fused"

_SHORT = {
    name: f"((int){text})"
    for name, text in CUDA.macros.items()
    if name in ("ITEM", "ITEMS", "GROUP", "GROUPS")
}
NARROW = replace(CUDA, macros={**CUDA.macros, **_SHORT, "INDEX": "int"})
"""CUDA with places of 32 bits: they are divided three times as fast, and take half of the registers."""


def _counted(count: int) -> tuple[Dialect, type[np.int32] | type[np.int64]]:
    """The dialect for kernels that count to so many elements, and the type of its counts."""
    return (NARROW, np.int32) if count < 1 << 30 else (CUDA, np.int64)


def claims(call: Call, device: Device) -> str | None:
    """Why a call cannot be a part of an elementwise kernel, or None."""
    if not has_expression(call.op):
        return f"{call.op.name} is not elementwise"
    return expression_refusal(call, CUDA) if call.output.size else "there is nothing to compute"


def claims_rows(call: Call, device: Device) -> str | None:
    """Why a call cannot be a part of a kernel of rows, or None."""
    if call.op.name not in REDUCTIONS:
        return claims(call, device)
    specs = (spec for spec in (*call.inputs, call.output) if spec is not None)
    foreign = [spec.dtype.name for spec in specs if spec.dtype.name not in CUDA.formats]
    return f"takes {', '.join(CUDA.formats)}, not {foreign[0]}" if foreign else reduction_refusal(call)


def accepts(region: Region, device: Device) -> str | None:
    """Why a region cannot be one elementwise kernel, or None."""
    return shape_refusal(region)


def accepts_rows(region: Region, device: Device) -> str | None:
    """Why a region cannot be one kernel of rows, or None."""
    try:
        plan_of(region)
    except SpecError as error:
        return str(error)
    return array_refusal(region)


def cost_rows(region: Region, device: Device) -> float:
    """Estimated seconds; a row is computed by one block, so that few rows leave most of a GPU idle."""
    (flops, nbytes), can = region.cost, device.capabilities
    idle = max(1.0, UNITS / plan_of(region).rows)
    return idle * max(flops / can.flops, nbytes / can.bandwidth) / ROWS_EFFICIENCY + can.launch_seconds


def elementwise_source(region: Region) -> tuple[CudaSource, int, list[int], tuple[Any, ...]]:
    """The program of an elementwise region; the elements, the table of their places, if any, and the constants that it reads."""
    body, constants = body_of_region(region)
    shape = sizes_of(region.outputs[0])
    strides = [broadcast_strides(shape, sizes_of(spec)) for spec in specs_of(region, constants)]
    sizes, strides_joined = collapsed(shape, strides)
    flat = len(sizes) == 1
    steps = tuple(1 if flat and sizes[0] == 1 else own[-1] for own in strides_joined)
    dialect, _ = _counted(math.prod(sizes))
    text = program(dialect, [Entry(ENTRY, body, steps, flat, grid=True)])
    places = [] if flat else [*sizes, *(stride for own in strides_joined for stride in own)]
    return CudaSource(f"fused/{region.title}", text, (ENTRY,)), math.prod(sizes), places, constants


def prepare(region: Region, device: Any) -> Callable[..., Any]:
    """A function of arrays that computes an elementwise region."""
    source, count, places, constants = elementwise_source(region)
    kernel = sources.module(source).get_function(ENTRY)
    _, number = _counted(count)
    table = device.upload(np.array(places, number)) if places else None
    rank = len(places) // (1 + len(region.graph.inputs) + len(constants))
    bound = (number(count), np.int32(rank), table) if places else (number(count),)
    grid = (min(blocks(count, BLOCK), MOST_BLOCKS),)
    kept = [device.upload(array) for array in constants]
    return _runner(
        region, device, lambda arrays, made: kernel(grid, (BLOCK,), (*arrays, *kept, *made, *bound))
    )


def row_source(region: Region) -> tuple[CudaSource, Any, int]:
    """The program of a region of rows, its plan, and the threads of a row."""
    plan = plan_of(region)
    least, most = GROUPS
    group = min(most, max(least, 1 << max(0, plan.width // 4 - 1).bit_length()))
    dialect, _ = _counted(plan.rows * plan.width)
    return CudaSource(f"rows/{region.title}", row_program(dialect, plan, group), (NAME,)), plan, group


def prepare_rows(region: Region, device: Any) -> Callable[..., Any]:
    """A function of arrays that computes a region of rows."""
    source, plan, group = row_source(region)
    kernel = sources.module(source).get_function(NAME)
    places = [*plan.sizes, *(stride for own in plan.strides for stride in own)]
    _, number = _counted(plan.rows * plan.width)
    table = device.upload(np.array(places, number))
    bound = (number(plan.rows), number(plan.width), np.int32(len(plan.sizes)), table)
    grid, kept = (min(plan.rows, MOST_BLOCKS),), [device.upload(array) for array in plan.constants]
    return _runner(
        region, device, lambda arrays, made: kernel(grid, (group,), (*arrays, *kept, *made, *bound))
    )


def _runner(
    region: Region, device: Any, launch: Callable[[Sequence[Any], Sequence[Any]], None]
) -> Callable[..., Any]:
    """Gives ``launch`` dense arrays; a region with one output may be given an array for it."""

    def run(*arrays: Any, out: Any = None) -> Any:
        with device.handle:
            made = (
                [device.empty(spec) for spec in region.outputs] if out is None or not is_dense(out) else [out]
            )
            launch([dense(array) for array in arrays if array is not None], made)
            if out is not None and out is not made[0]:
                out[...] = made[0]
                return out
            return tuple(made) if region.is_tuple else made[0]

    return run

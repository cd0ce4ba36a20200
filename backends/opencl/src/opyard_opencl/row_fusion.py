"""Elementwise calls and the reductions of rows between them as one kernel: softmax, norms, losses, in parts or whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.errors import SpecError
from opyard.operation import Call
from opyard.region import Region
from opyard_codegen import OPENCL
from opyard_codegen.regions import array_refusal
from opyard_codegen.row_plan import REDUCTIONS, RowPlan, plan_of, reduction_refusal
from opyard_codegen.rows import NAME, row_program

from . import fusion
from .device import OpenCLDevice
from .expressions import is_wide
from .formats import enabled, refusal
from .launch import Launch, exact, partition, table

GROUP = 64
"""Items that compute a row together where there are many: as many as a Launch has in a group."""

EFFICIENCY = 0.35
"""Of the roofline: elements are computed anew in each pass. It is less than that of kernels that are written for rows, which are faster."""

_GRAIN = 4096  # elements for each work item
_LONGS = np.int64


def claims(call: Call, device: Device) -> str | None:
    """Why a call cannot be a part of a kernel of rows, or None."""
    if call.op.name in REDUCTIONS:
        return refusal(call, device) or reduction_refusal(call)
    return fusion.claims(call, device)


def accepts(region: Region, device: Device) -> str | None:
    """Why a region cannot be one kernel, or None."""
    try:
        plan_of(region)
    except SpecError as error:
        return str(error)
    return array_refusal(region)


def cost(region: Region, device: Device) -> float:
    """Estimated seconds; a row is computed by one unit of the device, whatever its length."""
    idle = max(1.0, getattr(device, "workers", 1) / plan_of(region).rows)
    return idle * fusion.seconds(region, device, EFFICIENCY)


@exact
def prepare(region: Region, device: OpenCLDevice) -> Callable[..., Any]:
    """The function that computes a region; it writes into ``out`` where it has one output."""
    plan = plan_of(region)
    grouped = not device.shares_memory
    source = enabled(_is_wide(plan)) + row_program(OPENCL, plan, GROUP if grouped else 0)
    places = table(device, [*plan.sizes, *(stride for own in plan.strides for stride in own)])
    head, rank = (_LONGS(plan.rows), _LONGS(plan.width)), np.int32(len(plan.sizes))
    if grouped:
        launch = Launch(device, source, NAME, plan.rows * GROUP, (*head, rank, places))
    else:
        items, step = partition(device, plan.rows, max(1, _GRAIN // plan.width))
        launch = Launch(device, source, NAME, items, (*head, _LONGS(step), rank, places))
    return fusion.runner(region, device, launch, tuple(device.upload(array) for array in plan.constants))


def _is_wide(plan: RowPlan) -> bool:
    """Whether anything is computed in float64."""
    dtypes = {dtype for _, dtype, _ in (*plan.arrays, *plan.elements, *plan.per_row)}
    terms = (term for found in plan.passes for _, term in (*found.before, *found.steps))
    return "float64" in dtypes or any(map(is_wide, terms))

"""A matrix product with what follows it element by element as one kernel, on devices with groups of items: GPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.errors import SpecError
from opyard.operation import Call
from opyard.region import Region
from opyard_codegen import OPENCL
from opyard_codegen.products import GROUP, NAME, product_plan, product_program, product_refusal
from opyard_codegen.regions import array_refusal

from . import fusion
from .device import OpenCLDevice
from .expressions import is_wide
from .formats import enabled, refusal
from .launch import Launch, exact, table


def claims(call: Call, device: Device) -> str | None:
    """Why a call cannot be a part of a product and what follows it, or None."""
    if device.kind == "cpu":
        return "groups of items share tiles on GPUs; processors have products of their own"
    if call.op.name == "matmul":
        return refusal(call, device) or product_refusal(call)
    return fusion.claims(call, device)


def accepts(region: Region, device: Device) -> str | None:
    """Why a region is no product and what follows it, or None."""
    try:
        product_plan(region)
    except SpecError as error:
        return str(error)
    return array_refusal(region)


def cost(region: Region, device: Device) -> float:
    """Estimated seconds."""
    return fusion.seconds(region, device, 0.2)


@exact
def prepare(region: Region, device: OpenCLDevice) -> Callable[..., Any]:
    """The function that computes a region; it writes into ``out`` where it has one output."""
    plan = product_plan(region)
    dtypes = (plan.product[1], *(dtype for _, dtype in (*plan.body.inputs, *plan.body.outputs)))
    wide = "float64" in dtypes or any(is_wide(term) for _, term in plan.body.steps)
    source = enabled(wide) + product_program(OPENCL, plan)
    places = table(device, [*plan.axes, *(stride for own in plan.strides for stride in own)])
    bound = (*map(np.int64, plan.sizes), np.int32(len(plan.axes)), places)
    launch = Launch(device, source, NAME, plan.tiles * GROUP, bound)
    return fusion.runner(region, device, launch, tuple(device.upload(array) for array in plan.constants))

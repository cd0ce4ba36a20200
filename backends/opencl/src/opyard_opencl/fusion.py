"""Chains and trees of elementwise calls as one kernel, generated from their scalar expressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opyard.driver import Device
from opyard.operation import Call
from opyard.region import Region
from opyard_codegen.expressions import has_expression
from opyard_codegen.regions import body_of_region, shape_refusal, specs_of

from .array import Array
from .device import OpenCLDevice
from .elementwise import launch_of
from .expressions import accepts as expression_refusal
from .launch import Single, exact, given

PROGRAM_SECONDS = 2e-5
"""What a program of its own costs each run, where a compiler takes a tenth of a second for it and it runs some thousand times."""

EFFICIENCY = 0.7
"""Of the roofline of what enters and leaves."""


def claims(call: Call, device: Device) -> str | None:
    """Why a call cannot be a part of an elementwise kernel, or None."""
    if not has_expression(call.op):
        return f"{call.op.name} is not elementwise"
    if not call.output.size:
        return "there is nothing to compute"
    return expression_refusal(call, device)


def accepts(region: Region, device: Device) -> str | None:
    """Why a region cannot be one kernel, or None."""
    return shape_refusal(region)


def cost(region: Region, device: Device) -> float:
    """Estimated seconds."""
    return seconds(region, device, EFFICIENCY)


def seconds(region: Region, device: Device, efficiency: float) -> float:
    """The roofline of a region, and what its program costs."""
    work, can = region.cost, device.capabilities
    compiling = PROGRAM_SECONDS if getattr(device, "quirks", None) and device.quirks.compiles_late else 0.0  # type: ignore[attr-defined]
    return (
        max(work.flops / can.flops, work.bytes / can.bandwidth) / efficiency + can.launch_seconds + compiling
    )


@exact
def prepare(region: Region, device: OpenCLDevice) -> Callable[..., Any]:
    """The function that computes a region; it writes into ``out`` where it has one output."""
    body, constants = body_of_region(region)
    launch = launch_of(body, specs_of(region, constants), region.outputs[0], device)
    return runner(region, device, launch, tuple(device.upload(array) for array in constants))


def runner(
    region: Region, device: OpenCLDevice, launch: Any, constants: tuple[Array, ...]
) -> Callable[..., Any]:
    """Makes the outputs, and starts the kernel on inputs, constants and outputs."""
    outputs = region.outputs
    if not constants and not region.is_tuple:
        return Single(device, outputs[0], launch)

    def run(*arrays: Array, out: Array | None = None) -> Any:
        made = tuple(device.empty(spec) for spec in outputs) if out is None else (out,)
        launch(*given(arrays), *constants, *made)
        return made if region.is_tuple else made[0]

    return run

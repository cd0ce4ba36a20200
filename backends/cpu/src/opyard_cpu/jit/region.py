"""The region compiler ``jit``: connected elementwise ops and reductions of rows as one function in machine code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from opyard.driver import Device
from opyard.operation import Call
from opyard.region import Region
from opyard.settings import num_threads

from ..plugin import LARGE
from . import scalars
from .code import ELEMENTS
from .compiled import SMALL_SECONDS, compiled, in_steps
from .machine import host, missing
from .scalars import Untranslatable
from .space import REDUCTIONS, RESHAPES
from .steps import Step, steps_of

CALL_SECONDS = 3e-7
"""What one call takes beside the arithmetic."""

SEVERAL_SECONDS = 2e-6
"""For a call with several outputs, whose arrays are made in Python: two calls of NumPy on a few numbers take less."""

EFFICIENCY = 0.95
"""Of the bandwidth."""

SINGLE_SECONDS = 1e-5
"""What one op of one instruction has to take; making the code takes milliseconds."""

THREAD_BANDWIDTH = 1.5e10
"""Bytes per second of one thread, by which the backend reckons."""

ROW_SECONDS = 1e-8
"""What beginning a row takes."""

NUMERIC = [name for name in REDUCTIONS if name not in ("any", "all")]
"""Reductions whose results are numbers."""

INSTRUCTIONS_PER_SECOND = 4e9
"""Of vectors, on one thread: processors begin two in a cycle, and memory and other instructions take some of that."""


def claims(call: Call, device: Device) -> str | None:
    """Why a call cannot be a part of a region here, or None."""
    if reason := missing():
        return reason
    name = call.op.name
    specs = [spec for spec in (*call.inputs, *call.outputs) if spec is not None]
    if any(int(spec.size) == 0 for spec in specs):
        return "an array without elements needs no compiler"
    if call.op.scalar is not None or name in scalars.PLAIN:
        return scalars.refusal(call)
    if name not in REDUCTIONS and name not in RESHAPES:
        return f"{name} is neither elementwise nor a reduction that is compiled here"
    unknown = next((s.dtype.name for s in specs if s.dtype.name not in ELEMENTS), None)
    if unknown is not None:
        return f"{unknown} is not among the dtypes that are compiled here"
    if name in NUMERIC and specs[0].dtype.name in (*scalars.NARROW, "bool"):
        return f"sums of {specs[0].dtype.name} are not compiled here"
    return None


def accepts(region: Region, device: Device) -> str | None:
    """Why a region is not compiled, or None."""
    if reason := refusal(region, device):
        return reason
    call, *others = (node.call for node in region.graph.nodes)
    if others:
        return None
    least = LARGE.get(call.op.name)
    if least is not None and int(call.output.size) >= least:
        return f"the kernel cpu/jit of {call.op.name} does the same"
    if scalars.weight(call) <= 2 and cost(region, device) < SINGLE_SECONDS:
        return "a single operation on few numbers is not worth compiling"
    return None


def refusal(region: Region, device: Device) -> str | None:
    """Why a region cannot be compiled, or None."""
    outputs = list(region.graph.outputs.values())
    if len(dict.fromkeys(outputs)) < len(outputs):
        return "an output is given twice"
    if all(node.op.name in RESHAPES for node in region.graph.nodes):
        return "nothing is to be computed"
    try:
        steps_of(region)
    except Untranslatable as error:
        return str(error)
    return None


def cost(region: Region, device: Device) -> float:
    """Estimated seconds."""
    several = SEVERAL_SECONDS if region.is_tuple else 0.0
    return sum(_step_seconds(step, device) for step in steps_of(region)) + several


def _step_seconds(step: Step, device: Device) -> float:
    """What memory takes, or what the arithmetic takes, whichever is longer."""
    abilities, space = device.capabilities, step.space
    elements, vector = math.prod(space.sizes), host().vector_bytes / 4
    nodes = step.region.graph.nodes
    weight = sum(scalars.weight(n.call) for n in nodes if space.is_wide(n.outputs[0]))
    arithmetic = elements * weight / vector / INSTRUCTIONS_PER_SECOND
    if arithmetic > SMALL_SECONDS:
        arithmetic /= num_threads()
    memory = step.region.cost.bytes / abilities.bandwidth / EFFICIENCY
    rows = math.prod(space.sizes[:-1]) * ROW_SECONDS
    return max(arithmetic, memory) + rows + CALL_SECONDS


def prepare(region: Region, device: Device) -> Callable[..., Any]:
    """The function of a region; it writes into ``out`` where there is one output."""
    steps = [compiled(step, _step_seconds(step, device)) for step in steps_of(region)]
    whole = steps[0].step.region is region
    return steps[0].function() if whole else in_steps(region, steps)

"""Which calls of elementwise ops can be generated in OpenCL C."""

from __future__ import annotations

from opyard.driver import Device
from opyard.operation import Call
from opyard_codegen import OPENCL, lowered
from opyard_codegen import accepts as expression_refusal
from opyard_codegen.terms import Term

from .formats import refusal


def accepts(call: Call, device: Device) -> str | None:
    """Why the expression of the call's op cannot be generated for its dtypes, or None."""
    reason = refusal(call, device) or expression_refusal(call, OPENCL)
    if reason is None and is_wide(lowered(call)) and "fp64" not in device.capabilities.features:
        return f"{device.name} lacks fp64, which {call.op.name} computes in"
    return reason


def is_wide(term: Term) -> bool:
    """Whether a part of an expression is computed in float64."""
    return term.dtype.name == "float64" or any(map(is_wide, term.arguments))

"""What a call of an elementwise op computes for one element, in OpenCL C."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from opyard.driver import Device
from opyard.operation import Call, Op
from opyard.scalar import Scalar
from opyard.spec import TensorSpec, promote

from .codegen import Unprintable, expression
from .formats import FORMATS, refusal


def accepts(call: Call, device: Device) -> str | None:
    """Why the expression of the call's op cannot be generated for its dtypes, or None."""
    reason = refusal(call, device)
    if reason is not None:
        return reason
    try:
        body_of(call, compute_of(call))
    except Unprintable as error:
        return str(error)
    return None


def inputs_of(call: Call) -> list[tuple[str, TensorSpec]]:
    """Names and specs of the inputs that are given."""
    return [
        (name, spec)
        for name, spec in zip(call.op.signature.inputs, call.inputs, strict=True)
        if spec is not None
    ]


def compute_of(call: Call) -> str:
    """The type to compute in: that of the inputs' common dtype."""
    common = promote(*(spec.dtype for spec in call.inputs if spec is not None))
    return FORMATS[common.name].compute


def body_of(call: Call, compute: str) -> str:
    truth = frozenset(name for name, spec in inputs_of(call) if spec.dtype.kind == "b")
    return expression(_scalar(call), compute, call.attrs, truth)


def has_expression(op: Op) -> bool:
    """Whether calls of an op are computed by an expression."""
    return op.scalar is not None or op.name in _EXPRESSIONS


def _scalar(call: Call) -> Scalar:
    """The op's own expression, or the one that stands here for the inputs and attributes given."""
    if call.op.scalar is not None:
        return call.op.scalar
    return _parsed(_EXPRESSIONS[call.op.name](call), call.op.signature.inputs)


@lru_cache(maxsize=64)
def _parsed(text: str, names: tuple[str, ...]) -> Scalar:
    return Scalar(text, names)


def _clip(call: Call) -> str:
    """NaN in any input gives NaN. The functions min and max cannot be called: inputs have their names."""
    _, low, high = call.inputs
    text = "x" if low is None else "(x if x >= min or x != x else min)"
    return text if high is None else f"({text} if {text} <= max or {text} != {text} else max)"


def _gelu(call: Call) -> str:
    if call.attrs["approximate"] == "tanh":
        return "0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))"
    return "0.5 * x * (1 + erf(x * 0.7071067811865476))"


def _nan_to_num(call: Call) -> str:
    """NaN and infinities replaced; left out they become the greatest and the least number of the dtype."""
    import ml_dtypes  # its finfo knows bfloat16

    limits, given = ml_dtypes.finfo(call.output.dtype), call.attrs
    above = float(limits.max) if given["posinf"] is None else float(given["posinf"])
    below = float(limits.min) if given["neginf"] is None else float(given["neginf"])
    bounded = f"({above!r} if isinf(x) and x > 0 else ({below!r} if isinf(x) else x))"
    return f"({float(given['nan'])!r} if isnan(x) else {bounded})"


def _nextafter(call: Call) -> str:
    if call.output.dtype.itemsize < 4:
        raise Unprintable(
            f"steps from one float32 or float64 to the next, not between those of {call.output.dtype.name}"
        )
    return "nextafter(x1, x2)"


_EXPRESSIONS: dict[str, Callable[[Call], str]] = {
    "cast": lambda call: "x",
    "clip": _clip,
    "gelu": _gelu,
    "nan_to_num": _nan_to_num,
    "nextafter": _nextafter,
}
"""Ops that are elementwise without one expression for all their calls."""

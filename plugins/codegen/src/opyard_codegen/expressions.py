"""What a call of an elementwise op computes for one element, as a typed expression."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from opyard.errors import SpecError
from opyard.operation import Call, Op
from opyard.scalar import Scalar
from opyard.spec import TensorSpec

from .dialect import Dialect
from .printing import Printer
from .terms import Term, constant, lower, variable


def has_expression(op: Op) -> bool:
    """Whether calls of an op may be computed by an expression."""
    return op.scalar is not None or op.name in _EXPRESSIONS


def accepts(call: Call, dialect: Dialect) -> str | None:
    """Why the expression of the call's op cannot be printed for its dtypes, or None."""
    foreign = [spec.dtype.name for spec in (*call.inputs, *call.outputs) if spec is not None]
    foreign = [name for name in foreign if name not in dialect.formats]
    if foreign:
        return f"takes {', '.join(dialect.formats)}, not {foreign[0]}"
    try:
        Printer(dialect).text(lowered(call))
    except SpecError as error:
        return str(error)
    return None


def inputs_of(call: Call) -> list[tuple[str, TensorSpec]]:
    """Names and specs of the inputs that are given."""
    pairs = zip(call.op.signature.inputs, call.inputs, strict=True)
    return [(name, spec) for name, spec in pairs if spec is not None]


def lowered(call: Call, inputs: Mapping[str, Term] | None = None) -> Term:
    """The value of one element of the call's output; its attributes are constants.

    ``inputs`` has terms for the inputs that are given; without it they are variables of their names.
    Raises SpecError for what has no meaning for the dtypes.
    """
    names = {name: variable(name, spec.dtype) for name, spec in inputs_of(call)}
    names |= inputs or {}
    return lower_with(call, {**names, **{name: _number(name, call.attrs[name]) for name in used(call)}})


def used(call: Call) -> tuple[str, ...]:
    """The attributes that the call's expression reads."""
    scalar, found = scalar_of(call), call.attrs
    return tuple(name for name in found if name in scalar.names and name in _names(scalar))


def lower_with(call: Call, names: Mapping[str, Term]) -> Term:
    """The same with terms for the attributes, too."""
    scalar, output = scalar_of(call), call.output.dtype
    if "nextafter" in _names(scalar):
        small = [spec.dtype.name for _, spec in inputs_of(call) if spec.dtype.itemsize < 4]
        if small:
            raise SpecError(f"steps from one float32 or float64 to the next, not between those of {small[0]}")
    term = lower(scalar.tree, names, output)
    if call.op.name == "cast" and output.kind in "fV" and output.itemsize < 4:
        return Term("round_to", term.kind, (term,), output)
    return term


def scalar_of(call: Call) -> Scalar:
    """The op's own expression, or the one that stands here for the inputs and attributes given. Raises SpecError without one."""
    if call.op.scalar is not None:
        return call.op.scalar
    if call.op.name not in _EXPRESSIONS:
        raise SpecError(f"{call.op.name} has no scalar expression to generate a kernel from")
    return _parsed(_EXPRESSIONS[call.op.name](call), call.op.signature.inputs)


@lru_cache(maxsize=64)
def _parsed(text: str, names: tuple[str, ...]) -> Scalar:
    return Scalar(text, names)


@lru_cache(maxsize=1024)
def _names(scalar: Scalar) -> frozenset[str]:
    """All names in an expression, those of functions included."""
    return frozenset(node.id for node in ast.walk(scalar.tree) if isinstance(node, ast.Name))


def _number(name: str, value: Any) -> Term:
    if not isinstance(value, (bool, int, float)):
        raise SpecError(f"needs numbers as attributes; {name} is {value!r}")
    return constant(value)


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


_EXPRESSIONS: dict[str, Callable[[Call], str]] = {
    "cast": lambda call: "x",
    "clip": _clip,
    "gelu": _gelu,
    "nan_to_num": _nan_to_num,
    "nextafter": lambda call: "nextafter(x1, x2)",
}
"""Ops that are elementwise without one expression for all their calls."""

"""Typed scalar expressions: the syntax tree of a ``scalar`` with the dtype that NumPy gives each part of it.

A tree names what is computed, in NumPy's words, and holds no text of any language; a dialect prints it (printing.py).
float16 and bfloat16 are computed in float32, and so are float32 here.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from opyard.errors import SpecError
from opyard.scalar import FUNCTIONS

Weak = type[int] | type[float]
Kind = np.dtype[Any] | Weak
"""A NumPy dtype; or ``int`` or ``float`` for a Python number, which takes the dtype of what it meets."""

BOOL = np.dtype(np.bool_)
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_STRONG: dict[type, np.dtype[Any]] = {int: np.dtype(np.int64), float: _FLOAT64}


@dataclass(frozen=True, slots=True)
class Term:
    """A part of an expression.

    operation  "variable", "constant", "convert", "choose" (test, then, else), "erf", "round_to", or the name of a NumPy ufunc
    kind       the dtype of its value
    value      the name of a variable, or the number of a constant
    """

    operation: str
    kind: Kind
    arguments: tuple[Term, ...] = ()
    value: Any = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that the value is computed in: for a Python number int64 or float64."""
        return self.kind if isinstance(self.kind, np.dtype) else _STRONG[self.kind]


def computing(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that values of ``dtype`` are computed in: float32 for floating numbers that are smaller."""
    return _FLOAT32 if dtype.kind in "fV" and dtype.itemsize < 4 else dtype


def variable(name: str, kind: Kind) -> Term:
    """A value that has a name, such as an element of an input."""
    return Term("variable", computing(kind) if isinstance(kind, np.dtype) else kind, value=name)


def constant(value: bool | int | float) -> Term:
    """A Python number."""
    return Term("constant", BOOL if isinstance(value, bool) else type(value), value=value)


def lower(tree: ast.expr, names: Mapping[str, Term], dtype: np.dtype[Any]) -> Term:
    """The expression ``tree`` over ``names``, converted to ``dtype``. Raises SpecError for what has no meaning for its dtypes."""
    return converted(_lowered(tree, names), computing(dtype))


def _lowered(node: ast.expr, names: Mapping[str, Term]) -> Term:
    match node:
        case ast.Constant(value=bool() | int() | float() as number):
            return constant(number)
        case ast.Name(id=name):
            return names[name]
        case ast.BinOp(left=left, op=operation, right=right):
            return apply(_OPERATORS[type(operation)], _lowered(left, names), _lowered(right, names))
        case ast.UnaryOp(op=operation, operand=operand):
            return apply(_OPERATORS[type(operation)], _lowered(operand, names))
        case ast.Compare(left=left, ops=[operation], comparators=[right]):
            return apply(_OPERATORS[type(operation)], _lowered(left, names), _lowered(right, names))
        case ast.BoolOp(op=operation, values=[first, *others]):
            result = _lowered(first, names)
            for other in others:
                result = apply(_OPERATORS[type(operation)], result, _lowered(other, names))
            return result
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return choose(_lowered(test, names), _lowered(body, names), _lowered(orelse, names))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return _function(name, [_lowered(argument, names) for argument in arguments])
    raise SpecError(f"{ast.unparse(node)!r} is no part of a scalar expression.")


_OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "add",
    ast.Sub: "subtract",
    ast.Mult: "multiply",
    ast.Div: "true_divide",
    ast.FloorDiv: "floor_divide",
    ast.Mod: "remainder",
    ast.Pow: "power",
    ast.LShift: "left_shift",
    ast.RShift: "right_shift",
    ast.BitAnd: "bitwise_and",
    ast.BitOr: "bitwise_or",
    ast.BitXor: "bitwise_xor",
    ast.USub: "negative",
    ast.UAdd: "positive",
    ast.Invert: "invert",
    ast.Not: "logical_not",
    ast.And: "logical_and",
    ast.Or: "logical_or",
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
}
"""The ufunc of each operator."""

_PYTHON: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "true_divide": operator.truediv,
    "floor_divide": operator.floordiv,
    "remainder": operator.mod,
    "power": operator.pow,
    "negative": operator.neg,
    "left_shift": operator.lshift,
    "right_shift": operator.rshift,
}
"""How numbers are computed with before any array is met."""

_UNCHANGED = ("floor", "ceil", "trunc", "round")
"""Functions that give integers back as they are."""


def _function(name: str, arguments: list[Term]) -> Term:
    first = arguments[0]
    if name in ("real", "conj") or (name in _UNCHANGED and first.dtype.kind in "iub"):
        return first  # there are no complex numbers here
    if name == "imag":
        return converted(constant(0), first.kind)
    if name == "erf":
        kind = _FLOAT64 if first.dtype.kind in "iub" else first.kind
        return Term("erf", kind, (converted(first, kind),))
    return apply("rint" if name == "round" else FUNCTIONS[name].__name__, *arguments)


def apply(ufunc: str, *arguments: Term) -> Term:
    """A ufunc on terms, in the dtypes in which NumPy computes it."""
    if all(a.operation == "constant" and a.kind in (int, float, BOOL) for a in arguments):
        return constant(_folded(ufunc, [argument.value for argument in arguments]))
    if ufunc.startswith("logical_"):
        return Term(ufunc, BOOL, tuple(converted(argument, BOOL) for argument in arguments))
    *inputs, output = _resolved(ufunc, [argument.kind for argument in arguments])
    if ufunc == "true_divide" and inputs[0].kind in "iub":
        inputs = [output] * len(inputs)
    if {found.kind for found in inputs} == {"i", "u"}:
        names = ", ".join(found.name for found in inputs)
        raise SpecError(f"{ufunc} of {names} has no form in C: no type holds the numbers of both.")
    kind: Kind = output
    if all(not isinstance(argument.kind, np.dtype) for argument in arguments) and output.kind in "if":
        kind = int if output.kind == "i" else float
    return Term(ufunc, kind, tuple(converted(a, found) for a, found in zip(arguments, inputs, strict=True)))


def _folded(ufunc: str, values: list[Any]) -> Any:
    try:
        with np.errstate(all="ignore"):
            found = _PYTHON.get(ufunc, getattr(np, ufunc))(*values)
    except (ArithmeticError, ValueError, TypeError) as error:
        raise SpecError(f"{ufunc} of {', '.join(map(repr, values))} cannot be computed: {error}.") from None
    return found if isinstance(found, (bool, int, float)) else found.item()


def _resolved(ufunc: str, kinds: list[Kind]) -> list[np.dtype[Any]]:
    """The dtypes that a ufunc computes these inputs in, and that of its result."""
    weak = all(not isinstance(kind, np.dtype) for kind in kinds)
    given = [_STRONG[kind] if weak and not isinstance(kind, np.dtype) else kind for kind in kinds]
    try:
        found = getattr(np, ufunc).resolve_dtypes((*given, None))
    except TypeError as error:
        raise SpecError(f"{ufunc} is not defined for {', '.join(map(str, given))}: {error}") from None
    return [computing(dtype) for dtype in found]


def choose(test: Term, body: Term, orelse: Term) -> Term:
    """``body`` where ``test`` holds, and ``orelse`` elsewhere."""
    kinds = body.kind, orelse.kind
    if any(isinstance(kind, np.dtype) for kind in kinds):
        kind: Kind = computing(np.result_type(*(k if isinstance(k, np.dtype) else k(0) for k in kinds)))
    else:
        kind = float if float in kinds else int
    return Term("choose", kind, (converted(test, BOOL), converted(body, kind), converted(orelse, kind)))


def logistic_of(term: Term) -> Term | None:
    """The term ``logistic(x)`` for ``1 / (1 + exp(-x))``; None for any other."""
    match term:
        case Term(
            "true_divide",
            kind,
            (first, Term("add", _, (second, Term("exp", _, (Term("negative", _, (x,)),))))),
        ):
            ones = all(one.operation == "constant" and one.value == 1 for one in (first, second))
            return Term("logistic", kind, (x,)) if ones else None
    return None


def converted(term: Term, kind: Kind) -> Term:
    """The value of a term in another dtype."""
    if term.kind == kind:
        return term
    if term.operation == "constant":
        return Term("constant", kind, value=_cast(term.value, kind))
    return Term("convert", kind, (term,))


def _cast(value: bool | int | float, kind: Kind) -> bool | int | float:
    """A number as one of a dtype; raises SpecError for an integer that does not fit."""
    if not isinstance(kind, np.dtype):
        return kind(value)
    if kind.kind == "b":
        return bool(value)
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            return float(kind.type(value))
    limits = np.iinfo(kind)
    if not math.isfinite(value) or not limits.min <= value <= limits.max:
        raise SpecError(f"{value!r} does not fit into {kind.name}")
    return int(value)

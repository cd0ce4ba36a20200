"""Scalar expressions as OpenCL C: prints the syntax tree of an op's ``scalar`` for one computing type.

The functions named here are OpenCL C's own or stand in kernels/functions.cl.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from opyard.scalar import Scalar

from .formats import literal

_FLOATING_ONLY: dict[str, str] = {
    "sqrt": "sqrt({0})",
    "cbrt": "cbrt({0})",
    "exp": "exponential({0})",
    "exp2": "exp2({0})",
    "expm1": "exponential_minus_one({0})",
    "log": "logarithm({0})",
    "log1p": "logarithm_of_one_plus({0})",
    "log2": "log2({0})",
    "log10": "log10({0})",
    "logaddexp": "log_add_exp({0}, {1})",
    "hypot": "hypot({0}, {1})",
    "sin": "sin({0})",
    "cos": "cos({0})",
    "tan": "tan({0})",
    "asin": "asin({0})",
    "acos": "acos({0})",
    "atan": "atan({0})",
    "atan2": "atan2({0}, {1})",
    "sinh": "sinh({0})",
    "cosh": "cosh({0})",
    "tanh": "hyperbolic_tangent({0})",
    "asinh": "asinh({0})",
    "acosh": "acosh({0})",
    "atanh": "atanh({0})",
    "erf": "error_function({0})",
    "copysign": "copysign({0}, {1})",
    "nextafter": "nextafter({0}, {1})",
    "signbit": "(signbit({0}) != 0)",
}

_FLOATING: dict[str, str] = {
    **_FLOATING_ONLY,
    "floor": "floor({0})",
    "ceil": "ceil({0})",
    "trunc": "trunc({0})",
    "round": "rint({0})",
    "fmod": "fmod({0}, {1})",
    "isnan": "({0} != {0})",
    "isinf": "(magnitude_of({0}) == INFINITY)",
    "isfinite": "(magnitude_of({0}) < INFINITY)",
}

_INTEGER: dict[str, str] = {
    **dict.fromkeys(("floor", "ceil", "trunc", "round"), "{0}"),
    "fmod": "truncated_modulo({0}, {1})",
    "isnan": "(({0}), 0)",
    "isinf": "(({0}), 0)",
    "isfinite": "(({0}), 1)",
}

_BOTH: dict[str, str] = {
    "abs": "magnitude_of({0})",
    "sign": "signum({0})",
    "min": "least_of({0}, {1})",
    "max": "greatest_of({0}, {1})",
    "pow": "power({0}, {1})",
    "real": "{0}",
    "imag": "((T)0)",
    "conj": "{0}",
}

_TRUTH_FUNCTIONS = frozenset({"isnan", "isinf", "isfinite", "signbit"})
"""Functions whose result is a truth value."""

_BINARY: dict[type[ast.operator], tuple[str | None, str | None]] = {
    ast.Add: ("{0} + {1}", "{0} + {1}"),
    ast.Sub: ("{0} - {1}", "{0} - {1}"),
    ast.Mult: ("{0} * {1}", "{0} * {1}"),
    ast.Div: ("{0} / {1}", None),
    ast.FloorDiv: ("floor_divide({0}, {1})", "floor_divide({0}, {1})"),
    ast.Mod: ("modulo({0}, {1})", "modulo({0}, {1})"),
    ast.Pow: ("power({0}, {1})", "power({0}, {1})"),
    ast.LShift: (None, "shift_left({0}, {1})"),
    ast.RShift: (None, "shift_right({0}, {1})"),
    ast.BitAnd: (None, "{0} & {1}"),
    ast.BitOr: (None, "{0} | {1}"),
    ast.BitXor: (None, "{0} ^ {1}"),
}
"""Operators for floating and for integer types; None where a type has none."""

_BITWISE = (ast.BitAnd, ast.BitOr, ast.BitXor)

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}


class Unprintable(Exception):
    """An expression has no OpenCL C for a type; the text is a reason for refusing."""


def expression(
    scalar: Scalar, compute: str, attributes: Mapping[str, Any], truth: frozenset[str] = frozenset()
) -> str:
    """The expression in OpenCL C with ``compute`` as its type; inputs are the variables that ``variable`` names.

    Attributes are printed as constants. ``truth`` names the inputs that hold truth values.
    Raises Unprintable, with a sentence, for what the type cannot do.
    """
    return _Printer(compute, attributes, truth).text(scalar.tree)


def variable(name: str) -> str:
    """The variable that holds an element of the input ``name``: an input may be called what OpenCL C reserves."""
    return f"v_{name}"


class _Printer:
    def __init__(self, compute: str, attributes: Mapping[str, Any], truth: frozenset[str]) -> None:
        self.compute = compute
        self.floating = compute in ("float", "double")
        self.attributes = attributes
        self.truth = truth

    def text(self, node: ast.expr) -> str:
        printers: dict[type[ast.expr], Any] = {
            ast.Name: self._name,
            ast.Constant: self._constant,
            ast.BinOp: self._binary,
            ast.UnaryOp: self._unary,
            ast.BoolOp: self._boolean,
            ast.Compare: self._compare,
            ast.IfExp: self._choice,
            ast.Call: self._call,
        }
        return str(printers[type(node)](node))

    def _is_truth(self, node: ast.expr) -> bool:
        """Whether an expression is a truth value, so that ``~`` is its negation."""
        match node:
            case ast.Compare() | ast.UnaryOp(op=ast.Not()):
                return True
            case ast.Name(id=name):
                return name in self.truth
            case ast.BinOp(left=left, op=ast.BitAnd() | ast.BitOr() | ast.BitXor(), right=right):
                return self._is_truth(left) and self._is_truth(right)
            case ast.UnaryOp(op=ast.Invert(), operand=operand):
                return self._is_truth(operand)
            case ast.BoolOp(values=values):
                return all(map(self._is_truth, values))
            case ast.Call(func=ast.Name(id=name)):
                return name in _TRUTH_FUNCTIONS
            case ast.Constant(value=value):
                return isinstance(value, bool)
        return False

    def _name(self, node: ast.Name) -> str:
        if node.id not in self.attributes:
            return variable(node.id)
        return self._number(self.attributes[node.id], node.id)

    def _constant(self, node: ast.Constant) -> str:
        return self._number(node.value, repr(node.value))

    def _number(self, value: Any, what: str) -> str:
        if not isinstance(value, (bool, int, float)):
            raise Unprintable(f"needs numbers as attributes; {what} is {value!r}")
        if isinstance(value, float) and not self.floating:
            raise Unprintable(f"computes in {self.compute}, which cannot hold {value!r}")
        return literal(value, self.compute)

    def _cast(self, text: str) -> str:
        # C computes narrow integers as int; the cast brings back the width, and with it the wrapping, of NumPy
        return f"({text})" if self.floating else f"(({self.compute})({text}))"

    def _binary(self, node: ast.BinOp) -> str:
        truth = self._is_truth(node)
        template = _BINARY[type(node.op)][0 if self.floating and not truth else 1]
        if template is None:
            raise Unprintable(f"{ast.unparse(node)} has no meaning for {self.compute}")
        text = template.format(self.text(node.left), self.text(node.right))
        return f"({text})" if truth else self._cast(text)

    def _unary(self, node: ast.UnaryOp) -> str:
        operand = self.text(node.operand)
        if isinstance(node.op, ast.Not):
            return f"(({operand}) == 0)"
        if isinstance(node.op, ast.Invert):
            if self._is_truth(node.operand):
                return f"(({operand}) == 0)"
            if self.floating:
                raise Unprintable(f"{ast.unparse(node)} has no meaning for {self.compute}")
            return self._cast(f"~{operand}")
        return self._cast(f"-{operand}") if isinstance(node.op, ast.USub) else operand

    def _boolean(self, node: ast.BoolOp) -> str:
        joint = " && " if isinstance(node.op, ast.And) else " || "
        return f"({joint.join(f'(({self.text(value)}) != 0)' for value in node.values)})"

    def _compare(self, node: ast.Compare) -> str:
        return f"({self.text(node.left)} {_COMPARISONS[type(node.ops[0])]} {self.text(node.comparators[0])})"

    def _choice(self, node: ast.IfExp) -> str:
        return f"(({self.text(node.test)}) != 0 ? {self.text(node.body)} : {self.text(node.orelse)})"

    def _call(self, node: ast.Call) -> str:
        assert isinstance(node.func, ast.Name)
        table = _FLOATING if self.floating else _INTEGER
        template = table.get(node.func.id) or _BOTH.get(node.func.id)
        if template is None:
            raise Unprintable(f"{node.func.id} computes in floating numbers, not in {self.compute}")
        return template.format(*(self.text(argument) for argument in node.args))

"""What an elementwise op computes for one element, as instructions: its scalar expression, typed by the dtypes of a call."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from typing import Any

from opyard.operation import Call
from opyard.spec import promote

from . import mathematics
from .code import ELEMENTS, Code, Value, is_float, is_signed


class Untranslatable(Exception):
    """Why an expression has no instructions here, as a sentence without its end."""


NARROW = ("float16", "bfloat16")
"""Floats that are computed in float32, and rounded after each op."""

PLAIN = ("identity", "cast")
"""Ops without an expression that only convert."""

TRANSCENDENTAL = frozenset(
    ("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "tanh", "erf", "pow", "logaddexp")
)
"""Functions that take many instructions."""

_FUNCTIONS: dict[str, Callable[..., Value]] = {
    name: getattr(mathematics, name)
    for name in ("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "tanh", "erf")
}
_ROUNDING = {"floor": "floor", "ceil": "ceil", "trunc": "trunc", "round": "rint", "sqrt": "sqrt"}
_OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "add",
    ast.Sub: "subtract",
    ast.Mult: "multiply",
    ast.Div: "divide",
    ast.BitAnd: "and",
    ast.BitOr: "or",
    ast.BitXor: "xor",
    ast.LShift: "shl",
    ast.RShift: "shr",
}
_RELATIONS: dict[type[ast.AST], str] = {
    ast.Eq: "eq",
    ast.NotEq: "ne",
    ast.Lt: "lt",
    ast.LtE: "le",
    ast.Gt: "gt",
    ast.GtE: "ge",
}


def refusal(call: Call) -> str | None:
    """Why a call of an elementwise op cannot be translated, or None."""
    if call.op.scalar is None and call.op.name not in PLAIN:
        return f"{call.op.name} has no scalar expression"
    for spec in (*call.inputs, *call.outputs):
        if spec is not None and spec.dtype.name not in ELEMENTS:
            return f"{spec.dtype.name} is not among the dtypes that are compiled here"
    code = Code()
    inputs = [Value(f"%x{n}", s.dtype.name) for n, s in enumerate(call.inputs) if s is not None]
    try:
        translate(code, call, inputs)
    except Untranslatable as error:
        return str(error)
    return None


def weight(call: Call) -> int:
    """About how many instructions an element takes."""
    tree = None if call.op.scalar is None else call.op.scalar.tree
    names = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name)] if tree is not None else []
    double = 2 if call.output.dtype.name == "float64" else 1
    return double * (1 + 16 * sum(name in TRANSCENDENTAL for name in names))


def translate(code: Code, call: Call, inputs: list[Value]) -> Value:
    """The output of a call for its inputs. Raises Untranslatable."""
    dtype = call.output.dtype.name
    if call.op.name in PLAIN:
        return code.convert(inputs[0], dtype)
    common = promote(*(spec.dtype for spec in call.inputs if spec is not None)).name
    compute = "float32" if common in NARROW else common
    if compute not in ELEMENTS:
        raise Untranslatable(f"{common} is not among the dtypes that are compiled here")
    assert call.op.scalar is not None
    names: dict[str, Value] = {}
    for name, value in zip(call.op.signature.inputs, inputs, strict=True):
        names[name] = value if value.dtype == "bool" else code.convert(value, compute)
    found = _Translation(code, compute, names, call.attrs).visit(call.op.scalar.tree)
    if common in NARROW and is_float(dtype):
        found = code.convert(found, common)
    return code.convert(found, dtype)


class _Translation:
    def __init__(
        self, code: Code, compute: str, names: Mapping[str, Value], attributes: Mapping[str, Any]
    ) -> None:
        self.code, self.compute, self.names, self.attributes = code, compute, names, attributes

    def visit(self, node: ast.AST) -> Value:
        """The value of an expression: a bool, or a number of the dtype to compute in."""
        found: Value = getattr(self, f"_{type(node).__name__.lower()}")(node)
        return found

    def number(self, node: ast.AST) -> Value:
        """The value of an expression as a number."""
        found = self.visit(node)
        return found if found.dtype == self.compute else self.code.convert(found, self.compute)

    def truth(self, node: ast.AST) -> Value:
        """The value of an expression as a truth value."""
        return self.code.convert(self.visit(node), "bool")

    def _name(self, node: ast.Name) -> Value:
        if node.id in self.names:
            return self.names[node.id]
        return self._literal(self.attributes[node.id])

    def _constant(self, node: ast.Constant) -> Value:
        return self._literal(node.value)

    def _literal(self, number: Any) -> Value:
        if isinstance(number, bool):
            return self.code.constant(number, "bool")
        if isinstance(number, float) and not is_float(self.compute):
            raise Untranslatable(f"it computes with {number!r} in {self.compute}")
        return self.code.constant(number, self.compute)

    def _unaryop(self, node: ast.UnaryOp) -> Value:
        if isinstance(node.op, ast.Not):
            return self.code.binary("xor", self.truth(node.operand), self.code.constant(True, "bool"))
        value = self.visit(node.operand)
        if isinstance(node.op, ast.Invert):
            ones = True if value.dtype == "bool" else -1
            return self.code.binary("xor", value, self.code.constant(ones, value.dtype))
        value = self.number(node.operand) if value.dtype == "bool" else value
        if isinstance(node.op, ast.UAdd):
            return value
        return (
            self.code.negate(value)
            if value.constant is None
            else self.code.constant(-value.constant, value.dtype)
        )

    def _binop(self, node: ast.BinOp) -> Value:
        code = self.code
        if isinstance(node.op, ast.Pow):
            return self._power(self.number(node.left), self.number(node.right))
        name = _OPERATORS.get(type(node.op))
        if name is None:
            raise Untranslatable(
                f"{type(node.op).__name__} is not among the operators that are compiled here"
            )
        if name in ("and", "or", "xor") and self.compute == "bool":
            return code.binary(name, self.truth(node.left), self.truth(node.right))
        left, right = self.number(node.left), self.number(node.right)
        if is_float(self.compute) and name in ("and", "or", "xor", "shl", "shr"):
            raise Untranslatable(f"{name} works on integers, not {self.compute}")
        if name == "divide" and not is_float(self.compute):
            raise Untranslatable("integers are not divided here")
        if name in ("add", "subtract", "multiply", "divide"):
            found: Value = getattr(code, name)(left, right)
            return found
        if name == "shr":
            name = "ashr" if is_signed(self.compute) else "lshr"
        return code.binary(name, left, right)

    def _power(self, base: Value, exponent: Value) -> Value:
        code = self.code
        if exponent.constant in (1, 2, 3) and (is_float(self.compute) or exponent.constant >= 0):
            found = base
            for _ in range(int(exponent.constant) - 1):
                found = code.multiply(found, base)
            return found
        if self.compute != "float32":
            raise Untranslatable(f"powers of {self.compute} are not compiled here")
        return mathematics.pow(code, base, exponent)

    def _boolop(self, node: ast.BoolOp) -> Value:
        name = "and" if isinstance(node.op, ast.And) else "or"
        found = self.truth(node.values[0])
        for value in node.values[1:]:
            found = self.code.binary(name, found, self.truth(value))
        return found

    def _compare(self, node: ast.Compare) -> Value:
        relation = _RELATIONS[type(node.ops[0])]
        left, right = self.visit(node.left), self.visit(node.comparators[0])
        if left.dtype == right.dtype == "bool" and relation in ("eq", "ne"):
            return self.code.binary(f"icmp {relation}", left, right, "bool")
        return self.code.compare(relation, self.number(node.left), self.number(node.comparators[0]))

    def _ifexp(self, node: ast.IfExp) -> Value:
        condition = self.truth(node.test)
        left, right = self.visit(node.body), self.visit(node.orelse)
        if left.dtype != right.dtype:
            left, right = (self.code.convert(v, self.compute) for v in (left, right))
        return self.code.select(condition, left, right)

    def _call(self, node: ast.Call) -> Value:
        assert isinstance(node.func, ast.Name)
        name, code = node.func.id, self.code
        values = [self.number(argument) for argument in node.args]
        x = values[0]
        if name in ("min", "max"):
            return code.extremum("gt" if name == "max" else "lt", *values)
        if name == "abs":
            return code.absolute(x)
        if name in ("real", "conj"):
            return x
        if name == "imag":
            return code.constant(0, x.dtype)
        if name == "sign":
            return self._sign(x)
        if not is_float(self.compute):
            return self._of_integer(name, x)
        if name in _ROUNDING:
            return code.intrinsic(_ROUNDING[name], x.dtype, x)
        if name == "copysign":
            return code.intrinsic("copysign", x.dtype, *values)
        if name in ("isnan", "isinf", "isfinite", "signbit"):
            return self._kind(name, x)
        if name == "pow":
            return self._power(*values)
        if name == "logaddexp":
            return self._logaddexp(*values)
        if name not in _FUNCTIONS or (name == "erf" and self.compute != "float32"):
            raise Untranslatable(
                f"{name} of {self.compute} is not among the functions that are compiled here"
            )
        return _FUNCTIONS[name](code, x)

    def _of_integer(self, name: str, x: Value) -> Value:
        if name in ("floor", "ceil", "trunc", "round"):
            return x
        if name in ("isnan", "isinf", "isfinite"):
            always = self.code.compare("eq", x, x)
            return always if name == "isfinite" else self.code.binary("xor", always, always)
        raise Untranslatable(f"{name} of {self.compute} is not among the functions that are compiled here")

    def _sign(self, x: Value) -> Value:
        code = self.code
        zero, one = code.constant(0, x.dtype), code.constant(1, x.dtype)
        found = code.select(code.compare("gt", x, zero), one, zero)
        if not is_float(x.dtype):
            minus = code.constant(-1, x.dtype)
            return code.select(code.compare("lt", x, zero), minus, found) if is_signed(x.dtype) else found
        found = code.select(code.compare("lt", x, zero), code.constant(-1.0, x.dtype), found)
        return code.select(code.is_nan(x), x, found)

    def _kind(self, name: str, x: Value) -> Value:
        code = self.code
        if name == "isnan":
            return code.is_nan(x)
        if name == "signbit":
            whole = "int32" if x.dtype == "float32" else "int64"
            return code.compare("lt", code.bitcast(x, whole), code.constant(0, whole))
        infinity = code.constant(math.inf, x.dtype)
        return code.compare("eq" if name == "isinf" else "lt", code.absolute(x), infinity)

    def _logaddexp(self, a: Value, b: Value) -> Value:
        """max + log1p(exp(-abs(a - b))); infinities that are equal have no difference."""
        code = self.code
        distance = code.negate(code.absolute(code.subtract(a, b)))
        equal = code.compare("eq", a, b)
        distance = code.select(equal, code.constant(0.0, a.dtype), distance)
        tail = mathematics.log1p(code, mathematics.exp(code, distance))
        return code.add(code.extremum("gt", a, b), tail)

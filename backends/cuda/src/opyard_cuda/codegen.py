"""Scalar expressions (see opyard.scalar) as CUDA C++: tables, and a printer that types each node as NumPy would.

The text is also C++: types are the language's own, and functions those of <math.h>. float16 is computed in float.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from opyard.errors import SpecError

Weak = type[int] | type[float]
Kind = np.dtype[Any] | Weak
"""A NumPy dtype; or ``int`` or ``float`` for a Python number, which takes the dtype of what it meets."""

C_TYPES = {
    "bool": "bool",
    "int8": "signed char",
    "int16": "short",
    "int32": "int",
    "int64": "long long",
    "uint8": "unsigned char",
    "uint16": "unsigned short",
    "uint32": "unsigned int",
    "uint64": "unsigned long long",
    "float16": "float",
    "float32": "float",
    "float64": "double",
}
"""The C++ type that each dtype is computed in."""

_BOOL = np.dtype(np.bool_)
_STRONG: dict[type, np.dtype[Any]] = {int: np.dtype(np.int64), float: np.dtype(np.float64)}

FUNCTION_TEXTS = {
    "absolute": "template <typename T> __device__ inline T opyard_absolute(T a) { return a < T(0) ? T(-a) : a; }",
    "sign": "template <typename T> __device__ inline T opyard_sign(T a) { return a != a ? a : T((a > T(0)) - (a < T(0))); }",
    # a != a holds for NaN alone, which wins
    "minimum": "template <typename T> __device__ inline T opyard_minimum(T a, T b) { return (a < b || a != a) ? a : b; }",
    "maximum": "template <typename T> __device__ inline T opyard_maximum(T a, T b) { return (a > b || a != a) ? a : b; }",
    "logaddexp": """template <typename T> __device__ inline T opyard_logaddexp(T a, T b) {
  if (a == b) return a + log(T(2));  // also for equal infinities, whose difference is NaN
  return a > b ? a + log1p(exp(b - a)) : b + log1p(exp(a - b));
}""",
    # the quotient is a whole number but for rounding, because the remainder was taken away first
    "floor_divide_float": """template <typename T> __device__ inline T opyard_floor_divide_float(T a, T b) {
  if (b == T(0)) return a / b;
  T rest = fmod(a, b);
  T quotient = rint((a - rest) / b);
  if (rest != T(0) && (rest < T(0)) != (b < T(0))) quotient -= T(1);
  return quotient == T(0) ? T(copysign(T(0), a / b)) : quotient;
}""",
    "floor_divide_integer": """template <typename T> __device__ inline T opyard_floor_divide_integer(T a, T b) {
  if (b == T(0)) return T(0);
  if (T(-1) < T(0) && b == T(-1)) return T(T(0) - a);
  T quotient = T(a / b), rest = T(a % b);
  return (rest != T(0) && (rest < T(0)) != (b < T(0))) ? T(quotient - T(1)) : quotient;
}""",
    "remainder_float": """template <typename T> __device__ inline T opyard_remainder_float(T a, T b) {
  T rest = fmod(a, b);
  if (rest == T(0)) return copysign(T(0), b);
  return (rest < T(0)) != (b < T(0)) ? rest + b : rest;
}""",
    "remainder_integer": """template <typename T> __device__ inline T opyard_remainder_integer(T a, T b) {
  if (b == T(0) || (T(-1) < T(0) && b == T(-1))) return T(0);
  T rest = T(a % b);
  return (rest != T(0) && (rest < T(0)) != (b < T(0))) ? T(rest + b) : rest;
}""",
    "fmod_integer": """template <typename T> __device__ inline T opyard_fmod_integer(T a, T b) {
  return (b == T(0) || (T(-1) < T(0) && b == T(-1))) ? T(0) : T(a % b);
}""",
    "power_integer": """template <typename T> __device__ inline T opyard_power_integer(T base, T exponent) {
  if (exponent < T(0)) return base == T(1) ? T(1) : base == T(-1) ? (exponent % T(2) ? T(-1) : T(1)) : T(0);
  T result = T(1);
  for (; exponent > T(0); exponent = T(exponent / T(2)), base = T(base * base))
    if (exponent % T(2)) result = T(result * base);
  return result;
}""",
    "shift_left": """template <typename T> __device__ inline T opyard_shift_left(T a, T b) {
  return (b < T(0) || b >= T(8 * sizeof(T))) ? T(0) : T((unsigned long long)a << b);
}""",
    "shift_right": """template <typename T> __device__ inline T opyard_shift_right(T a, T b) {
  return (b < T(0) || b >= T(8 * sizeof(T))) ? T(a < T(0) ? -1 : 0) : T(a >> b);
}""",
}
"""C++ functions for what the language lacks, by name."""

Templates = Mapping[str, str]

_FLOATING = (
    "sqrt",
    "cbrt",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log1p",
    "log2",
    "log10",
    "sin",
    "cos",
    "tan",
    "sinh",
    "cosh",
    "tanh",
)
_ARCS = {f"a{name}": f"arc{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")}

FUNCTIONS: Mapping[str, tuple[str, Templates]] = {
    **{name: (name, {"f": f"{name}({{0}})"}) for name in _FLOATING},
    **{name: (ufunc, {"f": f"{name}({{0}})"}) for name, ufunc in _ARCS.items()},
    **{name: (name, {"f": f"{name}({{0}})"}) for name in ("floor", "ceil", "trunc")},
    **{name: (name, {"f": f"{name}({{0}}, {{1}})"}) for name in ("hypot", "copysign")},
    "atan2": ("arctan2", {"f": "atan2({0}, {1})"}),
    "round": ("rint", {"f": "rint({0})"}),
    "abs": ("absolute", {"f": "fabs({0})", "i": "@absolute({0})", "ub": "{0}"}),
    "sign": ("sign", {"fiu": "@sign({0})"}),
    "signbit": ("signbit", {"f": "bool(signbit({0}))"}),
    "isnan": ("isnan", {"f": "bool(isnan({0}))", "iub": "false"}),
    "isinf": ("isinf", {"f": "bool(isinf({0}))", "iub": "false"}),
    "isfinite": ("isfinite", {"f": "bool(isfinite({0}))", "iub": "true"}),
    "logaddexp": ("logaddexp", {"f": "@logaddexp({0}, {1})"}),
    "fmod": ("fmod", {"f": "fmod({0}, {1})", "iu": "@fmod_integer({0}, {1})"}),
    "conj": ("conjugate", {"fiu": "{0}"}),
    "min": ("minimum", {"fiub": "@minimum({0}, {1})"}),
    "max": ("maximum", {"fiub": "@maximum({0}, {1})"}),
    "pow": ("power", {"f": "pow({0}, {1})", "iu": "@power_integer({0}, {1})"}),
}
"""Functions: the NumPy ufunc that types them, and a template for each kind of its inputs. ``@name`` is one of FUNCTION_TEXTS."""

OPERATORS: Mapping[type[ast.AST], tuple[str, Templates]] = {
    ast.Add: ("add", {"fiub": "({0} + {1})"}),
    ast.Sub: ("subtract", {"fiu": "({0} - {1})"}),
    ast.Mult: ("multiply", {"fiub": "({0} * {1})"}),
    ast.Div: ("true_divide", {"f": "({0} / {1})"}),
    ast.FloorDiv: (
        "floor_divide",
        {"f": "@floor_divide_float({0}, {1})", "iu": "@floor_divide_integer({0}, {1})"},
    ),
    ast.Mod: ("remainder", {"f": "@remainder_float({0}, {1})", "iu": "@remainder_integer({0}, {1})"}),
    ast.Pow: FUNCTIONS["pow"],
    ast.LShift: ("left_shift", {"iu": "@shift_left({0}, {1})"}),
    ast.RShift: ("right_shift", {"iu": "@shift_right({0}, {1})"}),
    ast.BitAnd: ("bitwise_and", {"iub": "({0} & {1})"}),
    ast.BitOr: ("bitwise_or", {"iub": "({0} | {1})"}),
    ast.BitXor: ("bitwise_xor", {"iub": "({0} ^ {1})"}),
    ast.USub: ("negative", {"fiu": "(-{0})"}),
    ast.UAdd: ("positive", {"fiu": "{0}"}),
    ast.Invert: ("invert", {"iu": "(~{0})", "b": "(!{0})"}),
    ast.Not: ("logical_not", {"fiub": "(!{0})"}),
    ast.And: ("logical_and", {"fiub": "(bool({0}) && bool({1}))"}),
    ast.Or: ("logical_or", {"fiub": "(bool({0}) || bool({1}))"}),
    ast.Eq: ("equal", {"fiub": "({0} == {1})"}),
    ast.NotEq: ("not_equal", {"fiub": "({0} != {1})"}),
    ast.Lt: ("less", {"fiub": "({0} < {1})"}),
    ast.LtE: ("less_equal", {"fiub": "({0} <= {1})"}),
    ast.Gt: ("greater", {"fiub": "({0} > {1})"}),
    ast.GtE: ("greater_equal", {"fiub": "({0} >= {1})"}),
}
"""Operators, as FUNCTIONS."""


@dataclass(frozen=True, slots=True)
class Term:
    """C++ text of an expression, and its type."""

    code: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Code:
    """A whole expression as C++: its text in the type of ``dtype``, and the functions that it calls."""

    text: str
    preamble: str


def generate(tree: ast.expr, names: Mapping[str, Term], dtype: np.dtype[Any]) -> Code:
    """The expression ``tree`` over ``names``, converted to ``dtype``. Raises SpecError for what CUDA C++ cannot compute."""
    printer = _Printer(names)
    text = _converted(printer.term(tree), dtype)
    return Code(text, "\n".join(FUNCTION_TEXTS[name] for name in FUNCTION_TEXTS if name in printer.called))


class _Printer:
    def __init__(self, names: Mapping[str, Term]) -> None:
        self.names = names
        self.called: set[str] = set()

    def term(self, node: ast.expr) -> Term:
        match node:
            case ast.Constant(value=bool() | int() | float() as number):
                return _constant(number)
            case ast.Name(id=name):
                return self.names[name]
            case ast.BinOp(left=left, op=operator, right=right):
                return self._operation(OPERATORS[type(operator)], left, right)
            case ast.UnaryOp(op=operator, operand=operand):
                return self._operation(OPERATORS[type(operator)], operand)
            case ast.Compare(left=left, ops=[operator], comparators=[right]):
                return self._operation(OPERATORS[type(operator)], left, right)
            case ast.BoolOp(op=operator, values=[first, *others]):
                result = self.term(first)
                for value in others:
                    result = self._apply(OPERATORS[type(operator)], result, self.term(value))
                return result
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self._choice(self.term(test), self.term(body), self.term(orelse))
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return self._call(name, [self.term(argument) for argument in arguments])
        raise SpecError(f"{ast.unparse(node)!r} has no form in CUDA C++.")

    def _operation(self, operation: tuple[str, Templates], *operands: ast.expr) -> Term:
        return self._apply(operation, *(self.term(operand) for operand in operands))

    def _call(self, name: str, arguments: list[Term]) -> Term:
        if name in ("real", "imag"):  # of real numbers: there are no complex ones here
            return (
                arguments[0]
                if name == "real"
                else Term(_converted(Term("0", int), arguments[0].kind), arguments[0].kind)
            )
        if name in ("floor", "ceil", "trunc", "round") and _is_integer(arguments[0].kind):
            return arguments[0]
        if name == "erf":
            kind = np.dtype(np.float64) if _is_integer(arguments[0].kind) else arguments[0].kind
            return Term(f"erf({_converted(arguments[0], kind)})", kind)
        if name not in FUNCTIONS:
            raise SpecError(f"{name}(...) has no form in CUDA C++ for every dtype.")
        return self._apply(FUNCTIONS[name], *arguments)

    def _apply(self, operation: tuple[str, Templates], *arguments: Term) -> Term:
        ufunc, templates = operation
        *inputs, output = _resolved_kinds(ufunc, [argument.kind for argument in arguments])
        letter = inputs[0].kind
        template = next((text for kinds, text in templates.items() if letter in kinds), None)
        if template is None or {input_.kind for input_ in inputs} == {"i", "u"}:
            raise SpecError(
                f"{ufunc} of {', '.join(input_.name for input_ in inputs)} has no form in CUDA C++."
            )
        own = template[1 : template.index("(")] if template.startswith("@") else None
        if own:
            self.called.add(own)
            template = f"opyard_{template[1:]}"
        code = template.format(*(_converted(a, kind) for a, kind in zip(arguments, inputs, strict=True)))
        if output.kind in "biu" and not own:  # C++ computes in int what is narrower; NumPy wraps around
            code = (
                f"{C_TYPES[output.name]}({code})"
                if " " not in C_TYPES[output.name]
                else f"({C_TYPES[output.name]})({code})"
            )
        if all(not isinstance(argument.kind, np.dtype) for argument in arguments) and output.kind in "if":
            return Term(code, int if output.kind == "i" else float)
        return Term(code, output)

    def _choice(self, test: Term, body: Term, orelse: Term) -> Term:
        kinds = body.kind, orelse.kind
        if all(isinstance(kind, np.dtype) for kind in kinds):
            kind: Kind = np.result_type(*kinds)
        elif any(isinstance(kind, np.dtype) for kind in kinds):
            kind = np.result_type(*(k if isinstance(k, np.dtype) else k(0) for k in kinds))
        else:
            kind = float if float in kinds else int
        return Term(
            f"({_converted(test, _BOOL)} ? {_converted(body, kind)} : {_converted(orelse, kind)})", kind
        )


def _is_integer(kind: Kind) -> bool:
    return kind.kind in "iub" if isinstance(kind, np.dtype) else kind is int


def _constant(value: bool | int | float) -> Term:
    if isinstance(value, bool):
        return Term("true" if value else "false", _BOOL)
    if isinstance(value, int):
        return Term(f"{value}LL", int)
    return Term("(-log(0.0))" if value == float("inf") else repr(value), float)


def _resolved_kinds(ufunc: str, kinds: list[Kind]) -> tuple[np.dtype[Any], ...]:
    """The dtypes that a ufunc computes these inputs in, and that of its result."""
    weak = all(not isinstance(kind, np.dtype) for kind in kinds)
    given = [_STRONG[kind] if weak and not isinstance(kind, np.dtype) else kind for kind in kinds]
    try:
        resolved: tuple[np.dtype[Any], ...] = getattr(np, ufunc).resolve_dtypes((*given, None))
    except TypeError as error:
        raise SpecError(f"{ufunc} is not defined for {', '.join(map(str, given))}: {error}") from None
    return resolved


def c_type(kind: Kind) -> str:
    """The C++ type that values of ``kind`` are computed in."""
    return C_TYPES[kind.name if isinstance(kind, np.dtype) else _STRONG[kind].name]


def _converted(term: Term, kind: Kind) -> str:
    """The text of ``term`` in another type."""
    if c_type(term.kind) == c_type(kind):
        return term.code
    return f"static_cast<{c_type(kind)}>({term.code})"

"""Scalar expressions: what an elementwise op computes for one element, as one line of Python.

``x / (1 + exp(-x))`` is parsed once into a Python syntax tree over the op's inputs and attributes. NumPy evaluates it
here; backends with code generation print the same tree in their own language. The language: numbers, names, ``+ - * /
// % **``, comparisons, ``& | ^ ~ << >>``, ``and or not``, ``a if condition else b`` and the functions in FUNCTIONS.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .errors import SpecError, did_you_mean

# numpy has no erf; math.erf is correct to the last place, and an oracle may be slow
_erf = np.frompyfunc(math.erf, 1, 1)


def erf(x: Any) -> Any:
    """The error function, elementwise, in the dtype of ``x``; float64 for integers."""
    x = np.asarray(x)
    return np.asarray(_erf(x.astype(np.float64))).astype(np.float64 if x.dtype.kind in "biu" else x.dtype)


def _round(x: Any) -> Any:
    """The nearest whole number, the even one of two; unlike numpy.rint it leaves integers in their dtype."""
    x = np.asarray(x)
    return x if x.dtype.kind in "iu" else np.rint(x)


def _fused(name: str) -> Callable[..., Any]:
    return getattr(np, name)  # type: ignore[no-any-return]


_NUMPY_NAMES = {
    **{
        name: name
        for name in ("abs", "sqrt", "cbrt", "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "hypot")
    },
    **{
        name: name
        for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "floor", "ceil", "trunc", "sign", "signbit")
    },
    **{
        name: name
        for name in (
            "isnan",
            "isinf",
            "isfinite",
            "copysign",
            "nextafter",
            "logaddexp",
            "fmod",
            "real",
            "imag",
            "conj",
        )
    },
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "atan2": "arctan2",
    "asinh": "arcsinh",
    "acosh": "arccosh",
    "atanh": "arctanh",
    "min": "minimum",
    "max": "maximum",
    "pow": "power",
}
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **{name: _fused(target) for name, target in _NUMPY_NAMES.items()},
    "erf": erf,
    "round": _round,
}
"""The functions of the language and their NumPy meaning. ``round`` goes to the nearest even number."""

_NODES = (
    *(
        ast.Expression,
        ast.BinOp,
        ast.UnaryOp,
        ast.BoolOp,
        ast.Compare,
        ast.IfExp,
        ast.Call,
        ast.Name,
        ast.Constant,
        ast.Load,
    ),
    *(
        ast.Add,
        ast.Sub,
        ast.Mult,
        ast.Div,
        ast.FloorDiv,
        ast.Mod,
        ast.Pow,
        ast.USub,
        ast.UAdd,
        ast.Invert,
        ast.Not,
        ast.And,
        ast.Or,
    ),
    *(
        ast.Eq,
        ast.NotEq,
        ast.Lt,
        ast.LtE,
        ast.Gt,
        ast.GtE,
        ast.BitAnd,
        ast.BitOr,
        ast.BitXor,
        ast.LShift,
        ast.RShift,
    ),
)


DEEPEST = 100
"""Operations within each other: with more of them Python and the generators of code run into the limits of recursion."""


def _depth(tree: ast.AST) -> int:
    depth, layer = 0, [tree]
    while layer:
        depth, layer = depth + 1, [child for node in layer for child in ast.iter_child_nodes(node)]
    return depth


def _arity(name: str) -> int:
    """The number of arguments of a function of the language."""
    return int(getattr(FUNCTIONS[name], "nin", 1))


class Scalar:
    """A parsed scalar expression. ``tree`` is the ``ast`` node that code generators print."""

    __slots__ = ("_evaluate", "names", "text", "tree")

    def __init__(self, text: str, names: tuple[str, ...]) -> None:
        self.text = text
        self.names = names
        self.tree = _parse(text, names)
        self._evaluate: Callable[..., Any] | None = None

    def __repr__(self) -> str:
        return self.text

    def __call__(self, **values: Any) -> Any:
        """Evaluates the expression with NumPy, elementwise over arrays."""
        if self._evaluate is None:
            self._evaluate = _compile(self.tree, self.names)
        return self._evaluate(**values)


def _parse(text: str, names: tuple[str, ...]) -> ast.expr:
    if not isinstance(text, str):
        raise SpecError(f"a scalar expression is a string, such as 'x * x'; found {text!r}.")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise SpecError(f"the scalar expression {text!r} is not a Python expression: {error.msg}.") from None
    except (RecursionError, MemoryError):  # what the parser of Python makes of too deep an expression
        tree = None
    if tree is None or _depth(tree) > DEEPEST:
        raise SpecError(
            f"the scalar expression {text[:40]!r}... nests more than {DEEPEST} operations; write a NumPy reference or decompose=... instead."
        )
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            raise SpecError(
                f"the scalar expression {text!r} uses {type(node).__name__}, which the language does not have; see docs/writing-a-kernel.md."
            )
        if isinstance(node, ast.Call) and (
            not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS or node.keywords
        ):
            name = ast.unparse(node.func)
            raise SpecError(
                f"the scalar expression {text!r} calls {name!r}, which is not known.{did_you_mean(name, tuple(FUNCTIONS))} Known: {', '.join(FUNCTIONS)}."
            )
        if isinstance(node, ast.Call) and len(node.args) != (count := _arity(ast.unparse(node.func))):
            raise SpecError(
                f"the scalar expression {text!r} calls {ast.unparse(node)}; {ast.unparse(node.func)} takes {count} argument{'s' if count > 1 else ''}."
            )
        if isinstance(node, ast.Name) and node.id in names and id(node) in called:
            raise SpecError(
                f"the scalar expression {text!r} calls {node.id!r}, which is also the name of an input or attribute; rename that one."
            )
        if isinstance(node, ast.Name) and node.id not in names and id(node) not in called:
            raise SpecError(
                f"the scalar expression {text!r} uses {node.id!r}, which is no input or attribute; there are {', '.join(names) or 'none'}."
            )
        if isinstance(node, ast.Compare) and len(node.ops) > 1:
            raise SpecError(f"the scalar expression {text!r} chains comparisons; join two with 'and'.")
        if isinstance(node, ast.Constant) and not isinstance(node.value, (bool, int, float)):
            raise SpecError(f"the scalar expression {text!r} holds {node.value!r}; constants are numbers.")
    return tree.body


class _ToNumPy(ast.NodeTransformer):
    """Replaces what Python evaluates for one truth value by the function that works on arrays."""

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        return self._call("_where", node.test, node.body, node.orelse)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        name = "_and" if isinstance(node.op, ast.And) else "_or"
        result = node.values[0]
        for value in node.values[1:]:
            result = self._call(name, result, value)
        return result

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        if isinstance(node.op, ast.Not):
            return self._call("_not", node.operand)
        self.generic_visit(node)
        return node

    def _call(self, name: str, *arguments: ast.expr) -> ast.Call:
        return ast.Call(ast.Name(name, ast.Load()), [self.visit(a) for a in arguments], [])


def _compile(tree: ast.expr, names: tuple[str, ...]) -> Callable[..., Any]:
    body = _ToNumPy().visit(ast.parse(ast.unparse(tree), mode="eval").body)
    source = f"lambda {', '.join(['*', *names]) if names else ''}: {ast.unparse(body)}"
    scope = {
        **FUNCTIONS,
        "_where": np.where,
        "_and": np.logical_and,
        "_or": np.logical_or,
        "_not": np.logical_not,
    }
    function: Callable[..., Any] = eval(source, scope)  # the tree was checked node by node in _parse
    return function

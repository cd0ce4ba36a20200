"""Scalar expressions as ops: each operation of an expression becomes a call of the standard op that computes it.

So the gradient of an elementwise op can be written, or derived, as an expression, and what is recorded is made of ops that
every backend knows, and that backends with code generation fuse.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from functools import cache, reduce
from typing import Any

import numpy as np

from .. import STANDARD
from ..arithmetic import Array, constant_like

_BINARY: Mapping[type[ast.operator], str] = {
    ast.Add: "add",
    ast.Sub: "subtract",
    ast.Mult: "multiply",
    ast.Div: "divide",
    ast.FloorDiv: "floor_divide",
    ast.Mod: "remainder",
    ast.Pow: "pow",
    ast.BitAnd: "bitwise_and",
    ast.BitOr: "bitwise_or",
    ast.BitXor: "bitwise_xor",
    ast.LShift: "bitwise_left_shift",
    ast.RShift: "bitwise_right_shift",
}
_UNARY: Mapping[type[ast.unaryop], str] = {
    ast.USub: "negative",
    ast.UAdd: "positive",
    ast.Invert: "bitwise_invert",
    ast.Not: "logical_not",
}
_COMPARED: Mapping[type[ast.cmpop], str] = {
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
}
_TRUTHS = ("logical_and", "logical_or", "logical_not")
_ANY_DTYPE = (*_TRUTHS, *_COMPARED.values(), "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_invert")


def evaluate(tree: ast.expr, names: Mapping[str, Any], like: Array) -> Any:
    """What an expression over arrays and numbers is, as ops of the arrays; truth values count as 0 and 1 of ``like``'s dtype.

    A number where the expression has no array in it.
    """

    def visit(node: ast.AST) -> Any:
        return evaluate(node, names, like)  # type: ignore[arg-type]

    match tree:
        case ast.Constant():
            return tree.value
        case ast.Name():
            return names[tree.id]
        case ast.BinOp():
            return _call(_BINARY[type(tree.op)], like, visit(tree.left), visit(tree.right))
        case ast.UnaryOp():
            return _call(_UNARY[type(tree.op)], like, visit(tree.operand))
        case ast.Compare():
            return _call(_COMPARED[type(tree.ops[0])], like, visit(tree.left), visit(tree.comparators[0]))
        case ast.BoolOp():
            name = "logical_and" if isinstance(tree.op, ast.And) else "logical_or"
            return reduce(lambda one, other: _call(name, like, one, other), map(visit, tree.values))
        case ast.IfExp():
            return _choice(_truth(visit(tree.test)), visit(tree.body), visit(tree.orelse), like)
        case ast.Call():
            assert isinstance(tree.func, ast.Name)
            name = {"min": "minimum", "max": "maximum"}.get(tree.func.id, tree.func.id)
            return _call(name, like, *map(visit, tree.args))
    raise AssertionError(ast.dump(tree))  # the parser of scalar expressions lets nothing else through


def _is_number(operand: Any) -> bool:
    return isinstance(operand, (bool, int, float))


def _call(name: str, like: Array, *operands: Any) -> Any:
    if name in _TRUTHS:
        operands = tuple(map(_truth, operands))
    elif name not in _ANY_DTYPE:
        operands = tuple(_number(operand, like) for operand in operands)
    if all(map(_is_number, operands)):
        return np.asarray(STANDARD[name].op.reference(*operands)).item()
    return STANDARD[name](*operands)


def _number(operand: Any, like: Array) -> Any:
    """``operand``, with 0 and 1 for truth values."""
    if isinstance(operand, bool):
        return int(operand)
    if _is_number(operand) or operand.dtype != np.dtype(bool):
        return operand
    return STANDARD["cast"](operand, dtype=like.dtype.name)


def _truth(operand: Any) -> Any:
    """``operand`` as a truth value: whether it is not 0."""
    if _is_number(operand):
        return bool(operand)
    return operand if operand.dtype == np.dtype(bool) else STANDARD["not_equal"](operand, 0)


def _choice(condition: Any, chosen: Any, other: Any, like: Array) -> Any:
    if _is_number(condition):
        return chosen if condition else other
    if _is_number(chosen) and _is_number(other):  # two numbers do not say in which dtype
        other = constant_like(other, like)
    return STANDARD["where"](condition, chosen, other)


@cache
def _parse(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def rule(names: tuple[str, ...], *texts: str | None) -> Callable[..., tuple[Any, ...]]:
    """The gradient rule of an op with inputs of these ``names``: for each input the expression of its cotangent.

    An expression is made of the inputs, the attributes, ``y`` (the output) and ``g`` (its cotangent), and may call standard
    ops. None stands for an input without a cotangent.
    """

    def gradient(g: Array, y: Array, *inputs: Array, **attributes: Any) -> tuple[Any, ...]:
        known = {"g": g, "y": y, **attributes, **dict(zip(names, inputs, strict=True))}

        def entry(text: str | None) -> Any:
            return None if text is None else lambda: evaluate(_parse(text), known, g)

        return tuple(map(entry, texts))

    return gradient

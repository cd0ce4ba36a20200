"""How the standard ops are differentiated: rules by op, and the ops that have no gradient, with the reason.

A rule is what ``grad=`` of the decorator ``op`` takes, see docs/gradients.md. An op without a rule is differentiated through
its decomposition, or through the parts of its scalar expression.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...operation import Call, Op
from . import elementwise, lookup, movement, poolings, products, reductions
from ._expressions import evaluate
from ._sizes import filled

__all__ = ["WITHOUT", "ZERO", "differentiated", "filled", "parts_of", "rule_of"]

Rule = Callable[..., Any]

ZERO: dict[str, str] = {
    **dict.fromkeys(("floor", "ceil", "round", "trunc", "floor_divide"), "it is constant between its steps"),
    **dict.fromkeys(("sign",), "it is constant on both sides of 0"),
    **dict.fromkeys(("full", "zeros", "ones", "arange", "eye", "linspace", "iota"), "it has no inputs"),
    **dict.fromkeys(("full_like", "zeros_like", "ones_like"), "it does not look at the numbers of its input"),
    **dict.fromkeys(("shape_of", "size_of"), "sizes are integers"),
    **dict.fromkeys(("argmax", "argmin", "argsort"), "positions are integers"),
    **dict.fromkeys(("any", "all", "isnan", "isinf", "isfinite", "signbit"), "truth values have no gradient"),
    **dict.fromkeys(
        ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"),
        "truth values have no gradient",
    ),
    **dict.fromkeys(
        ("logical_and", "logical_or", "logical_xor", "logical_not"), "truth values have no gradient"
    ),
    **dict.fromkeys(("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_invert"), "bits have no gradient"),
    **dict.fromkeys(("bitwise_left_shift", "bitwise_right_shift"), "bits have no gradient"),
    **dict.fromkeys(("one_hot",), "its input is an integer"),
    **dict.fromkeys(
        ("philox_bits", "split_key", "random_bernoulli", "random_normal", "random_uniform"),
        "its input is a key, which is an integer",
    ),
}
"""Ops whose gradient is zero, or that have no input or output of real numbers, and why."""

WITHOUT: dict[str, str] = {
    "nextafter": "it steps from one float to the next, which no derivative describes",
}
"""Ops that have no gradient rule, and why."""

_RULES: dict[Op, Rule] = {
    op: rule
    for family in (elementwise, lookup, movement, poolings, products, reductions)
    for op, rule in family.RULES.items()
}


def rule_of(op: Op) -> Rule | None:
    """The op's own rule, or that which is written here; None where it is differentiated through its parts."""
    return op.grad or _RULES.get(op)


def parts_of(call: Call, inputs: tuple[Any, ...]) -> Any:
    """The outputs of a call by other ops: its decomposition, or its scalar expression; None for an op that has neither."""
    op = call.op
    if op.decompose is not None:
        return op.decompose(*inputs, **call.attrs)
    if op.scalar is None:
        return None
    names = {**dict(zip(op.signature.inputs, inputs, strict=True)), **call.attrs}
    return evaluate(op.scalar.tree, names, call.output)


def differentiated(op: Op) -> str:
    """How an op is differentiated, in a word: "rule", "expression", "decomposition", "zero" or "none"."""
    if rule_of(op) is not None:
        return "rule"
    if op.name in ZERO or op.name in WITHOUT:
        return "zero" if op.name in ZERO else "none"
    return "decomposition" if op.decompose else "expression" if op.scalar else "none"

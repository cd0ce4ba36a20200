"""Gradients of elementwise ops as expressions: of the inputs, of ``y`` (the output) and of ``g`` (its cotangent).

Written where an op has no other definition, and where the gradient that follows from the op's own scalar expression would
overflow, divide zero by zero, or break at a bend. Broadcasting is undone by whoever applies a rule. At a bend, such as the
zero of relu, the gradient is that of the branch which the op's expression takes there; maximum and minimum of equal
numbers share it, as in JAX and PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...operation import Op
from .. import STANDARD
from .._precision import cast_to
from ..activation import relu, relu_gradient
from ..arithmetic import Array
from ..random import dropout, masked_scale
from ._expressions import rule

EXPRESSIONS: dict[str, tuple[str | None, ...]] = {
    # arithmetic
    "identity": ("g",),
    "add": ("g", "g"),
    "subtract": ("g", "-g"),
    "multiply": ("g * x2", "g * x1"),
    "divide": ("g / x2", "-g * y / x2"),
    "remainder": ("g", "-g * (x1 // x2)"),
    "fmod": ("g", "-g * trunc(x1 / x2)"),
    "negative": ("-g",),
    "positive": ("g",),
    "abs": ("g * sign(x)",),  # 0 at 0
    "reciprocal": ("-g * y * y",),
    "maximum": (
        "g if x1 > x2 else (g * 0.5 if x1 == x2 else 0)",
        "g if x2 > x1 else (g * 0.5 if x1 == x2 else 0)",
    ),
    "minimum": (
        "g if x1 < x2 else (g * 0.5 if x1 == x2 else 0)",
        "g if x2 < x1 else (g * 0.5 if x1 == x2 else 0)",
    ),
    # powers, exponentials and logarithms
    "square": ("g * (2 * x)",),
    "sqrt": ("g * 0.5 / y",),
    "rsqrt": ("g * -0.5 * y / x",),
    "cbrt": ("g / (3 * y * y)",),
    "exp": ("g * y",),
    "exp2": ("g * y * 0.6931471805599453",),
    "expm1": ("g * exp(x)",),
    "log": ("g / x",),
    "log1p": ("g / (1 + x)",),
    "log2": ("g / x * 1.4426950408889634",),
    "log10": ("g / x * 0.4342944819032518",),
    "logaddexp": (  # a finite subtrahend, for -inf less -inf is NaN
        "g * exp(x1 - (y if isfinite(y) else 0))",
        "g * exp(x2 - (y if isfinite(y) else 0))",
    ),
    # the power of x1 that x2 = 0 would give is infinite at x1 = 0; the logarithm of 0 is kept away where y is 0
    "pow": ("g * x2 * x1 ** (x2 - 1 if x2 != 0 else 1)", "g * y * log(1 if x1 == 0 else x1)"),
    "hypot": ("g * (x1 / (y if y > 0 else 1))", "g * (x2 / (y if y > 0 else 1))"),
    "erf": ("g * exp(-x * x) * 1.1283791670955126",),
    # trigonometric and hyperbolic functions
    "sin": ("g * cos(x)",),
    "cos": ("-g * sin(x)",),
    "tan": ("g * (1 + y * y)",),
    "asin": ("g / sqrt((1 - x) * (1 + x))",),
    "acos": ("-g / sqrt((1 - x) * (1 + x))",),
    "atan": ("g / (1 + x * x)",),
    "atan2": ("g * x2 / (x1 * x1 + x2 * x2)", "-g * x1 / (x1 * x1 + x2 * x2)"),
    "sinh": ("g * cosh(x)",),
    "cosh": ("g * sinh(x)",),
    "tanh": ("g * (1 - y * y)",),
    "asinh": ("g / hypot(x, 1)",),
    "acosh": ("g / sqrt((x - 1) * (x + 1))",),
    "atanh": ("g / ((1 - x) * (1 + x))",),
    # selection
    "where": (None, "g if condition else 0", "0 if condition else g"),
    "copysign": ("g if signbit(x1) == signbit(x2) else -g", None),
    "conj": ("g",),
    "real": ("g",),
    "imag": (None,),
    # activations
    "relu6": ("g if x > 0 and x < 6 else 0",),
    "leaky_relu": ("g if x >= 0 else alpha * g",),
    "prelu": ("g if x >= 0 else slope * g", "0 if x >= 0 else x * g"),
    "thresholded_relu": ("0 if x <= alpha else g",),
    "elu": ("g if x > 0 else g * (alpha * exp(min(x, 0)))",),
    "selu": ("gamma * (g if x > 0 else g * (alpha * exp(min(x, 0))))",),
    "celu": ("g if x > 0 else g * exp(min(x, 0) / alpha)",),
    "sigmoid": ("g * (y * (1 - y))",),
    "log_sigmoid": ("g * sigmoid(-x)",),
    "softplus": ("g * sigmoid(x)",),
    "softsign": ("g / ((1 + abs(x)) * (1 + abs(x)))",),
    "silu": ("g * (sigmoid(x) + y * sigmoid(-x))",),
    "quick_gelu": ("g * (sigmoid(alpha * x) + alpha * y * sigmoid(-alpha * x))",),
    "mish": ("g * (tanh(softplus(x)) + x * sigmoid(x) * (1 - tanh(softplus(x)) * tanh(softplus(x))))",),
    "hard_sigmoid": ("alpha * g if y > 0 and y < 1 else 0",),
    "hard_swish": ("g * (0 if x <= -3 else (1 if x >= 3 else x / 3 + 0.5))",),
    "hard_tanh": ("g if x > min_value and x < max_value else 0",),
}
"""For each elementwise op the cotangents of its inputs, None for an input that has none."""

_GELU = "g * (0.5 * (1 + erf(x * 0.7071067811865476)) + x * exp(-0.5 * x * x) * 0.3989422804014327)"
_GELU_CURVE = "tanh(x * 0.7978845608028654 * (1 + 0.044715 * x * x))"
_GELU_BY_TANH = (
    "g * 0.5 * (1 + curve + x * (1 - curve * curve) * (0.7978845608028654 + 0.10703222440890037 * x * x))"
)


def _gelu(g: Array, y: Array, x: Array, *, approximate: str) -> Any:
    if approximate == "none":
        return rule(("x",), _GELU)(g, y, x)
    (curve,) = rule(("x",), _GELU_CURVE)(g, y, x)
    return rule(("x",), _GELU_BY_TANH)(g, y, x, curve=curve())


def _cast(g: Array, y: Array, x: Array, *, dtype: str) -> Array:
    return cast_to(g, x.dtype)


def _relu(g: Array, y: Array, x: Array) -> Array:
    return relu_gradient(y, g)  # y > 0 as x > 0, which need not be kept then


def _dropout(g: Array, y: Array, x: Array, key: Array, *, rate: float) -> Any:
    return dropout(g, key, rate=rate), None  # the same key drops the same elements


def _masked_scale(g: Array, y: Array, x: Array, mask: Array, *, scale: float) -> Any:
    return masked_scale(g, mask, scale=scale), None


RULES: dict[Op, Callable[..., Any]] = {
    STANDARD[name].op: rule(STANDARD[name].op.signature.inputs, *texts) for name, texts in EXPRESSIONS.items()
}
RULES[STANDARD["gelu"].op] = _gelu
RULES[STANDARD["cast"].op] = _cast
RULES[relu.op] = _relu
RULES[dropout.op] = _dropout
RULES[masked_scale.op] = _masked_scale

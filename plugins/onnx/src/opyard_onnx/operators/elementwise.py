"""Elementwise operators: arithmetic, functions of one number, comparisons, logic, bits, conversions and activations."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

import opyard as oy
from opyard_onnx.errors import ModelError
from opyard_onnx.node import OnnxNode
from opyard_onnx.operators.narrow import cast_exponent, cast_narrow
from opyard_onnx.operators.table import Converter, Operator, direct
from opyard_onnx.tensors import dtype_of


def with_old_broadcast(convert: Converter) -> Converter:
    """Before opset 7 the second operand's axes lie from ``axis`` on: sizes of 1 are added behind them."""

    def converted(node: OnnxNode) -> Any:
        axis, (a, b) = node.attribute("axis", None), node.inputs
        if axis is not None:
            behind = a.ndim - (axis % a.ndim) - b.ndim
            node.inputs = [a, oy.reshape(b, shape=(*b.shape, *(1,) * behind))]
        return convert(node)

    return converted


def divide(node: OnnxNode) -> Any:
    """Integers are divided towards zero, as in C."""
    a, b = node.inputs
    if a.dtype.kind == "u":
        return oy.floor_divide(a, b)
    if a.dtype.kind != "i":
        return oy.divide(a, b)
    below = oy.floor_divide(a, b)
    inexact = oy.not_equal(oy.multiply(below, b), a)
    apart = oy.logical_and(inexact, oy.less(oy.bitwise_xor(a, b), 0))
    return oy.add(below, oy.cast(apart, dtype=a.dtype.name))


def modulo(node: OnnxNode) -> Any:
    return (oy.fmod if node.attribute("fmod", 0) else oy.remainder)(*node.inputs)


def power(node: OnnxNode) -> Any:
    """The result has the dtype of the base, whatever that of the exponent is."""
    base, exponent = node.inputs
    if base.dtype == exponent.dtype:
        return oy.pow(base, exponent)
    if base.dtype.kind in "iu" and exponent.dtype.kind not in "iu":
        found = oy.pow(oy.cast(base, dtype=exponent.dtype.name), exponent)
        return oy.cast(found, dtype=base.dtype.name)
    return oy.pow(base, oy.cast(exponent, dtype=base.dtype.name))


def folded(function: Callable[..., Any]) -> Converter:
    """Any number of operands, combined from the left."""
    return lambda node: oy.identity(reduce(function, node.inputs))


def mean(node: OnnxNode) -> Any:
    return oy.divide(reduce(oy.add, node.inputs), float(len(node.inputs)))


def bit_shift(node: OnnxNode) -> Any:
    left = node.attribute("direction") == "LEFT"
    return (oy.bitwise_left_shift if left else oy.bitwise_right_shift)(*node.inputs)


def is_inf(node: OnnxNode) -> Any:
    x, found = node.x, oy.isinf(node.x)
    if not node.attribute("detect_positive", 1):
        found = oy.logical_and(found, oy.less(x, 0.0))
    if not node.attribute("detect_negative", 1):
        found = oy.logical_and(found, oy.greater(x, 0.0))
    return found


def equal(node: OnnxNode) -> Any:
    a, b = node.inputs
    return node.constant(a == b) if isinstance(a, np.ndarray) else oy.equal(a, b)


def where(node: OnnxNode) -> Any:
    condition, a, b = node.inputs
    if isinstance(a, np.ndarray):
        return np.where(node.value(0), a, b)
    return oy.where(condition, a, b)


def clip_between(node: OnnxNode) -> Any:
    low, high = node.attribute("min", None), node.attribute("max", None)
    bounds = [None if bound is None else node.constant(bound, node.x) for bound in (low, high)]
    return oy.clip(node.x, *bounds)


def clip(node: OnnxNode) -> Any:
    return oy.clip(node.x, node.get(1), node.get(2))


def cast_to(node: OnnxNode, x: Any, dtype: np.dtype[Any]) -> Any:
    """Numbers and strings in another type. Floats beyond the range of a float8 become its greatest with ``saturate``."""
    if isinstance(x, np.ndarray):
        return x if dtype.kind == "O" else _from_strings(x, dtype)
    if dtype.kind == "O":
        return _to_strings(node.importer.value(x))
    if x.dtype == dtype:
        return oy.identity(x)
    if (dtype.kind in "fcb" and dtype.itemsize > 1) or dtype.kind in "biu":
        return oy.cast(x, dtype=dtype.name)
    if dtype.name == "float8_e8m0fnu":
        return cast_exponent(x, node.attribute("round_mode", "up"))
    return cast_narrow(x, dtype, bool(node.attribute("saturate", 1)))


def _from_strings(x: Any, dtype: np.dtype[Any]) -> Any:
    try:
        numbers = np.array([float(text) for text in x.ravel()]).reshape(x.shape)
    except ValueError as error:
        raise ModelError(f"a string that is cast to {dtype.name} is no number: {error}.") from None
    return numbers.astype(np.float32).astype(dtype) if dtype.kind == "V" else numbers.astype(dtype)


def _to_strings(x: Any) -> Any:
    """Source: ONNX Cast; floats as the shortest text that gives the number back."""
    found = np.empty(x.shape, object)
    plain = x.astype(np.float32) if x.dtype.kind == "V" else x
    found.reshape(-1)[:] = [_text(number) for number in plain.ravel()]
    return found


def _text(number: Any) -> str:
    return str(number) if number.dtype.kind != "f" or np.isfinite(number) else _SPECIAL[str(number)]


_SPECIAL = {"nan": "NaN", "inf": "INF", "-inf": "-INF"}


def cast(node: OnnxNode) -> Any:
    return cast_to(node, node.x, dtype_of(node.attribute("to")))


def cast_like(node: OnnxNode) -> Any:
    return cast_to(node, node.x, node.inputs[1].dtype)


def gelu(node: OnnxNode) -> Any:
    return oy.gelu(node.x, approximate=node.attribute("approximate", "none"))


def prelu(node: OnnxNode) -> Any:
    x, slope = node.inputs
    if slope.ndim == 1 and x.ndim > 1 and node.version < 7:
        slope = oy.reshape(slope, shape=(*slope.shape, *(1,) * (x.ndim - 2)))
    return oy.prelu(x, slope)


def swish(node: OnnxNode) -> Any:
    alpha = node.attribute("alpha", 1.0)
    return oy.silu(node.x) if alpha == 1 else oy.quick_gelu(node.x, alpha=alpha)


UNARY = {
    "Abs": oy.abs,
    "Acos": oy.acos,
    "Acosh": oy.acosh,
    "Asin": oy.asin,
    "Asinh": oy.asinh,
    "Atan": oy.atan,
    "Atanh": oy.atanh,
    "BitwiseNot": oy.bitwise_invert,
    "Ceil": oy.ceil,
    "Cos": oy.cos,
    "Cosh": oy.cosh,
    "Erf": oy.erf,
    "Exp": oy.exp,
    "Floor": oy.floor,
    "HardSwish": oy.hard_swish,
    "IsNaN": oy.isnan,
    "Log": oy.log,
    "Mish": oy.mish,
    "Neg": oy.negative,
    "Not": oy.logical_not,
    "Reciprocal": oy.reciprocal,
    "Relu": oy.relu,
    "Round": oy.round,
    "Sigmoid": oy.sigmoid,
    "Sign": oy.sign,
    "Sin": oy.sin,
    "Sinh": oy.sinh,
    "Softplus": oy.softplus,
    "Softsign": oy.softsign,
    "Sqrt": oy.sqrt,
    "Tan": oy.tan,
    "Tanh": oy.tanh,
}
BINARY = {
    "Add": oy.add,
    "Sub": oy.subtract,
    "Mul": oy.multiply,
    "And": oy.logical_and,
    "Or": oy.logical_or,
    "Xor": oy.logical_xor,
    "Greater": oy.greater,
    "Less": oy.less,
}

OPERATORS = (
    *(Operator(name, 1, direct(function)) for name, function in UNARY.items()),
    *(Operator(name, 1, with_old_broadcast(direct(function))) for name, function in BINARY.items()),
    *(Operator(name, 7, direct(function)) for name, function in BINARY.items()),
    Operator("BitwiseAnd", 18, direct(oy.bitwise_and)),
    Operator("BitwiseOr", 18, direct(oy.bitwise_or)),
    Operator("BitwiseXor", 18, direct(oy.bitwise_xor)),
    Operator("BitShift", 11, bit_shift),
    Operator("Cast", 6, cast),
    Operator("CastLike", 15, cast_like),
    Operator("Celu", 12, direct(oy.celu, alpha=1.0)),
    Operator("Clip", 6, clip_between),
    Operator("Clip", 11, clip),
    Operator("Div", 1, with_old_broadcast(divide)),
    Operator("Div", 7, divide),
    Operator("Elu", 1, direct(oy.elu, alpha=1.0)),
    Operator("Equal", 1, with_old_broadcast(equal)),
    Operator("Equal", 7, equal),
    Operator("Gelu", 20, gelu),
    Operator("GreaterOrEqual", 12, direct(oy.greater_equal)),
    Operator("HardSigmoid", 1, direct(oy.hard_sigmoid, alpha=0.2, beta=0.5)),
    Operator("IsInf", 10, is_inf),
    Operator("LeakyRelu", 1, direct(oy.leaky_relu, alpha=0.01)),
    Operator("LessOrEqual", 12, direct(oy.less_equal)),
    Operator("Max", 1, folded(oy.maximum)),
    Operator("Mean", 1, mean),
    Operator("Min", 1, folded(oy.minimum)),
    Operator("Mod", 10, modulo),
    Operator("Pow", 1, with_old_broadcast(power)),
    Operator("Pow", 7, power),
    Operator("PRelu", 1, prelu),
    Operator("Selu", 1, direct(oy.selu, alpha=1.6732632423543772, gamma=1.0507009873554805)),
    Operator("Sum", 1, folded(oy.add)),
    Operator("Swish", 24, swish),
    Operator("ThresholdedRelu", 10, direct(oy.thresholded_relu, alpha=1.0)),
    Operator("Where", 9, where),
)

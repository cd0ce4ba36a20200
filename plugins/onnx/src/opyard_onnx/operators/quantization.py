"""Quantised operators: ``real = (stored - zero_point) * scale``. Source: ONNX QuantizeLinear, QLinear*, *Integer."""

from __future__ import annotations

from typing import Any

import numpy as np

import opyard as oy
from opyard_onnx.node import OnnxNode
from opyard_onnx.operators.narrow import cast_narrow, limits
from opyard_onnx.operators.table import Operator
from opyard_onnx.operators.windows import geometry
from opyard_onnx.tensors import dtype_of


def _spread(parameter: Any, x: Any, axis: int, block: int) -> Any:
    """A scale or a zero point beside ``x``: one number for all, one for each index of an axis, or one for each block."""
    if block:
        axis %= x.ndim
        wide = oy.repeat(parameter, repeats=block, axis=axis)
        size = x.shape[axis]
        return wide if wide.shape[axis] == size else oy.slice(wide, starts=(0,), stops=(size,), axes=(axis,))
    if parameter.ndim == 1 and x.ndim and parameter.shape != (1,):
        axis %= x.ndim
        return oy.reshape(parameter, shape=tuple(-1 if i == axis else 1 for i in range(x.ndim)))
    return oy.reshape(parameter, shape=()) if parameter.ndim == 1 else parameter


def _whole(x: Any) -> Any:
    """Stored integers, and zero points, as int32; narrow floats as float32."""
    return oy.cast(x, dtype="int32" if "int" in x.dtype.name else "float32")


def _stored(real: Any, zero: Any, dtype: np.dtype[Any], saturate: bool = True) -> Any:
    """Numbers that are divided by their scale already, rounded to even, moved, limited, and stored."""
    if "int" not in dtype.name:
        moved = real if zero is None else oy.add(real, oy.cast(zero, dtype=real.dtype.name))
        return cast_narrow(moved, dtype, saturate)
    low, high = limits(dtype)
    rounded = oy.round(real)
    if zero is not None:
        rounded = oy.add(rounded, oy.cast(_whole(zero), dtype=real.dtype.name))
    limited = oy.minimum(oy.maximum(rounded, float(low)), float(high))
    return oy.cast(oy.cast(limited, dtype="int32"), dtype=dtype.name)


def quantize(node: OnnxNode) -> Any:
    x, scale, zero = node.x, node.inputs[1], node.get(2)
    axis, block = node.attribute("axis", 1), node.attribute("block_size", 0)
    wanted = node.attribute("output_dtype", 0)
    dtype = dtype_of(wanted) if wanted else (zero.dtype if zero is not None else np.dtype(np.uint8))
    precision = node.attribute("precision", 0)
    computed = dtype_of(precision).name if precision else "float32"
    divided = oy.divide(oy.cast(x, dtype=computed), oy.cast(_spread(scale, x, axis, block), dtype=computed))
    if computed != "float32":
        divided = oy.cast(divided, dtype="float32")
    moved = None if zero is None else _spread(zero, x, axis, block)
    return _stored(divided, moved, dtype, bool(node.attribute("saturate", 1)))


def dequantize(node: OnnxNode) -> Any:
    x, scale, zero = node.x, node.inputs[1], node.get(2)
    axis, block = node.attribute("axis", 1), node.attribute("block_size", 0)
    wanted = node.attribute("output_dtype", 0)
    dtype = dtype_of(wanted).name if wanted else scale.dtype.name
    stored = _whole(x)
    if zero is not None:
        stored = oy.subtract(stored, _whole(_spread(zero, x, axis, block)))
    wide = oy.cast(_spread(scale, x, axis, block), dtype="float32")
    found = oy.multiply(oy.cast(stored, dtype="float32"), wide)
    return found if dtype == "float32" else oy.cast(found, dtype=dtype)


def _centred(x: Any, zero: Any, axis: int) -> Any:
    """int32, minus the zero point: one, or one for each row (axis -2) or column (axis -1)."""
    if zero is None:
        return _whole(x)
    zero = _whole(zero)
    if zero.ndim == 1 and zero.shape[0] != 1 and axis == -2:
        zero = oy.expand_dims(zero, axis=1)
    elif zero.ndim == 1 and zero.shape[0] == 1:
        zero = oy.reshape(zero, shape=())
    return oy.subtract(_whole(x), zero)


def matmul_integer(node: OnnxNode) -> Any:
    a, b = node.inputs[:2]
    return oy.matmul(_centred(a, node.get(2), -2), _centred(b, node.get(3), -1))


def quantized_matmul(node: OnnxNode) -> Any:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = node.inputs
    product = oy.matmul(_centred(a, a_zero, -2), _centred(b, b_zero, -1))
    factor = oy.divide(_multiplied(a_scale, b_scale), oy.cast(y_scale, dtype="float32"))
    real = oy.multiply(oy.cast(product, dtype="float32"), factor)
    return _stored(real, y_zero, y_zero.dtype)


def _multiplied(a: Any, b: Any) -> Any:
    return oy.multiply(oy.cast(a, dtype="float32"), oy.cast(b, dtype="float32"))


def _integer_conv(node: OnnxNode, x: Any, x_zero: Any, weight: Any, weight_zero: Any) -> Any:
    """int32. Convolved in float64, which holds every sum of products of bytes exactly."""
    if weight_zero is not None and weight_zero.ndim == 1 and weight_zero.shape[0] != 1:
        weight_zero = oy.reshape(weight_zero, shape=(-1, *(1,) * (weight.ndim - 1)))
    wide = [
        oy.cast(_centred(part, zero, -1), dtype="float64")
        for part, zero in ((x, x_zero), (weight, weight_zero))
    ]
    options = geometry(node, x.ndim - 2)
    return oy.cast(oy.conv(*wide, groups=node.attribute("group", 1), **options), dtype="int32")


def conv_integer(node: OnnxNode) -> Any:
    x, weight = node.inputs[:2]
    return _integer_conv(node, x, node.get(2), weight, node.get(3))


def quantized_conv(node: OnnxNode) -> Any:
    x, x_scale, x_zero, weight, w_scale, w_zero, y_scale, y_zero = node.inputs[:8]
    total = _integer_conv(node, x, x_zero, weight, w_zero)
    behind = (-1, *(1,) * (x.ndim - 2))
    if node.get(8) is not None:
        total = oy.add(total, oy.reshape(node.get(8), shape=behind))
    factor = oy.divide(_multiplied(x_scale, w_scale), oy.cast(y_scale, dtype="float32"))
    if factor.ndim == 1 and factor.shape[0] != 1:
        factor = oy.reshape(factor, shape=behind)
    elif factor.ndim == 1:
        factor = oy.reshape(factor, shape=())
    return _stored(oy.multiply(oy.cast(total, dtype="float32"), factor), y_zero, y_zero.dtype)


OPERATORS = (
    Operator("ConvInteger", 10, conv_integer),
    Operator("DequantizeLinear", 10, dequantize),
    Operator("MatMulInteger", 10, matmul_integer),
    Operator("QLinearConv", 10, quantized_conv),
    Operator("QLinearMatMul", 10, quantized_matmul),
    Operator("QuantizeLinear", 10, quantize),
)

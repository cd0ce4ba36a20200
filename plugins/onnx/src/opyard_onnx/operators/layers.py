"""Layers of neural networks: convolutions, dense layers, normalizations, dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

import opyard as oy
from opyard_onnx.errors import UnsupportedModel
from opyard_onnx.node import OnnxNode
from opyard_onnx.operators.table import Operator, direct
from opyard_onnx.operators.windows import geometry


def conv(node: OnnxNode) -> Any:
    x, weight = node.inputs[:2]
    options = geometry(node, x.ndim - 2)
    return oy.conv(x, weight, node.get(2), groups=node.attribute("group", 1), **options)


def conv_transpose(node: OnnxNode) -> Any:
    """``output_shape`` gives the padding; what is odd of it goes after for SAME_UPPER, else before."""
    x, weight = node.inputs[:2]
    rank, kernel = x.ndim - 2, tuple(int(n) for n in weight.shape[2:])
    options = geometry(node, rank)
    extra = node.attribute("output_padding", (0,) * rank)
    wanted = node.attribute("output_shape", None)
    if wanted is not None:
        spread, steps = options["dilations"], options["strides"]
        full = [
            (int(n) - 1) * s + (k - 1) * d + 1 + p
            for n, s, k, d, p in zip(x.shape[2:], steps, kernel, spread, extra, strict=True)
        ]
        totals = [a - b for a, b in zip(full, wanted[-rank:], strict=True)]
        longer = tuple(p + max(0, -t) for p, t in zip(extra, totals, strict=True))
        upper = node.attribute("auto_pad", "NOTSET") == "SAME_UPPER"
        halves = [(max(0, t) // 2, max(0, t) - max(0, t) // 2) for t in totals]
        options["padding"] = tuple(pair if upper else pair[::-1] for pair in halves)
        return _lengthened(node, options, longer)
    return _lengthened(node, options, extra)


def _lengthened(node: OnnxNode, options: dict[str, Any], extra: tuple[int, ...]) -> Any:
    """opyard's op takes output padding below the stride alone; the rest is added to the result, which is the bias there."""
    x, weight, bias = node.x, node.inputs[1], node.get(2)
    limits = [max(s, d) - 1 for s, d in zip(options["strides"], options["dilations"], strict=True)]
    kept = tuple(min(p, limit) for p, limit in zip(extra, limits, strict=True))
    beyond = tuple(p - k for p, k in zip(extra, kept, strict=True))
    groups = node.attribute("group", 1)
    if not any(beyond):
        return oy.conv_transpose(x, weight, bias, groups=groups, output_padding=kept, **options)
    found = oy.conv_transpose(x, weight, None, groups=groups, output_padding=kept, **options)
    found = oy.pad(found, pads=((0, 0), (0, 0), *((0, n) for n in beyond)))
    return found if bias is None else oy.add(found, oy.reshape(bias, shape=(-1, *(1,) * len(beyond))))


def gemm(node: OnnxNode) -> Any:
    """alpha * A' B' + beta * C."""
    a, b, c = node.x, node.inputs[1], node.get(2)
    a = oy.matrix_transpose(a) if node.attribute("transA", 0) else a
    b = oy.matrix_transpose(b) if node.attribute("transB", 0) else b
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    found = _scaled(oy.matmul(a, b), alpha)
    return found if c is None or beta == 0 else oy.add(found, _scaled(c, beta))


def _scaled(x: Any, factor: float) -> Any:
    return x if factor == 1 else oy.multiply(x, factor)


def einsum(node: OnnxNode) -> Any:
    return oy.einsum(*node.inputs, equation=node.attribute("equation").replace(" ", ""))


def batch_normalization(node: OnnxNode) -> Any:
    x, scale, bias, mean, variance = node.inputs
    epsilon = node.attribute("epsilon", 1e-5)
    if not node.attribute("training_mode", 0):
        return oy.batch_normalization(x, scale, bias, mean, variance, epsilon=epsilon)
    momentum, axes = node.attribute("momentum", 0.9), (0, *range(2, x.ndim))
    now_mean = oy.cast(oy.mean(x, axis=axes), dtype=mean.dtype.name)
    now_variance = oy.cast(oy.variance(x, axis=axes), dtype=variance.dtype.name)
    found = oy.batch_normalization(x, scale, bias, now_mean, now_variance, epsilon=epsilon)
    means = oy.add(oy.multiply(mean, momentum), oy.multiply(now_mean, 1 - momentum))
    variances = oy.add(oy.multiply(variance, momentum), oy.multiply(now_variance, 1 - momentum))
    return found, means, variances


def instance_normalization(node: OnnxNode) -> Any:
    return oy.instance_normalization(*node.inputs, epsilon=node.attribute("epsilon", 1e-5))


def layer_normalization(node: OnnxNode) -> Any:
    """With its statistics as further outputs where somebody uses them."""
    x, scale, bias = node.x, node.inputs[1], node.get(2)
    axis, epsilon = node.attribute("axis", -1), node.attribute("epsilon", 1e-5)
    found = oy.layer_normalization(x, scale, bias, axis=axis, epsilon=epsilon)
    if not (node.wants(1) or node.wants(2)):
        return found
    axes = tuple(range(axis % x.ndim, x.ndim))
    wide = oy.cast(x, dtype="float32")
    mean = oy.mean(wide, axis=axes, keepdims=True)
    variance = oy.variance(wide, axis=axes, keepdims=True)
    return found, mean, oy.rsqrt(oy.add(variance, epsilon))


def rms_normalization(node: OnnxNode) -> Any:
    axis, epsilon = node.attribute("axis", -1), node.attribute("epsilon", 1e-5)
    return oy.rms_normalization(*node.inputs, axis=axis, epsilon=epsilon)


def group_normalization(node: OnnxNode) -> Any:
    return oy.group_normalization(
        *node.inputs, groups=node.attribute("num_groups"), epsilon=node.attribute("epsilon", 1e-5)
    )


def local_response(node: OnnxNode) -> Any:
    names = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0}
    options = {name: node.attribute(name, default) for name, default in names.items()}
    return oy.local_response_normalization(node.x, size=node.attribute("size"), **options)


def dropout(node: OnnxNode) -> Any:
    """In inference everything stays. In training ONNX leaves the random numbers open, so no result is right or wrong."""
    training = node.version >= 12 and node.number(2, False)
    if training and node.number(1, 0.5) > 0:
        raise UnsupportedModel("Dropout in training mode draws random numbers that ONNX does not define.")
    found = oy.identity(node.x)
    if not node.wants(1):
        return found
    mask = oy.full(shape=node.x.shape, value=True, dtype="bool")
    return found, mask if node.version >= 10 else oy.cast(mask, dtype=node.x.dtype.name)


def determinant(node: OnnxNode) -> Any:
    return determinants(node.x)


def _determinants_spec(x: oy.TensorSpec) -> oy.TensorSpec:
    return x.with_shape(x.shape[:-2])


@oy.op("onnx.det", infer=_determinants_spec)
def determinants(x: Any) -> Any:
    """Determinants of square matrices. ``[..., n, n] -> [...]``. Source: ONNX Det."""
    return np.linalg.det(x)


OPERATORS = (
    Operator("BatchNormalization", 1, batch_normalization),
    Operator("Conv", 1, conv),
    Operator("ConvTranspose", 1, conv_transpose),
    Operator("Det", 11, determinant),
    Operator("Dropout", 1, dropout),
    Operator("Einsum", 12, einsum),
    Operator("Gemm", 1, gemm),
    Operator("GroupNormalization", 21, group_normalization),
    Operator("InstanceNormalization", 1, instance_normalization),
    Operator("LayerNormalization", 17, layer_normalization),
    Operator("LRN", 1, local_response),
    Operator("MatMul", 1, direct(oy.matmul)),
    Operator("RMSNormalization", 23, rms_normalization),
)

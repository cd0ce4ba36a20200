"""Normalizations and softmax. float16 is computed in float32. Formulas: the ONNX operators of the same names."""

from __future__ import annotations

from typing import Any

from ..array_module import xp
from . import reductions
from .reductions import wide


def _below_maximum(x: Any, axis: int) -> Any:
    values = wide(x)
    return values - values.max(axis=axis, keepdims=True)


def softmax(x: Any, *, axis: int) -> Any:
    """``exp(x) / sum(exp(x))`` along ``axis``."""
    if x.size == 0:
        return x.copy()
    weights = xp().exp(_below_maximum(x, axis))
    return (weights / weights.sum(axis=axis, keepdims=True)).astype(x.dtype)


def log_softmax(x: Any, *, axis: int) -> Any:
    """``x - log(sum(exp(x)))`` along ``axis``."""
    if x.size == 0:
        return x.copy()
    values = _below_maximum(x, axis)
    return (values - xp().log(xp().exp(values).sum(axis=axis, keepdims=True))).astype(x.dtype)


def _scaled(values: Any, scale: Any, bias: Any, dtype: Any) -> Any:
    if scale is not None:
        values = values * scale.astype(values.dtype)
    if bias is not None:
        values = values + bias.astype(values.dtype)
    return values.astype(dtype)


def _trailing(x: Any, axis: int) -> tuple[int, ...]:
    return tuple(range(axis % x.ndim, x.ndim))


def layer_normalization(x: Any, scale: Any = None, bias: Any = None, *, axis: int, epsilon: float) -> Any:
    """``scale * (x - mean) / sqrt(variance + epsilon) + bias`` over the axes from ``axis`` to the last."""
    values, axes = wide(x), _trailing(x, axis)
    centred = values - reductions.mean(values, axis=axes, keepdims=True)
    variance = reductions.mean(centred * centred, axis=axes, keepdims=True)
    return _scaled(centred / xp().sqrt(variance + epsilon), scale, bias, x.dtype)


def rms_normalization(x: Any, scale: Any = None, *, axis: int, epsilon: float) -> Any:
    """``scale * x / sqrt(mean(x * x) + epsilon)`` over the axes from ``axis`` to the last."""
    values = wide(x)
    square = reductions.mean(values * values, axis=_trailing(x, axis), keepdims=True)
    return _scaled(values / xp().sqrt(square + epsilon), scale, None, x.dtype)


def batch_normalization(x: Any, scale: Any, bias: Any, mean: Any, variance: Any, *, epsilon: float) -> Any:
    """``scale * (x - mean) / sqrt(variance + epsilon) + bias`` with given statistics of each channel."""
    values = wide(x)
    factor = scale.astype(values.dtype) / xp().sqrt(variance.astype(values.dtype) + epsilon)
    offset = bias.astype(values.dtype) - mean.astype(values.dtype) * factor
    shape = (-1, *(1,) * (x.ndim - 2))
    return (values * factor.reshape(shape) + offset.reshape(shape)).astype(x.dtype)

"""Softmax and normalizations. Rows go through the cache block by block: memory is read and written once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .blocks import row_blocks, write_dense

Array = np.ndarray[Any, Any]


def _by_rows(x: Array, length: int, out: Array | None, compute: Callable[[Array, Array], None]) -> Array:
    """Calls ``compute(rows, target)`` on blocks of rows ``[r, length]`` of ``x`` and of the result."""

    def write(target: Array) -> None:
        if not target.size:
            return
        rows, results = x.reshape(-1, length), target.reshape(-1, length)
        with np.errstate(all="ignore"):
            for block in row_blocks(len(rows), length * x.itemsize):
                compute(rows[block], results[block])

    return write_dense(out, x.shape, x.dtype, write)


def _along_axis(x: Array, axis: int, out: Array | None, compute: Callable[[Array, Array], None]) -> Array:
    """As ``_by_rows`` for rows along any axis."""
    if axis in (-1, x.ndim - 1):
        return _by_rows(x, x.shape[-1], out, compute)
    result = np.moveaxis(_by_rows(np.moveaxis(x, axis, -1), x.shape[axis], None, compute), -1, axis)
    if out is None:
        return result
    out[...] = result
    return out


def softmax(x: Array, *, axis: int, out: Array | None = None) -> Array:
    """exp(x) / sum(exp(x)) along ``axis``."""
    return _along_axis(x, axis, out, _softmax_rows)


def _softmax_rows(x: Array, out: Array) -> None:
    np.subtract(x, np.maximum.reduce(x, axis=-1, keepdims=True), out=out)
    np.exp(out, out=out)
    out /= np.add.reduce(out, axis=-1, keepdims=True)


def log_softmax(x: Array, *, axis: int, out: Array | None = None) -> Array:
    """x - log(sum(exp(x))) along ``axis``."""
    return _along_axis(x, axis, out, _log_softmax_rows)


def _log_softmax_rows(x: Array, out: Array) -> None:
    np.subtract(x, np.maximum.reduce(x, axis=-1, keepdims=True), out=out)
    out -= np.log(np.add.reduce(np.exp(out), axis=-1, keepdims=True))


def layer_normalization(
    x: Array,
    scale: Array | None = None,
    bias: Array | None = None,
    *,
    axis: int,
    epsilon: float,
    out: Array | None = None,
) -> Array:
    """scale * (x - mean) / sqrt(variance + epsilon) + bias over the axes from ``axis`` on; variance in two passes."""
    trailing = x.shape[axis % x.ndim :]
    factor, offset = _flat(scale, trailing), _flat(bias, trailing)

    def compute(rows: Array, target: Array) -> None:
        _standardize(rows, target, epsilon)
        if factor is not None:
            target *= factor
        if offset is not None:
            target += offset

    return _by_rows(x, math.prod(trailing), out, compute)


def _flat(parameter: Array | None, shape: tuple[int, ...]) -> Array | None:
    return None if parameter is None else np.broadcast_to(parameter, shape).reshape(-1)


def _standardize(rows: Array, target: Array, epsilon: float) -> None:
    length = rows.shape[-1]
    np.subtract(rows, np.add.reduce(rows, axis=-1, keepdims=True) / length, out=target)
    target /= np.sqrt(np.vecdot(target, target)[..., None] / length + epsilon)


def rms_normalization(
    x: Array, scale: Array | None = None, *, axis: int, epsilon: float, out: Array | None = None
) -> Array:
    """scale * x / sqrt(mean(x * x) + epsilon) over the axes from ``axis`` on."""
    trailing = x.shape[axis % x.ndim :]
    factor, length = _flat(scale, trailing), math.prod(trailing)

    def compute(rows: Array, target: Array) -> None:
        np.divide(rows, np.sqrt(np.vecdot(rows, rows)[..., None] / length + epsilon), out=target)
        if factor is not None:
            target *= factor

    return _by_rows(x, length, out, compute)


def batch_normalization(
    x: Array,
    scale: Array,
    bias: Array,
    mean: Array,
    variance: Array,
    *,
    epsilon: float,
    out: Array | None = None,
) -> Array:
    """scale * (x - mean) / sqrt(variance + epsilon) + bias, as one factor and one offset for each channel."""
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + epsilon)
        offset = bias - mean * factor

    def write(target: Array) -> None:
        flat, result = (
            x.reshape(*x.shape[:2], math.prod(x.shape[2:])),
            target.reshape(*x.shape[:2], math.prod(x.shape[2:])),
        )
        with np.errstate(all="ignore"):
            for image, written in zip(flat, result, strict=True):
                for block in row_blocks(x.shape[1], flat.shape[2] * x.itemsize):
                    np.multiply(image[block], factor[block, None], out=written[block])
                    written[block] += offset[block, None]

    return write_dense(out, x.shape, x.dtype, write)


def group_normalization(
    x: Array, scale: Array, bias: Array, *, groups: int, epsilon: float, out: Array | None = None
) -> Array:
    """scale * (x - mean) / sqrt(variance + epsilon) + bias with the statistics of each group of channels."""

    def write(target: Array) -> None:
        if not target.size:
            return
        rows, results = x.reshape(len(x), groups, -1), target.reshape(len(x), groups, -1)
        by_channel = target.reshape(*x.shape[:2], -1)
        with np.errstate(all="ignore"):
            for sample in range(len(x)):
                _standardize(rows[sample], results[sample], epsilon)
                by_channel[sample] *= scale[:, None]
                by_channel[sample] += bias[:, None]

    return write_dense(out, x.shape, x.dtype, write)


def instance_normalization(
    x: Array, scale: Array, bias: Array, *, epsilon: float, out: Array | None = None
) -> Array:
    """Group normalization with a group for each channel."""
    return group_normalization(x, scale, bias, groups=x.shape[1], epsilon=epsilon, out=out)

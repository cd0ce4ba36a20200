"""Elementwise functions that NumPy has no single ufunc for.

Each is written for a block that fits into the second-level cache, with its temporaries; large arrays go through it block
by block, so that memory is read and written once however many passes the function makes. float32 and float64 only, where
the op's reference computes in float64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import error_function

Array = np.ndarray[Any, Any]

BLOCK = 1 << 15
"""Elements of a block."""


def blockwise(function: Callable[..., None]) -> Callable[..., Array]:
    """Makes ``kernel(x, out=None, **attributes)`` of ``function(x, out, **attributes)``, which writes into ``out``."""

    @functools.wraps(function)
    def kernel(x: Array, out: Array | None = None, **attributes: Any) -> Array:
        result = np.empty(x.shape, x.dtype) if out is None else out
        with np.errstate(all="ignore"):  # infinity and NaN are values here, as in the op's reference
            if not (x.flags.c_contiguous and result.flags.c_contiguous):
                function(x, result, **attributes)
            else:  # flat, also because ufuncs give scalars for arrays of rank 0, which nothing can be written into
                source, target = x.reshape(-1), result.reshape(-1)
                for start in range(0, x.size, BLOCK):
                    end = start + BLOCK
                    function(source[start:end], target[start:end], **attributes)
        return result

    return kernel


def relu(x: Array, out: Array | None = None) -> Array:
    """max(x, 0)."""
    return np.maximum(x, 0, out=out)


@blockwise
def relu6(x: Array, out: Array) -> None:
    """x limited to [0, 6]."""
    np.maximum(x, 0, out=out)
    np.minimum(out, 6, out=out)


@blockwise
def leaky_relu(x: Array, out: Array, *, alpha: float) -> None:
    """x above zero, alpha * x below."""
    np.multiply(x, alpha, out=out)
    if 0 < alpha <= 1:
        np.maximum(x, out, out=out)
    else:
        np.copyto(out, x, where=x >= 0)


def prelu(x: Array, slope: Array, out: Array | None = None) -> Array:
    """x above zero, slope * x below, broadcast."""
    with np.errstate(all="ignore"):
        result = np.asarray(np.multiply(x, slope, out=out))
        np.copyto(result, x, where=x >= 0)
    return result


@blockwise
def thresholded_relu(x: Array, out: Array, *, alpha: float) -> None:
    """x above alpha, else 0."""
    out[...] = x
    np.copyto(out, 0, where=x <= np.float64(alpha))  # alpha is not rounded to float32 before it is compared


@blockwise
def elu(x: Array, out: Array, *, alpha: float) -> None:
    """x above zero, alpha * (exp(x) - 1) below."""
    _scaled_elu(x, out, alpha, 1.0)


@blockwise
def selu(x: Array, out: Array, *, alpha: float, gamma: float) -> None:
    """gamma times elu."""
    _scaled_elu(x, out, alpha * gamma, gamma)


def _scaled_elu(x: Array, out: Array, below: float, above: float) -> None:
    np.minimum(x, 0, out=out)
    np.expm1(out, out=out)
    out *= below
    positive = np.maximum(x, 0)
    if above != 1:
        positive *= above
    out += positive


@blockwise
def celu(x: Array, out: Array, *, alpha: float) -> None:
    """max(x, 0) + min(alpha * (exp(x / alpha) - 1), 0)."""
    np.divide(x, alpha, out=out)
    np.expm1(out, out=out)
    out *= alpha
    np.minimum(out, 0, out=out)
    out += np.maximum(x, 0)


def _one_plus_exp(x: Array, factor: float, out: Array) -> None:
    """1 + exp(factor * x): infinite for large arguments, whose reciprocal is then the right limit."""
    if factor == -1:
        np.negative(x, out=out)
    else:
        np.multiply(x, factor, out=out)
    np.exp(out, out=out)
    out += 1


@blockwise
def sigmoid(x: Array, out: Array) -> None:
    """1 / (1 + exp(-x))."""
    _one_plus_exp(x, -1, out)
    np.reciprocal(out, out=out)


@blockwise
def silu(x: Array, out: Array) -> None:
    """x / (1 + exp(-x))."""
    _one_plus_exp(x, -1, out)
    np.divide(x, out, out=out)


@blockwise
def quick_gelu(x: Array, out: Array, *, alpha: float) -> None:
    """x / (1 + exp(-alpha * x))."""
    _one_plus_exp(x, -alpha, out)
    np.divide(x, out, out=out)


def _log1p_exp(x: Array, out: Array) -> None:
    """log(1 + exp(-abs(x))), which never overflows."""
    np.abs(x, out=out)
    np.negative(out, out=out)
    np.exp(out, out=out)
    np.log1p(out, out=out)


@blockwise
def log_sigmoid(x: Array, out: Array) -> None:
    """min(x, 0) - log(1 + exp(-abs(x)))."""
    _log1p_exp(x, out)
    np.subtract(np.minimum(x, 0), out, out=out)


@blockwise
def softplus(x: Array, out: Array) -> None:
    """max(x, 0) + log(1 + exp(-abs(x)))."""
    _log1p_exp(x, out)
    out += np.maximum(x, 0)


@blockwise
def mish(x: Array, out: Array) -> None:
    """x * tanh(softplus(x))."""
    _log1p_exp(x, out)
    out += np.maximum(x, 0)
    np.tanh(out, out=out)
    out *= x


@blockwise
def softsign(x: Array, out: Array) -> None:
    """x / (1 + abs(x))."""
    np.abs(x, out=out)
    out += 1
    np.divide(x, out, out=out)


@blockwise
def erf(x: Array, out: Array) -> None:
    """The error function."""
    error_function.erf(x, out)


@blockwise
def gelu(x: Array, out: Array, *, approximate: str) -> None:
    """x / 2 * (1 + erf(x / sqrt(2))), or its approximation by tanh."""
    if approximate == "tanh":
        np.multiply(x, x, out=out)
        out *= 0.044715 * math.sqrt(2 / math.pi)
        out += math.sqrt(2 / math.pi)
        out *= x
        np.tanh(out, out=out)
    else:
        error_function.erf(np.multiply(x, math.sqrt(0.5)), out)
    out += 1
    out *= np.multiply(x, 0.5)


@blockwise
def hard_sigmoid(x: Array, out: Array, *, alpha: float, beta: float) -> None:
    """alpha * x + beta limited to [0, 1]."""
    np.multiply(x, alpha, out=out)
    out += beta
    np.clip(out, 0, 1, out=out)


@blockwise
def hard_swish(x: Array, out: Array) -> None:
    """x * hard_sigmoid(x, alpha=1/6, beta=0.5)."""
    np.add(x, 3, out=out)
    np.clip(out, 0, 6, out=out)
    out /= 6
    out *= x


@blockwise
def hard_tanh(x: Array, out: Array, *, min_value: float, max_value: float) -> None:
    """x limited to [min_value, max_value]."""
    np.clip(x, min_value, max_value, out=out)


@blockwise
def rsqrt(x: Array, out: Array) -> None:
    """1 / sqrt(x)."""
    np.sqrt(x, out=out)
    np.reciprocal(out, out=out)

"""Normalizations along axes, and softmax. Source of names and formulas: the ONNX operators of the same names, opset 23.

All are composite. They compute narrow floats in float32, and the result has the dtype of ``x``.
Normalizations of the channels of ``[n, c, ...]``, such as batch_normalization, are in channel_normalization.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..cases import Case, Draw, case
from ..errors import SpecError
from ..infer import normalize_axis, require_kind
from ..operation import Call
from ..opfunction import op
from ..spec import Shape, TensorSpec, broadcast
from ._precision import cast_to, computing_dtype
from ._reference import precise
from ._standardize import TOLERANCE, per_element, require_epsilon, scaled, standardized, standardized_oracle
from .arithmetic import Array, abs, add, divide, maximum, multiply, subtract
from .exponential import exp, log, rsqrt, sqrt
from .reduction import max, mean, sum

__all__ = ["layer_normalization", "log_softmax", "lp_normalization", "rms_normalization", "softmax"]


def _require_trailing(shape: Shape, **parameters: TensorSpec | None) -> None:
    """Parameters of a normalization over trailing axes broadcast to the sizes of those axes."""
    for name, spec in parameters.items():
        if spec is None:
            continue
        require_kind(spec, "real floating", name)
        try:
            fits = spec.ndim <= len(shape) and broadcast(spec.shape, shape) == shape
        except SpecError:
            fits = False
        if not fits and spec.is_concrete:
            raise SpecError(f"{name} broadcasts to the normalized axes {shape}; it is {spec!r}.")


def _layer_infer(
    x: TensorSpec, scale: TensorSpec | None, bias: TensorSpec | None, *, axis: int, epsilon: float
) -> TensorSpec:
    require_kind(x, "real floating", "x")
    require_epsilon(epsilon)
    _require_trailing(x.shape[normalize_axis(axis, x.ndim) :], scale=scale, bias=bias)
    return x


def _trailing(rank: int, axis: int) -> tuple[int, ...]:
    return tuple(range(normalize_axis(axis, rank), rank))


def _trailing_elements(call: Call) -> float:
    """How many elements are normalized together, of the axes from ``axis`` to the last."""
    shape = call.output.shape
    return float(math.prod(int(shape[i]) for i in _trailing(len(shape), call.attrs["axis"])))


def _along_axis(call: Call) -> float:
    """How many elements are normalized together, along ``axis``."""
    return float(int(call.output.shape[call.attrs["axis"]]))


def _layer_decompose(
    x: Array, scale: Array | None = None, bias: Array | None = None, *, axis: int = -1, epsilon: float = 1e-5
) -> Array:
    values = cast_to(x, computing_dtype(x.dtype))
    return cast_to(scaled(standardized(values, _trailing(len(x.shape), axis), epsilon), scale, bias), x.dtype)


def _layer_cases() -> list[Case]:
    return [
        case((3, 4), (4,), (4,)),
        case((3, 4)),
        case((2, 3, 4), (4,), None),
        case((2, 3, 4), None, (4,)),
        case((2, 3, 4), (3, 4), (3, 4), axis=1),
        case((2, 3, 4), (4,), (1, 4), axis=-2, epsilon=0.1),
        case((5,), (5,), (5,), axis=0),
        case((0, 4), (4,), (4,)),
        case((3, 0), (0,), (0,)),
        case((33, 129), (129,), (129,)),
        case(Draw((3, 8), "float64"), Draw((8,), "float64"), None),
        case(Draw((3, 8), "float16"), Draw((8,), "float32"), Draw((8,), "float32")),
        case(Draw((3, 8), "bfloat16"), Draw((8,), "bfloat16"), Draw((8,), "bfloat16")),
    ]


@op(
    "layer_normalization",
    infer=_layer_infer,
    decompose=_layer_decompose,
    cost=per_element(8),
    cases=_layer_cases,
    tolerance=TOLERANCE,
    terms=_trailing_elements,
)
def layer_normalization(
    x: Array, scale: Array | None = None, bias: Array | None = None, *, axis: int = -1, epsilon: float = 1e-5
) -> Array:
    """``scale * (x - mean) / sqrt(variance + epsilon) + bias`` with the statistics of the axes from ``axis`` to the last.

    ``scale`` and ``bias`` broadcast to the sizes of those axes. Source: Ba, Kiros and Hinton, arXiv:1607.06450.
    """
    result = standardized_oracle(precise(x), _trailing(np.ndim(x), axis), epsilon)
    result = result if scale is None else result * precise(scale)
    return result if bias is None else result + precise(bias)


def _rms_infer(x: TensorSpec, scale: TensorSpec | None, *, axis: int, epsilon: float) -> TensorSpec:
    return _layer_infer(x, scale, None, axis=axis, epsilon=epsilon)


def _rms_decompose(x: Array, scale: Array | None = None, *, axis: int = -1, epsilon: float = 1e-5) -> Array:
    values = cast_to(x, computing_dtype(x.dtype))
    square = mean(multiply(values, values), axis=_trailing(len(x.shape), axis), keepdims=True)
    return cast_to(scaled(multiply(values, rsqrt(add(square, epsilon))), scale, None), x.dtype)


def _rms_cases() -> list[Case]:
    return [
        case((3, 4), (4,)),
        case((3, 4)),
        case((2, 3, 4), (3, 4), axis=1),
        case((2, 3, 4), (3, 1), axis=-2, epsilon=0.1),
        case((5,), (5,), axis=0),
        case((0, 4), (4,)),
        case((3, 0), (0,)),
        case((33, 129), (129,)),
        case(Draw((3, 8), "float64"), Draw((8,), "float64")),
        case(Draw((3, 8), "float16"), Draw((8,), "float32")),
        case(Draw((3, 8), "bfloat16"), Draw((8,), "bfloat16")),
    ]


@op(
    "rms_normalization",
    infer=_rms_infer,
    decompose=_rms_decompose,
    cost=per_element(5),
    cases=_rms_cases,
    tolerance=TOLERANCE,
    terms=_trailing_elements,
)
def rms_normalization(
    x: Array, scale: Array | None = None, *, axis: int = -1, epsilon: float = 1e-5
) -> Array:
    """``scale * x / sqrt(mean(x * x) + epsilon)`` over the axes from ``axis`` to the last; ``scale`` broadcasts to their sizes.

    Source: Zhang and Sennrich, arXiv:1910.07467.
    """
    values, axes = precise(x), _trailing(np.ndim(x), axis)
    count = np.float64(math.prod(values.shape[a] for a in axes))
    result = values / np.sqrt(np.sum(values * values, axis=axes, keepdims=True) / count + epsilon)
    return result if scale is None else result * precise(scale)


def _lp_infer(x: TensorSpec, *, axis: int, p: int) -> TensorSpec:
    require_kind(x, "real floating")
    normalize_axis(axis, x.ndim)
    if p not in (1, 2):
        raise SpecError(f"p is 1 or 2; found {p!r}.")
    return x


def _lp_decompose(x: Array, *, axis: int = -1, p: int = 2) -> Array:
    dtype = computing_dtype(x.dtype)
    values = cast_to(x, dtype)
    total = sum(abs(values) if p == 1 else multiply(values, values), axis=axis, keepdims=True)
    norm = maximum(
        total if p == 1 else sqrt(total), float(np.finfo(dtype).smallest_normal)
    )  # zeros stay zeros
    return cast_to(divide(values, norm), x.dtype)


def _lp_cases() -> list[Case]:
    return [
        case((3, 4)),
        case((2, 3, 4), axis=1, p=1),
        case((2, 3, 4), axis=-3),
        case((5,), axis=0, p=1),
        case((0, 3)),
        case((3, 0)),
        case(Draw((2, 3), low=0.0, high=0.0)),
        case((33, 129)),
        case(Draw((3, 8), "float64")),
        case(Draw((3, 8), "float16")),
        case(Draw((3, 8), "bfloat16"), axis=0),
    ]


@op(
    "lp_normalization",
    infer=_lp_infer,
    decompose=_lp_decompose,
    cost=per_element(3),
    cases=_lp_cases,
    tolerance=TOLERANCE,
    terms=_along_axis,
)
def lp_normalization(x: Array, *, axis: int = -1, p: int = 2) -> Array:
    """``x`` divided by its 1-norm or 2-norm along ``axis``; where that is zero, zeros stay zeros. ``[...] -> [...]``."""
    values = precise(x)
    norm = np.linalg.norm(values, ord=p, axis=axis, keepdims=True)
    return values / np.where(norm == 0, 1, norm)


def _softmax_infer(x: TensorSpec, *, axis: int) -> TensorSpec:
    require_kind(x, "real floating")
    normalize_axis(axis, x.ndim)
    return x


def _softmax_cases() -> list[Case]:
    return [
        case((3, 4)),
        case((2, 3, 5), axis=1),
        case((2, 3, 5), axis=-3),
        case((7,), axis=0),
        case((4, 1)),
        case((0, 3)),
        case((3, 0)),
        case(Draw((5, 9), low=-80.0, high=80.0)),
        case((33, 257)),
        case(Draw((5, 9), "float64")),
        case(Draw((5, 9), "float16")),
        case(Draw((5, 9), "bfloat16"), axis=0),
    ]


def _below_maximum(x: Array, axis: int) -> Array:
    values = cast_to(x, computing_dtype(x.dtype))
    if x.shape[axis] == 0:  # nothing has no maximum
        return values
    return subtract(values, max(values, axis=axis, keepdims=True))


def _below_maximum_oracle(x: Any, axis: int) -> Any:
    values = precise(x)
    return values - np.max(values, axis=axis, keepdims=True, initial=-np.inf)


def _softmax_decompose(x: Array, *, axis: int = -1) -> Array:
    weights = exp(_below_maximum(x, axis))
    return cast_to(divide(weights, sum(weights, axis=axis, keepdims=True)), x.dtype)


@op(
    "softmax",
    infer=_softmax_infer,
    decompose=_softmax_decompose,
    cost=per_element(5),
    cases=_softmax_cases,
    tolerance=TOLERANCE,
    terms=_along_axis,
)
def softmax(x: Array, *, axis: int = -1) -> Array:
    """``exp(x) / sum(exp(x))`` along ``axis``, without overflow. ``[...] -> [...]``.

    A slice that holds NaN or +inf, or only -inf, gives NaN. Narrow floats are computed in float32.
    """
    weights = np.exp(_below_maximum_oracle(x, axis))
    return weights / np.sum(weights, axis=axis, keepdims=True)


def _log_softmax_decompose(x: Array, *, axis: int = -1) -> Array:
    values = _below_maximum(x, axis)
    return cast_to(subtract(values, log(sum(exp(values), axis=axis, keepdims=True))), x.dtype)


@op(
    "log_softmax",
    infer=_softmax_infer,
    decompose=_log_softmax_decompose,
    cost=per_element(5),
    cases=_softmax_cases,
    tolerance=TOLERANCE,
    terms=_along_axis,
)
def log_softmax(x: Array, *, axis: int = -1) -> Array:
    """``x - log(sum(exp(x)))`` along ``axis``, without overflow. ``[...] -> [...]``.

    A slice that holds NaN or +inf, or only -inf, gives NaN. Narrow floats are computed in float32.
    """
    values = _below_maximum_oracle(x, axis)
    return values - np.log(np.sum(np.exp(values), axis=axis, keepdims=True))

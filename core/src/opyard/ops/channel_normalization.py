"""Normalizations of ``[n, c, ...]`` by channels. Source of names and formulas: the ONNX operators of the same names, opset 22.

All are composite. They compute narrow floats in float32, and the result has the dtype of ``x``.
Normalizations along an axis are in normalization.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..cases import Case, Cost, Draw, case
from ..dim import Dim
from ..errors import SpecError
from ..infer import require_kind
from ..operation import Call
from ..opfunction import op
from ..spec import TensorSpec
from ._attributes import require_integer, require_real
from ._precision import cast_to, computing_dtype
from ._reference import precise
from ._standardize import TOLERANCE, per_element, require_epsilon, scaled, standardized, standardized_oracle
from .arithmetic import Array, add, divide, multiply, subtract
from .exponential import pow, rsqrt
from .pooling import average_pool
from .shape import reshape

__all__ = [
    "batch_normalization",
    "group_normalization",
    "instance_normalization",
    "local_response_normalization",
]


def _require_channels(x: TensorSpec) -> int | Dim:
    require_kind(x, "real floating", "x")
    if x.ndim < 2:
        raise SpecError(f"x is [batch, channels, ...], it is {x!r}; add an axis: expand_dims(x, axis=0).")
    return x.shape[1]


def _require_parameters(channels: int | Dim, **parameters: TensorSpec) -> None:
    for name, spec in parameters.items():
        require_kind(spec, "real floating", name)
        symbolic = isinstance(channels, Dim) or not spec.is_concrete
        if spec.ndim != 1 or (spec.shape[0] != channels and not symbolic):
            raise SpecError(f"{name} is [{channels}], one number for each channel of x; it is {spec!r}.")


def _along_channels(parameter: Array, rank: int) -> tuple[int, ...]:
    """The shape ``[c, 1, ...]``, which broadcasts against ``[n, c, ...]``."""
    return (parameter.shape[0], *(1,) * (rank - 2))


def _batch_infer(
    x: TensorSpec,
    scale: TensorSpec,
    bias: TensorSpec,
    mean: TensorSpec,
    variance: TensorSpec,
    *,
    epsilon: float,
) -> TensorSpec:
    require_epsilon(epsilon)
    _require_parameters(_require_channels(x), scale=scale, bias=bias, mean=mean, variance=variance)
    return x


def _batch_decompose(
    x: Array, scale: Array, bias: Array, mean: Array, variance: Array, *, epsilon: float = 1e-5
) -> Array:
    dtype, rank = computing_dtype(x.dtype), len(x.shape)
    # one multiplication and one addition for each element of x: the rest is per channel, and constant in a model
    factor = multiply(cast_to(scale, dtype), rsqrt(add(cast_to(variance, dtype), epsilon)))
    offset = subtract(cast_to(bias, dtype), multiply(cast_to(mean, dtype), factor))
    shape = _along_channels(scale, rank)
    result = add(multiply(cast_to(x, dtype), reshape(factor, shape=shape)), reshape(offset, shape=shape))
    return cast_to(result, x.dtype)


def _batch_cases() -> list[Case]:
    def of(
        shape: tuple[int, ...], dtype: str = "float32", parameters: str | None = None, **attributes: Any
    ) -> Case:
        channel = (shape[1],)
        own = parameters or dtype
        positive = Draw(channel, own, 0.5, 2.0)
        return case(
            Draw(shape, dtype),
            Draw(channel, own),
            Draw(channel, own),
            Draw(channel, own),
            positive,
            **attributes,
        )

    return [
        *(of((2, 3)), of((2, 3, 7)), of((2, 3, 5, 4)), of((1, 2, 3, 4, 5), epsilon=0.1), of((0, 3, 4))),
        *(
            of((2, 17, 33)),
            of((2, 3, 4), "float64"),
            of((2, 3, 4), "float16", "float32"),
            of((2, 3, 4), "bfloat16"),
        ),
    ]


@op(
    "batch_normalization",
    infer=_batch_infer,
    decompose=_batch_decompose,
    cost=per_element(2),
    cases=_batch_cases,
    tolerance=TOLERANCE,
)
def batch_normalization(
    x: Array, scale: Array, bias: Array, mean: Array, variance: Array, *, epsilon: float = 1e-5
) -> Array:
    """``scale * (x - mean) / sqrt(variance + epsilon) + bias`` with given statistics: batch normalization in inference.

    ``x`` is ``[n, c, ...]``, all others are ``[c]``.
    """
    shape = _along_channels(scale, np.ndim(x))
    factor, offset, centre, spread = (precise(p).reshape(shape) for p in (scale, bias, mean, variance))
    return factor * (precise(x) - centre) / np.sqrt(spread + epsilon) + offset


def _group_infer(
    x: TensorSpec, scale: TensorSpec, bias: TensorSpec, *, groups: int, epsilon: float
) -> TensorSpec:
    channels = _require_channels(x)
    require_epsilon(epsilon)
    require_integer(groups, "groups", 1)
    if isinstance(channels, int) and channels % groups:
        raise SpecError(
            f"groups={groups} does not divide the {channels} channels of x; use one of their divisors."
        )
    _require_parameters(channels, scale=scale, bias=bias)
    return x


def _grouped(shape: tuple[int, ...], groups: int) -> tuple[int, int, int]:
    """The shape ``[n, groups, elements of a group]``."""
    return shape[0], groups, shape[1] // groups * math.prod(shape[2:])


def _group_elements(call: Call) -> float:
    """How many elements are normalized together."""
    return float(math.prod(int(n) for n in call.output.shape[1:]) // int(call.attrs["groups"]))


def _channel_elements(call: Call) -> float:
    """How many elements are normalized together."""
    return float(math.prod(int(n) for n in call.output.shape[2:]))


def _group_decompose(x: Array, scale: Array, bias: Array, *, groups: int, epsilon: float = 1e-5) -> Array:
    dtype, rank = computing_dtype(x.dtype), len(x.shape)
    grouped = reshape(cast_to(x, dtype), shape=_grouped(x.shape, groups))
    result = reshape(standardized(grouped, (2,), epsilon), shape=tuple(x.shape))
    shape = _along_channels(scale, rank)
    return cast_to(scaled(result, reshape(scale, shape=shape), reshape(bias, shape=shape)), x.dtype)


def _group_cases(**groups: int) -> list[Case]:
    return [
        case((2, 4, 5), (4,), (4,), **groups),
        case((2, 4, 5, 3), (4,), (4,), epsilon=0.1, **groups),
        case((1, 6, 3, 2, 3), (6,), (6,), **groups),
        case((0, 4, 3), (4,), (4,), **groups),
        case((2, 8, 17, 9), (8,), (8,), **groups),
        case(Draw((2, 4, 3), "float64"), Draw((4,), "float64"), Draw((4,), "float64"), **groups),
        case(Draw((2, 4, 9), "float16"), Draw((4,), "float16"), Draw((4,), "float16"), **groups),
        case(Draw((2, 4, 9), "bfloat16"), Draw((4,), "float32"), Draw((4,), "float32"), **groups),
    ]


@op(
    "group_normalization",
    infer=_group_infer,
    decompose=_group_decompose,
    cost=per_element(8),
    cases=lambda: [
        *_group_cases(groups=2),
        case((3, 4), (4,), (4,), groups=2),
        case((2, 4, 3), (4,), (4,), groups=1),
        case((2, 4, 3), (4,), (4,), groups=4),
    ],
    tolerance=TOLERANCE,
    terms=_group_elements,
)
def group_normalization(x: Array, scale: Array, bias: Array, *, groups: int, epsilon: float = 1e-5) -> Array:
    """``scale * (x - mean) / sqrt(variance + epsilon) + bias`` with the statistics of each group of channels in each sample.

    ``x`` is ``[n, c, ...]``, ``scale`` and ``bias`` are ``[c]``; ``groups`` divides c. Source: Wu and He, arXiv:1803.08494.
    """
    values = precise(x)
    result = standardized_oracle(values.reshape(_grouped(values.shape, groups)), (2,), epsilon).reshape(
        values.shape
    )
    shape = _along_channels(scale, values.ndim)
    return precise(scale).reshape(shape) * result + precise(bias).reshape(shape)


def _instance_infer(x: TensorSpec, scale: TensorSpec, bias: TensorSpec, *, epsilon: float) -> TensorSpec:
    if x.ndim < 3:
        raise SpecError(f"x is [batch, channels, *spatial] with at least one spatial axis; it is {x!r}.")
    return _group_infer(x, scale, bias, groups=1, epsilon=epsilon)


def _instance_decompose(x: Array, scale: Array, bias: Array, *, epsilon: float = 1e-5) -> Array:
    rank, shape = len(x.shape), _along_channels(scale, len(x.shape))
    result = standardized(cast_to(x, computing_dtype(x.dtype)), tuple(range(2, rank)), epsilon)
    return cast_to(scaled(result, reshape(scale, shape=shape), reshape(bias, shape=shape)), x.dtype)


@op(
    "instance_normalization",
    infer=_instance_infer,
    decompose=_instance_decompose,
    cost=per_element(8),
    cases=_group_cases,
    tolerance=TOLERANCE,
    terms=_channel_elements,
)
def instance_normalization(x: Array, scale: Array, bias: Array, *, epsilon: float = 1e-5) -> Array:
    """``scale * (x - mean) / sqrt(variance + epsilon) + bias`` with the statistics of each channel of each sample.

    ``x`` is ``[n, c, *spatial]``, ``scale`` and ``bias`` are ``[c]``. Source: Ulyanov et al., arXiv:1607.08022.
    """
    values = precise(x)
    shape = _along_channels(scale, values.ndim)
    result = standardized_oracle(values, tuple(range(2, values.ndim)), epsilon)
    return precise(scale).reshape(shape) * result + precise(bias).reshape(shape)


def _response_infer(x: TensorSpec, *, size: int, alpha: float, beta: float, bias: float) -> TensorSpec:
    _require_channels(x)
    require_integer(size, "size", 1)
    for name, value in (("alpha", alpha), ("beta", beta), ("bias", bias)):
        require_real(value, name)
    return x


def _response_decompose(
    x: Array, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Array:
    values = cast_to(x, computing_dtype(x.dtype))
    n, c, *spatial = x.shape
    squares = reshape(multiply(values, values), shape=(n, 1, c, math.prod(spatial)))
    # with padding counted, each window's mean is its sum over size
    window = average_pool(
        squares,
        kernel=(size, 1),
        strides=1,
        padding=(((size - 1) // 2, size // 2), (0, 0)),
        count_include_pad=True,
    )
    divisor = pow(
        add(multiply(reshape(window, shape=tuple(x.shape)), float(alpha)), float(bias)), float(beta)
    )
    return cast_to(divide(values, divisor), x.dtype)


def _response_cases() -> list[Case]:
    return [
        case((2, 5, 3, 4), size=3),
        case((2, 5, 3), size=2, alpha=0.5, beta=0.5, bias=2.0),
        case((2, 3), size=5, alpha=1.0),
        case((1, 4, 2, 2, 2), size=1, alpha=1.0, beta=1.0),
        case((0, 5, 3), size=3),
        case((1, 17, 9, 11), size=5, alpha=0.1),
        case(Draw((1, 5, 3), "float64"), size=3, alpha=0.5),
        case(Draw((1, 5, 3), "float16"), size=3, alpha=0.5),
        case(Draw((1, 5, 3), "bfloat16"), size=4, alpha=0.5),
    ]


@op(
    "local_response_normalization",
    infer=_response_infer,
    decompose=_response_decompose,
    cost=lambda call: Cost(int(call.output.size) * (call.attrs["size"] + 5.0), call.bytes),
    cases=_response_cases,
    tolerance=TOLERANCE,
    terms=lambda call: float(call.attrs["size"]),
)
def local_response_normalization(
    x: Array, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Array:
    """``x / (bias + alpha / size * sum(x * x)) ** beta``, the sum over the ``size`` channels nearest to each. ``[n, c, ...]``.

    For an even size the window has one channel more after than before. ONNX calls it LRN. Source: Krizhevsky, Sutskever and
    Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", 2012, section 3.3.
    """
    values = precise(x)
    squares, channels = values * values, values.shape[1]
    total = np.zeros_like(values)
    for channel in range(channels):
        nearest = slice(max(0, channel - (size - 1) // 2), channel + size // 2 + 1)
        total[:, channel] = squares[:, nearest].sum(axis=1)
    return values / (bias + alpha / size * total) ** beta

"""What the normalizations share: the standardization itself, its checks and its cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..cases import Cost, Tolerance
from ..operation import Call
from ._attributes import require_real
from ._precision import cast_to
from .arithmetic import Array, add, multiply, subtract
from .exponential import rsqrt
from .reduction import mean

TOLERANCE = Tolerance(8, scaled=True)


def per_element(flops: float) -> Callable[[Call], Cost]:
    return lambda call: Cost(flops * int(call.output.size), call.bytes)


def require_epsilon(epsilon: Any) -> None:
    require_real(epsilon, "epsilon", low=0.0)


def standardized(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    """``x`` less its mean over ``axes``, divided by its standard deviation there."""
    centred = subtract(x, mean(x, axis=axes, keepdims=True))
    variance = mean(multiply(centred, centred), axis=axes, keepdims=True)
    return multiply(centred, rsqrt(add(variance, epsilon)))


def standardized_oracle(x: Any, axes: tuple[int, ...], epsilon: float) -> Any:
    count = math.prod(x.shape[axis] for axis in axes)
    centred = x - np.sum(x, axis=axes, keepdims=True) / np.float64(count)
    return centred / np.sqrt(
        np.sum(centred * centred, axis=axes, keepdims=True) / np.float64(count) + epsilon
    )


def scaled(values: Array, scale: Array | None, bias: Array | None) -> Array:
    dtype = values.dtype
    if scale is not None:
        values = multiply(values, cast_to(scale, dtype))
    return values if bias is None else add(values, cast_to(bias, dtype))

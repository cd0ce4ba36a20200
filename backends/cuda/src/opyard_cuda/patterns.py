"""What the fused kernels of cuBLASLt compute, as functions over ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import opyard as oy


def bias(x: Any, weight: Any, bias: Any) -> Any:
    """The pattern ``x @ weight + bias``."""
    return oy.add(oy.matmul(x, weight), bias)


def relu(x: Any, weight: Any) -> Any:
    """The pattern ``relu(x @ weight)``."""
    return oy.relu(oy.matmul(x, weight))


def gelu(x: Any, weight: Any) -> Any:
    """The pattern ``gelu(x @ weight)``, by tanh."""
    return oy.gelu(oy.matmul(x, weight), approximate="tanh")


def bias_relu(x: Any, weight: Any, bias: Any) -> Any:
    """The pattern ``relu(x @ weight + bias)``."""
    return oy.relu(oy.add(oy.matmul(x, weight), bias))


def bias_gelu(x: Any, weight: Any, bias: Any) -> Any:
    """The pattern ``gelu(x @ weight + bias)``, by tanh."""
    return oy.gelu(oy.add(oy.matmul(x, weight), bias), approximate="tanh")


PATTERNS: tuple[Callable[..., Any], ...] = (bias, relu, gelu, bias_relu, bias_gelu)

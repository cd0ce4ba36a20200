"""What the products in Triton compute, as functions over ops: an attribute at its default matches any value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import opyard as oy

from ..patterns import bias, bias_relu, relu


def gelu(x: Any, weight: Any) -> Any:
    """The pattern ``gelu(x @ weight)``, by tanh or by the error function."""
    return oy.gelu(oy.matmul(x, weight))


def bias_gelu(x: Any, weight: Any, bias: Any) -> Any:
    """The pattern ``gelu(x @ weight + bias)``, by tanh or by the error function."""
    return oy.gelu(oy.add(oy.matmul(x, weight), bias))


def bias_silu(x: Any, weight: Any, bias: Any) -> Any:
    """The pattern ``silu(x @ weight + bias)``."""
    return oy.silu(oy.add(oy.matmul(x, weight), bias))


PATTERNS: tuple[Callable[..., Any], ...] = (bias, relu, bias_relu, gelu, bias_gelu, bias_silu)

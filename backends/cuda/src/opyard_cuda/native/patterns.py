"""Patterns that ``rows.py`` has kernels for. Imported when the plugin registers, so it imports nothing heavy."""

from __future__ import annotations

from typing import Any

from opyard.ops import STANDARD


def add_layer_normalization(x: Any, residual: Any, scale: Any, bias: Any) -> Any:
    """Pattern: a sum and its layer normalization."""
    total = STANDARD["add"](x, residual)
    return total, STANDARD["layer_normalization"](total, scale, bias)


def add_rms_normalization(x: Any, residual: Any, scale: Any) -> Any:
    """Pattern: a sum and its RMS normalization."""
    total = STANDARD["add"](x, residual)
    return total, STANDARD["rms_normalization"](total, scale)

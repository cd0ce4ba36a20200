"""Products of matrices and tensors, by cuBLAS. It sums float16 in float32."""

from __future__ import annotations

from typing import Any

from ..array_module import xp
from .reductions import wide


def matmul(x1: Any, x2: Any) -> Any:
    """Matrix product; a 1-d operand is a row on the left and a column on the right."""
    return xp().matmul(x1, x2)


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """``x @ weight + bias``."""
    product = xp().matmul(x, weight)
    return product if bias is None else product + bias


def einsum(*operands: Any, equation: str) -> Any:
    """Products of the operands, summed over every index that the output leaves out."""
    dtype = xp().result_type(*(operand.dtype for operand in operands))
    return xp().einsum(equation, *(wide(operand) for operand in operands)).astype(dtype)

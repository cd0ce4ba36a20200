"""Matrix products with something around them; matmul itself is np.matmul."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def linear(x: Array, weight: Array, bias: Array | None = None, out: Array | None = None) -> Array:
    """x @ weight + bias, the bias added in place."""
    product = np.matmul(x, weight, out=out)
    if bias is None:
        return product
    # a wider bias widens the result, which then has to be another array
    return np.add(product, bias, out=product if product.dtype == np.result_type(product, bias) else None)


def einsum(*operands: Array, equation: str, out: Array | None = None) -> Array:
    """Sums of products, on BLAS where two operands at a time allow it; more than two are contracted in a good order."""
    return np.einsum(equation, *operands, optimize=True, out=out)

"""Scaled dot-product attention on BLAS: a block of query rows at a time, softmax in place.

Only the scores of one block exist at any time: M. N. Rabe, C. Staats, "Self-attention Does Not Need O(n^2) Memory",
arXiv:2112.05682, with whole rows, so that no running maximum is needed.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call

Array = np.ndarray[Any, Any]

SCORE_BYTES = 1 << 20
"""Size of a block of scores, which is passed over six times."""

LEAST_ROWS = 32
"""Fewer rows than this make a matrix product too narrow for BLAS."""


def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    *,
    causal: bool,
    scale: float | None,
    out: Array | None = None,
) -> Array:
    """softmax(query @ key.T * scale + mask) @ value. ``[b, h, l, e], [b, g, s, e], [b, g, s, v] -> [b, h, l, v]``."""
    batch, heads, length, width = query.shape
    keys = key.shape[2]
    result = np.empty((batch, heads, length, value.shape[3]), query.dtype) if out is None else out
    factor = scale if scale is not None else 1.0 / math.sqrt(width) if width else 1.0
    masks = None if mask is None else np.broadcast_to(mask, (batch, heads, length, keys))
    shared = heads // key.shape[1] if key.shape[1] else 1
    rows = max(LEAST_ROWS, SCORE_BYTES // max(1, keys * query.itemsize))
    with np.errstate(all="ignore"):
        for b, h, start in product(range(batch), range(heads), range(0, length, rows)):
            end = min(length, start + rows)
            seen = min(keys, end) if causal else keys  # no query of this block sees a later key
            scores = np.matmul(query[b, h, start:end] * factor, key[b, h // shared, :seen].T)
            if masks is not None:
                _apply_mask(scores, masks[b, h, start:end, :seen])
            if causal:
                scores[~np.tri(end - start, seen, start, dtype=bool)] = -np.inf
            total = _exponentials(scores)
            np.divide(np.matmul(scores, value[b, h // shared, :seen]), total, out=result[b, h, start:end])
    return result


def _apply_mask(scores: Array, mask: Array) -> None:
    if mask.dtype.kind == "b":
        scores[~mask] = -np.inf
    else:
        scores += mask


def _exponentials(scores: Array) -> Array:
    """Replaces scores by their exponentials, less the largest of the row, and gives the sums ``[rows, 1]``, never 0.

    Rows without any visible key become zeros.
    """
    highest = np.max(scores, axis=-1, keepdims=True, initial=-np.inf)
    highest[highest == -np.inf] = 0
    scores -= highest
    np.exp(scores, out=scores)
    total = np.add.reduce(scores, axis=-1, keepdims=True)
    total[total == 0] = 1
    return total


def accepts(call: Call, device: Device) -> str | None:
    """float32 or float64 throughout; a boolean mask, or one of that dtype."""
    dtype = call.output.dtype
    if dtype.name not in ("float32", "float64"):
        return f"takes float32 or float64, not {dtype.name}"
    for name, spec in zip(call.op.signature.inputs, call.inputs, strict=True):
        if spec is not None and spec.dtype != dtype and not (name == "mask" and spec.dtype.kind == "b"):
            return f"takes {name} of {dtype.name}, not {spec.dtype.name}"
    return None

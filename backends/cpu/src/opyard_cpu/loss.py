"""The cross entropy of classes and its gradient: a label is looked up, and never compared with all classes."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def _rows(logits: Array, labels: Array, axis: int) -> tuple[Array, Array, Array]:
    """Logits less their greatest, ``[rows, classes]``, their exponentials, and where the labels are among the elements."""
    moved = np.moveaxis(logits, axis, -1)
    classes = moved.shape[-1]
    rows = np.ascontiguousarray(moved).reshape(-1, classes)
    shifted = rows - rows.max(axis=1, keepdims=True)
    places = np.arange(0, shifted.size, classes) + labels.reshape(-1).astype(np.int64)
    return shifted, np.exp(shifted), places


def softmax_cross_entropy(logits: Array, labels: Array, *, axis: int, reduction: str) -> Array:
    """The logarithm of the sum of exponentials, less the logit of the label."""
    with np.errstate(all="ignore"):
        shifted, exponentials, places = _rows(logits, labels, axis)
        losses = np.log(exponentials.sum(axis=1)) - shifted.take(places)
        if reduction == "none":
            return np.asarray(losses.reshape(labels.shape))
        total: Any = losses.sum()
        return np.asarray(total / losses.dtype.type(losses.size) if reduction == "mean" else total)


def softmax_cross_entropy_gradient(logits: Array, labels: Array, g: Array, *, axis: int) -> Array:
    """The softmax, less one where the label is, times the cotangent of each loss."""
    with np.errstate(all="ignore"):
        _, weights, places = _rows(logits, labels, axis)
        weights /= weights.sum(axis=1, keepdims=True)
        weights.reshape(-1)[places] -= 1
        weights *= g.reshape(-1, 1)
    moved = np.moveaxis(logits, axis, -1)
    return np.ascontiguousarray(np.moveaxis(weights.reshape(moved.shape), -1, axis))

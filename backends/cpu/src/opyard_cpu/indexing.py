"""Reading by position."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def gather(x: Array, indices: Array, *, axis: int) -> Array:
    """The parts of ``x`` at ``indices`` along ``axis``. Raises IndexError for an index out of range."""
    return np.take(x, _positions(indices), axis=axis)


def embedding(indices: Array, table: Array) -> Array:
    """The rows of a table. Raises IndexError for an index out of range."""
    return np.take(table, _positions(indices), axis=0)


def take_along_axis(x: Array, indices: Array, *, axis: int) -> Array:
    """``x[i, indices[i, j]]`` for axis 1, and so on."""
    return np.take_along_axis(x, _positions(indices), axis)


def _positions(indices: Array) -> Array:
    # NumPy takes no uint64, for it has no safe cast to its index type
    return indices.astype(np.int64) if indices.dtype.kind != "i" else indices

"""Sorting and selection. NaN counts as greater than every number, and the first of equal elements comes first."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def sort(x: Array, *, axis: int, descending: bool) -> Array:
    """The elements along ``axis`` in order. NumPy's default sort is not stable, which equal numbers do not show."""
    result = np.sort(x, axis=axis)
    return np.flip(result, axis) if descending else result


def argsort(x: Array, *, axis: int, descending: bool) -> Array:
    """Positions that sort ``x``, stable. A descending stable sort is an ascending one from the back, read backwards."""
    if not descending:
        return np.argsort(x, axis=axis, kind="stable")
    order = np.argsort(np.flip(x, axis), axis=axis, kind="stable")
    return np.flip(np.subtract(x.shape[axis] - 1, order, out=order), axis)


def top_k(x: Array, *, k: int, axis: int, largest: bool, sorted: bool) -> tuple[Array, Array]:
    """The ``k`` largest (or smallest) elements and their positions: a selection, then a sort of what it leaves."""
    rows = np.moveaxis(x, axis, -1)
    if k > rows.shape[-1]:
        raise ValueError(f"there are {rows.shape[-1]} elements along axis {axis}, not {k}")
    if 0 < k < rows.shape[-1] and rows.size and not (x.dtype.kind == "f" and np.isnan(x).any()):
        positions = _select(rows, k, largest)
        values = np.take_along_axis(rows, positions, -1)
    else:  # NaN compares with nothing, so only a sort can place it
        positions, values = np.broadcast_to(np.arange(rows.shape[-1]), rows.shape), rows
    order = argsort(values, axis=-1, descending=largest)[..., :k]
    values, positions = np.take_along_axis(values, order, -1), np.take_along_axis(positions, order, -1)
    return np.moveaxis(values, -1, axis), np.moveaxis(positions, -1, axis)


def _select(rows: Array, k: int, largest: bool) -> Array:
    """Positions of the ``k`` extreme elements of each row in ascending order, the first of equals preferred."""
    place = rows.shape[-1] - k if largest else k - 1
    limit = np.partition(rows, place, axis=-1)[..., place, None]
    chosen = rows >= limit if largest else rows <= limit
    surplus = np.count_nonzero(chosen, axis=-1, keepdims=True) - k
    if surplus.any():  # more elements equal the limit than there is room for: the last ones have to go
        equal = rows == limit
        room = np.count_nonzero(equal, axis=-1, keepdims=True) - surplus
        chosen &= ~equal | (np.cumsum(equal, axis=-1) <= room)
    return np.nonzero(chosen)[-1].reshape(*rows.shape[:-1], k)

"""Sorting. CuPy's sorts are stable, and place NaN last, as NumPy's do."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..array_module import xp


def sort(x: Any, *, axis: int, descending: bool) -> Any:
    """The elements in order. Equal ones cannot be told apart, so a descending order is an ascending one reversed."""
    if x.size == 0:
        return x.copy()
    ordered = xp().sort(x, axis=axis)
    return xp().flip(ordered, axis) if descending else ordered


def argsort(x: Any, *, axis: int, descending: bool) -> Any:
    """Positions of the elements in order. A descending stable sort is an ascending one from the back, read backwards."""
    if x.size == 0:
        return xp().zeros(x.shape, np.int64)
    if not descending:
        return xp().argsort(x, axis=axis, kind="stable").astype(np.int64)
    order = xp().argsort(xp().flip(x, axis), axis=axis, kind="stable")
    return xp().flip(x.shape[axis] - 1 - order, axis).astype(np.int64)


def top_k(x: Any, *, k: int, axis: int, largest: bool, sorted: bool) -> tuple[Any, Any]:
    """The first elements of a stable order, and their positions. They are always sorted."""
    order = argsort(x, axis=axis, descending=largest)
    order = order[(*(slice(None),) * (axis % x.ndim), slice(k))]
    return xp().take_along_axis(x, order, axis), order

"""Subscripts of graph values, ``x[:, 0, None, ::2]``, in terms of the ops slice, squeeze and expand_dims."""

from __future__ import annotations

from typing import Any

import numpy as np

from .dim import Dim
from .errors import SpecError
from .ops import shape, slicing
from .spec import Shape


def subscript(x: Any, key: Any, sizes: Shape) -> Any:
    """``x[key]`` with NumPy's meaning for integers, slices, ``...`` and None. Raises SpecError for anything else."""
    parts = _full(tuple(map(_plain, key)) if isinstance(key, tuple) else (_plain(key),), len(sizes))
    axes, bounds, dropped, added = [], [], [], []
    axis = position = 0
    for part in parts:
        if part is None:
            added.append(position)
            position += 1
            continue
        if isinstance(part, int):
            dropped.append(axis)
            part = _one(part, sizes[axis], axis)
        else:
            position += 1
        if part != slice(None):
            axes.append(axis)
            bounds.append(_limits(part, sizes[axis]))
        axis += 1
    if axes:
        starts, stops, steps = zip(*bounds, strict=True)
        x = slicing.slice(x, starts=starts, stops=stops, axes=tuple(axes), steps=steps)
    if dropped:
        x = shape.squeeze(x, axis=tuple(dropped))
    return shape.expand_dims(x, axis=tuple(added)) if added else x


def _full(key: tuple[Any, ...], rank: int) -> list[Any]:
    """The key with ``...`` written out, one part for each axis and None where an axis is added."""
    if key.count(Ellipsis) > 1:
        raise SpecError("a subscript holds '...' at most once.")
    used = sum(part is not None and part is not Ellipsis for part in key)
    if used > rank:
        raise SpecError(f"{used} subscripts were given for a tensor of rank {rank}.")
    at = key.index(Ellipsis) if Ellipsis in key else len(key)
    return [*key[:at], *[slice(None)] * (rank - used), *key[at + 1 :]]


def _plain(part: Any) -> Any:
    """A part of a key, with Python integers for NumPy's. Raises SpecError for what is no part of one."""
    if part is None or part is Ellipsis:
        return part
    if isinstance(part, slice):
        bounds = [_integer(bound) for bound in (part.start, part.stop, part.step)]
        if any(bound is _NO_INTEGER for bound in bounds) or bounds[2] == 0:
            raise SpecError(
                f"the start, stop and step of a slice are integers or None, the step not 0; found {part!r}. For places that are computed use gather(x, indices, axis=...)."
            )
        return slice(*bounds)
    integer = _integer(part)
    if not isinstance(integer, int):
        raise SpecError(
            f"a graph's value takes integers, slices, ... and None as subscripts, not {type(part).__name__}; use gather(x, indices, axis=...) or where(...)."
        )
    return integer


_NO_INTEGER = object()


def _integer(part: Any) -> Any:
    if part is None or isinstance(part, Dim):
        return part
    whole = isinstance(part, (int, np.integer)) and not isinstance(part, bool)
    return int(part) if whole else _NO_INTEGER


def _one(index: int, size: Any, axis: int) -> slice:
    if isinstance(size, int) and not -size <= index < size:
        raise SpecError(f"subscript {index} is out of range for axis {axis} of size {size}.")
    return slice(index, index + 1 if index != -1 else None)


def _limits(part: slice, size: Any) -> tuple[Any, Any, int]:
    """Start, stop and step. Where the size is a number they are clamped as Python does; None is an open end."""
    step = 1 if part.step is None else part.step
    if not isinstance(size, int):
        return part.start, part.stop, step
    start, stop, step = part.indices(size)
    if len(range(start, stop, step)) == 0:
        return 0, 0, 1
    return start, None if stop < 0 else stop, step

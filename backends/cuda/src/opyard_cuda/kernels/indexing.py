"""Reading and writing of elements by position. CuPy does not check indices: one out of range wraps around, silently."""

from __future__ import annotations

from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call

from ..array_module import xp


def _along(axis: int, rank: int) -> tuple[int, ...]:
    """The shape of a vector that lies along one axis of ``rank`` axes."""
    return tuple(-1 if i == axis % rank else 1 for i in range(rank))


def gather(x: Any, indices: Any, *, axis: int) -> Any:
    """The parts of ``x`` at ``indices`` along ``axis``."""
    return xp().take(x, indices.astype(np.int64), axis=axis)


def embedding(indices: Any, table: Any) -> Any:
    """The rows of a table."""
    return gather(table, indices, axis=0)


def gather_nd(x: Any, indices: Any, *, batch_dims: int) -> Any:
    """The parts of ``x`` at index tuples, which lie along the last axis of ``indices``."""
    rank = indices.ndim - 1
    batches = [xp().arange(x.shape[b]).reshape(_along(b, rank)) for b in range(batch_dims)]
    return x[(*batches, *(indices[..., d].astype(np.int64) for d in range(indices.shape[-1])))]


def take_along_axis(x: Any, indices: Any, *, axis: int) -> Any:
    """``x[i, indices[i, j]]`` and so on; the other axes are broadcast."""
    place = axis % x.ndim
    shape = [max(n, m) if n and m else 0 for n, m in zip(x.shape, indices.shape, strict=True)]
    sources = xp().broadcast_to(x, (*shape[:place], x.shape[place], *shape[place + 1 :]))
    places = xp().broadcast_to(
        indices.astype(np.int64), (*shape[:place], indices.shape[place], *shape[place + 1 :])
    )
    return xp().take_along_axis(sources, places, axis)


def _above_diagonal(x: Any) -> Any:
    """How far each element lies above the main diagonal: ``[m, n]``."""
    return xp().arange(x.shape[-1]) - xp().arange(x.shape[-2])[:, None]


def tril(x: Any, *, k: int) -> Any:
    """The lower triangles of matrices."""
    return xp().where(_above_diagonal(x) <= k, x, xp().zeros((), x.dtype))


def triu(x: Any, *, k: int) -> Any:
    """The upper triangles of matrices."""
    return xp().where(_above_diagonal(x) >= k, x, xp().zeros((), x.dtype))


def one_hot(indices: Any, *, depth: int, on_value: complex, off_value: complex, axis: int, dtype: str) -> Any:
    """``on_value`` at the index and ``off_value`` elsewhere along a new axis."""
    wanted = indices.astype(np.int64)
    wanted = xp().expand_dims(xp().where(wanted < 0, wanted + depth, wanted), axis)
    places = xp().arange(depth).reshape(_along(axis, wanted.ndim))
    return xp().where(wanted == places, xp().full((), on_value, dtype), xp().full((), off_value, dtype))


def accepts_scatter(call: Call, device: Device) -> str | None:
    """CuPy adds by atomic operations, which it has for some dtypes only, and does not multiply so."""
    reduction, dtype = call.attrs["reduction"], call.output.dtype.name
    if reduction not in ("none", "add"):
        return f"overwrites or adds, reduction={reduction!r} is neither"
    if reduction == "add" and dtype not in ("float32", "float64", "int32", "uint32", "uint64"):
        return f"adds float32, float64, int32, uint32 and uint64, not {dtype}"
    return None


def _write(x: Any, position: tuple[Any, ...], updates: Any, reduction: str) -> Any:
    result = x.copy()
    if updates.size == 0:
        return result
    if reduction == "none":
        result[position] = updates
    else:
        xp().add.at(result, position, updates)
    return result


def scatter(x: Any, indices: Any, updates: Any, *, axis: int, reduction: str) -> Any:
    """``x`` with ``updates`` written or added at positions along ``axis``."""
    grid = [xp().arange(n).reshape(_along(d, x.ndim)) for d, n in enumerate(indices.shape)]
    grid[axis] = indices.astype(np.int64)
    return _write(x, tuple(grid), updates, reduction)


def scatter_nd(x: Any, indices: Any, updates: Any, *, reduction: str) -> Any:
    """``x`` with ``updates`` written or added at index tuples."""
    position = tuple(indices[..., d].astype(np.int64) for d in range(indices.shape[-1]))
    return _write(x, position, updates, reduction)

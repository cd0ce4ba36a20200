"""Gradients of reading and writing by position: what was read is added where it was read, what was written is read back."""

from __future__ import annotations

from typing import Any

from ...infer import normalize_axis
from ...spec import broadcast
from ..arithmetic import Array, constant_like, divide
from ..comparison import equal
from ..creation import iota
from ..indexing import gather, gather_nd, take_along_axis
from ..joining import concat
from ..scattering import scatter, scatter_nd
from ..selection import where
from ..shape import broadcast_to, expand_dims, permute_dims, reshape
from ..slicing import slice
from ..windows import require_numbers
from ._sizes import filled


def _gather(g: Array, y: Array, x: Array, indices: Array, *, axis: int) -> Any:
    along = normalize_axis(axis, x.ndim)
    looked_up = tuple(range(along, along + indices.ndim))
    others = tuple(a for a in range(g.ndim) if a not in looked_up)
    order = (along, *(a for a in range(x.ndim) if a != along))
    parts = permute_dims(g, axes=(*looked_up, *others))
    room = filled(0, tuple(x.shape[a] for a in order), x)
    found = scatter_nd(room, expand_dims(indices, axis=-1), parts, reduction="add")
    return permute_dims(found, axes=tuple(order.index(a) for a in range(x.ndim))), None


def _gather_nd(g: Array, y: Array, x: Array, indices: Array, *, batch_dims: int) -> Any:
    positions = indices
    if batch_dims:
        # the batch axes, too, as index tuples
        shape = tuple(indices.shape[:-1])
        grid = [
            reshape(iota(size=shape[b]), shape=tuple(shape[b] if a == b else 1 for a in range(len(shape))))
            for b in range(batch_dims)
        ]
        columns = [expand_dims(broadcast_to(line, shape=shape), axis=-1) for line in grid]
        positions = concat(*columns, indices, axis=-1)
    return scatter_nd(filled(0, x.shape, x), positions, g, reduction="add"), None


def _take_along_axis(g: Array, y: Array, x: Array, indices: Array, *, axis: int) -> Any:
    along = normalize_axis(axis, x.ndim)
    rest = broadcast(*(tuple(1 if a == along else n for a, n in enumerate(v.shape)) for v in (x, indices)))
    room = filled(0, (*rest[:along], x.shape[along], *rest[along + 1 :]), x)
    positions = broadcast_to(indices, shape=tuple(y.shape))
    return scatter(room, positions, g, axis=along, reduction="add"), None


def _scatter(
    g: Array, y: Array, x: Array, indices: Array, updates: Array, *, axis: int, reduction: str
) -> Any:
    def write(target: Array, values: Array, how: str) -> Array:
        return scatter(target, indices, values, axis=axis, reduction=how)

    def read(source: Array) -> Array:
        along = normalize_axis(axis, x.ndim)
        short = tuple(a for a in range(x.ndim) if a != along and indices.shape[a] != x.shape[a])
        if short:  # on these axes only the first parts were written to
            require_numbers("the indices", tuple(indices.shape[a] for a in short))
            stops = tuple(indices.shape[a] for a in short)
            source = slice(source, starts=(0,) * len(short), stops=stops, axes=short)
        return take_along_axis(source, indices, axis=along)

    return _written(g, y, x, updates, reduction, write, read)


def _scatter_nd(g: Array, y: Array, x: Array, indices: Array, updates: Array, *, reduction: str) -> Any:
    def write(target: Array, values: Array, how: str) -> Array:
        return scatter_nd(target, indices, values, reduction=how)

    return _written(g, y, x, updates, reduction, write, lambda source: gather_nd(source, indices))


def _written(g: Array, y: Array, x: Array, updates: Array, reduction: str, write: Any, read: Any) -> Any:
    """The cotangents of target, indices and updates; ``write`` and ``read`` are the op and its inverse at the indices."""
    nothing = constant_like(0, x)
    if reduction == "add":
        return g, None, lambda: read(g)
    if reduction == "none":  # each element is written at most once
        return lambda: write(g, filled(0, updates.shape, x), "none"), None, lambda: read(g)
    if reduction == "mul":
        return (
            lambda: g * write(_ones(x), updates, "mul"),
            None,
            lambda: _of_factors(g, x, updates, write, read),
        )
    # the extremum's origin, be it the target or updates, gets the cotangent; several share it
    of_updates = equal(updates, read(y))
    one = constant_like(1, x)
    of_target = where(equal(x, y), one, nothing)
    winners = write(
        of_target, where(of_updates, one, broadcast_to(nothing, shape=tuple(updates.shape))), "add"
    )
    share = divide(g, winners)
    return (
        lambda: where(equal(x, y), share, nothing),
        None,
        lambda: where(of_updates, read(share), nothing),
    )


def _ones(x: Array) -> Array:
    return filled(1, x.shape, x)


def _of_factors(g: Array, x: Array, updates: Array, write: Any, read: Any) -> Array:
    """For each update the product of all others of its element, and of the element itself; zeros are counted, not divided by."""
    zero, one = constant_like(0, x), constant_like(1, x)
    is_zero = equal(updates, zero)
    factors = where(is_zero, one, updates)
    product = read(write(x, factors, "mul"))
    count = read(write(filled(0, x.shape, x), where(is_zero, one, zero), "add"))
    without_zeros = where(equal(count, zero), divide(product, factors), zero)
    return read(g) * where(is_zero, where(equal(count, one), product, zero), without_zeros)


RULES = {
    gather.op: _gather,
    gather_nd.op: _gather_nd,
    take_along_axis.op: _take_along_axis,
    scatter.op: _scatter,
    scatter_nd.op: _scatter_nd,
}

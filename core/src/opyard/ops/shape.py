"""Other shapes for the same elements in the same row-major order, and permutations of axes: mostly views.

Source of names and meaning: Python array API standard 2024.12; flatten: ONNX Flatten.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cases import Case, Cost, Draw, case
from ..dim import Dim
from ..errors import SpecError
from ..infer import normalize_axes, normalize_axis
from ..operation import Call
from ..opfunction import op
from ..spec import Shape, TensorSpec, broadcast
from ._attributes import require_integer, require_integers, require_shape
from .arithmetic import BITWISE, Array

__all__ = [
    "broadcast_to",
    "expand_dims",
    "flatten",
    "matrix_transpose",
    "moveaxis",
    "permute_dims",
    "reshape",
    "squeeze",
]


def moves(call: Call) -> Cost:
    """Cost of an op that only moves elements: no arithmetic."""
    return Cost(0.0, call.bytes)


def _infer_reshape(x: TensorSpec, *, shape: Any) -> TensorSpec:
    sizes = require_shape(shape, minimum=-1)
    size, known = x.size, TensorSpec(n for n in sizes if n != -1).size
    if sizes.count(-1) > 1:
        raise SpecError(f"shape={shape} has more than one -1; only one size can follow from the others.")
    if -1 not in sizes:
        if x.is_concrete and not isinstance(known, Dim) and size != known:
            raise SpecError(
                f"{x!r} has {size} elements, shape={shape} has {known}; write -1 for the size that is to follow."
            )
        return x.with_shape(sizes)
    if known == 0:
        raise SpecError(
            f"shape={shape} does not say what -1 is, because another size is 0; write the number instead."
        )
    if x.is_concrete and not isinstance(known, Dim) and int(size) % known:
        raise SpecError(
            f"{x!r} has {size} elements, which {known} does not divide: shape={shape} is impossible."
        )
    return x.with_shape(size // known if n == -1 else n for n in sizes)


def _reshape_cases() -> list[Case]:
    return [
        *(
            case((3, 4), shape=(4, 3)),
            case((2, 3, 4), shape=(-1, 6)),
            case((2, 3, 4), shape=(24,)),
            case((), shape=(1, 1)),
        ),
        *(
            case((1,), shape=()),
            case((0, 3), shape=(3, 0)),
            case((0, 3), shape=(-1, 3)),
            case((17, 33), shape=(33, -1)),
        ),
        case(Draw((4, 6), "int64"), shape=(2, -1, 3)),
        case(Draw((4, 6), "bfloat16"), shape=(8, 3)),
        case(Draw((4,), "bool"), shape=(2, 2)),
    ]


@op("reshape", infer=_infer_reshape, cost=moves, cases=_reshape_cases, tolerance=BITWISE)
def reshape(x: Array, *, shape: Shape) -> Array:
    """The same elements in row-major order under another shape; one size may be -1 and follows from the others."""
    return np.reshape(x, shape)


def _infer_permute_dims(x: TensorSpec, *, axes: Any) -> TensorSpec:
    order = require_integers(axes, "axes", length=x.ndim)
    places = [normalize_axis(a, x.ndim, "an entry of axes") for a in order]
    if len(set(places)) != x.ndim:
        raise SpecError(f"axes={axes} names an axis twice; every axis of {x!r} is named once.")
    return x.with_shape(x.shape[i] for i in places)


def _permute_cases() -> list[Case]:
    return [
        *(
            case((3, 4), axes=(1, 0)),
            case((2, 3, 4), axes=(2, 0, 1)),
            case((2, 3, 4), axes=(0, -1, -2)),
            case((), axes=()),
        ),
        *(
            case((0, 3), axes=(1, 0)),
            case((5,), axes=(0,)),
            case((3, 5, 7, 2), axes=(0, 2, 3, 1)),
            case((65, 33), axes=(1, 0)),
        ),
        case(Draw((4, 6), "int8"), axes=(1, 0)),
        case(Draw((4, 6), "float16"), axes=(-1, -2)),
    ]


@op("permute_dims", infer=_infer_permute_dims, cost=moves, cases=_permute_cases, tolerance=BITWISE)
def permute_dims(x: Array, *, axes: tuple[int, ...]) -> Array:
    """Axis ``i`` of the result is axis ``axes[i]`` of ``x``. ``[m, k] -> [k, m]`` with ``axes=(1, 0)``."""
    return np.transpose(x, axes)


def _new_axes(axis: Any, rank: int) -> tuple[int, ...]:
    """Places of new axes in the result of expand_dims, for an input of ``rank``."""
    return normalize_axes(axis, rank + (len(axis) if isinstance(axis, tuple) else 1))


def _infer_expand_dims(x: TensorSpec, *, axis: Any = 0) -> TensorSpec:
    if axis is None:
        raise SpecError(
            "axis says where the new axes stand in the result; found None. Write for example axis=0."
        )
    places = _new_axes(axis, x.ndim)
    old = iter(x.shape)
    return x.with_shape(1 if i in places else next(old) for i in range(x.ndim + len(places)))


def _expand_cases() -> list[Case]:
    return [
        *(
            case((3, 4)),
            case((3, 4), axis=-1),
            case((3, 4), axis=1),
            case((3, 4), axis=(0, -1)),
            case((3,), axis=(1, 2)),
        ),
        *(case((), axis=0), case((0, 2), axis=2), case((3,), axis=())),
        case(Draw((4, 6), "int16"), axis=-2),
        case(Draw((4,), "bfloat16"), axis=1),
    ]


@op("expand_dims", infer=_infer_expand_dims, cost=moves, cases=_expand_cases, tolerance=BITWISE)
def expand_dims(x: Array, *, axis: int | tuple[int, ...] = 0) -> Array:
    """New axes of size 1 at the places ``axis`` of the result. ``[m] -> [m, 1]`` with ``axis=1``."""
    return np.expand_dims(x, axis)


def _infer_squeeze(x: TensorSpec, *, axis: Any) -> TensorSpec:
    if axis is None:
        raise SpecError("axis says which axes are dropped; found None. Write for example axis=(0, 2).")
    dropped = normalize_axes(axis, x.ndim)
    for i in dropped:
        if x.shape[i] != 1:
            raise SpecError(f"axis {i} of {x!r} has size {x.shape[i]}; only axes of size 1 can be dropped.")
    return x.with_shape(n for i, n in enumerate(x.shape) if i not in dropped)


def _squeeze_cases() -> list[Case]:
    return [
        *(
            case((1, 4), axis=0),
            case((3, 1), axis=-1),
            case((1, 3, 1), axis=(0, 2)),
            case((1, 3, 1), axis=2),
            case((1,), axis=0),
        ),
        *(case((1, 0), axis=0), case((3,), axis=()), case((), axis=())),
        case(Draw((4, 1), "uint8"), axis=(-1,)),
        case(Draw((4, 1), "bfloat16"), axis=1),
    ]


@op("squeeze", infer=_infer_squeeze, cost=moves, cases=_squeeze_cases, tolerance=BITWISE)
def squeeze(x: Array, *, axis: int | tuple[int, ...]) -> Array:
    """Drops the axes ``axis``, all of size 1. ``[m, 1] -> [m]`` with ``axis=1``."""
    return np.squeeze(x, axis=axis)


def _infer_broadcast_to(x: TensorSpec, *, shape: Any) -> TensorSpec:
    target = require_shape(shape)
    if x.ndim > len(target) or broadcast(x.shape, target) != target:
        raise SpecError(
            f"{x!r} does not broadcast to shape={shape}: each size, counted from the back, is equal or 1 before."
        )
    return x.with_shape(target)


def _broadcast_cases() -> list[Case]:
    return [
        *(
            case((4,), shape=(3, 4)),
            case((3, 1), shape=(3, 5)),
            case((), shape=(2, 3)),
            case((), shape=()),
            case((1,), shape=(0,)),
        ),
        *(case((2, 1, 3), shape=(2, 2, 4, 3)), case((3, 4), shape=(3, 4)), case((33, 1), shape=(33, 65))),
        case(Draw((1, 6), "int32"), shape=(4, 6)),
        case(Draw((6,), "float16"), shape=(2, 6)),
    ]


@op("broadcast_to", infer=_infer_broadcast_to, cost=moves, cases=_broadcast_cases, tolerance=BITWISE)
def broadcast_to(x: Array, *, shape: Shape) -> Array:
    """Repeats axes of size 1, and adds axes at the front, to give ``shape``."""
    return np.broadcast_to(x, tuple(map(int, shape)))


def _infer_flatten(x: TensorSpec, *, axis: Any = 1) -> TensorSpec:
    return x.with_shape(_flat_sizes(x.shape, axis))


def _flat_sizes(shape: Shape, axis: int) -> tuple[int | Dim, int | Dim]:
    rank = len(shape)
    require_integer(axis, "axis")
    if not -rank <= axis <= rank:
        raise SpecError(f"axis={axis} is out of range for a tensor of rank {rank}; use {-rank} to {rank}.")
    split = axis if axis >= 0 else axis + rank
    return TensorSpec(shape[:split]).size, TensorSpec(shape[split:]).size


def _decompose_flatten(x: Array, *, axis: int = 1) -> Array:
    return reshape(x, shape=_flat_sizes(x.shape, axis))


def _flatten_cases() -> list[Case]:
    return [
        *(
            case((2, 3, 4)),
            case((2, 3, 4), axis=0),
            case((2, 3, 4), axis=-1),
            case((2, 3, 4), axis=3),
            case((5,)),
        ),
        *(case((), axis=0), case((0, 3, 2)), case((3, 0, 2), axis=2)),
        case(Draw((2, 3, 4), "int32"), axis=2),
        case(Draw((2, 3, 4), "bfloat16")),
    ]


@op(
    "flatten",
    infer=_infer_flatten,
    cost=moves,
    decompose=_decompose_flatten,
    cases=_flatten_cases,
    tolerance=BITWISE,
)
def flatten(x: Array, *, axis: int = 1) -> Array:
    """A matrix: axes before ``axis`` become rows, the others columns. ``[n, c, h, w] -> [n, c*h*w]``.

    Source: ONNX Flatten. ``axis`` may equal the rank (one column).
    """
    return np.reshape(x, _flat_sizes(x.shape, axis))


def _infer_matrix_transpose(x: TensorSpec) -> TensorSpec:
    if x.ndim < 2:
        raise SpecError(
            f"a matrix has at least two axes, the input is {x!r}; add one: expand_dims(x, axis=0)."
        )
    return x.with_shape((*x.shape[:-2], x.shape[-1], x.shape[-2]))


def _decompose_matrix_transpose(x: Array) -> Array:
    rank = len(x.shape)
    return permute_dims(x, axes=(*range(rank - 2), rank - 1, rank - 2))


def _matrix_cases() -> list[Case]:
    return [
        *(case((3, 4)), case((2, 3, 4)), case((0, 3)), case((2, 1, 5, 3)), case((65, 33))),
        *(case(Draw((3, 4), "int64")), case(Draw((3, 4), "float16"))),
    ]


@op(
    "matrix_transpose",
    infer=_infer_matrix_transpose,
    cost=moves,
    decompose=_decompose_matrix_transpose,
    cases=_matrix_cases,
    tolerance=BITWISE,
)
def matrix_transpose(x: Array) -> Array:
    """Exchanges the last two axes. ``[..., m, k] -> [..., k, m]``."""
    return np.swapaxes(x, -1, -2)


def _infer_moveaxis(x: TensorSpec, *, source: Any, destination: Any) -> TensorSpec:
    return x.with_shape(x.shape[i] for i in _moved_order(x.ndim, source, destination))


def _moved_order(rank: int, source: Any, destination: Any) -> tuple[int, ...]:
    """The axes of moveaxis as permute_dims takes them."""
    named = [
        tuple(normalize_axis(a, rank, name) for a in (value if isinstance(value, tuple) else (value,)))
        for name, value in (("source", source), ("destination", destination))
    ]
    if len(named[0]) != len(named[1]):
        raise SpecError(f"source={source} and destination={destination} name different numbers of axes.")
    if any(len(set(axes)) != len(axes) for axes in named):
        raise SpecError(f"source={source} or destination={destination} names an axis twice.")
    order = [i for i in range(rank) if i not in named[0]]
    for place, axis in sorted(zip(named[1], named[0], strict=True)):
        order.insert(place, axis)
    return tuple(order)


def _decompose_moveaxis(x: Array, *, source: Any, destination: Any) -> Array:
    return permute_dims(x, axes=_moved_order(len(x.shape), source, destination))


def _moveaxis_cases() -> list[Case]:
    return [
        *(
            case((3, 4), source=0, destination=1),
            case((2, 3, 4), source=-1, destination=0),
            case((0, 3), source=1, destination=0),
        ),
        case((2, 3, 4, 5), source=(0, 2), destination=(-1, 0)),
        case((2, 3), source=(), destination=()),
        case(Draw((2, 3, 4), "int32"), source=1, destination=-1),
        case(Draw((2, 3, 4), "bfloat16"), source=(0, 1), destination=(1, 0)),
    ]


@op(
    "moveaxis",
    infer=_infer_moveaxis,
    cost=moves,
    decompose=_decompose_moveaxis,
    cases=_moveaxis_cases,
    tolerance=BITWISE,
)
def moveaxis(x: Array, *, source: int | tuple[int, ...], destination: int | tuple[int, ...]) -> Array:
    """Moves the axes ``source`` to the places ``destination``; the others keep their order."""
    return np.moveaxis(x, source, destination)

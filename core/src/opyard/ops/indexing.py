"""Reading of elements by position, and masks by position.

Indices are integers; negative ones count from the end. An index out of range is found only when the op runs: the reference
raises IndexError. Source: the ONNX operators Gather, GatherND and OneHot; Python array API
standard 2024.12 for take_along_axis, tril and triu.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cases import Case, Cost, Draw, case
from ..dim import Dim
from ..errors import SpecError
from ..infer import normalize_axis, require_kind
from ..operation import Call
from ..opfunction import op
from ..spec import TensorSpec, as_dtype, broadcast
from ._attributes import replaced, require_integer, require_value
from .arithmetic import BITWISE, Array
from .shape import moves

__all__ = [
    "embedding",
    "gather",
    "gather_nd",
    "one_hot",
    "take_along_axis",
    "tril",
    "triu",
]


def _gather_cost(call: Call) -> Cost:
    """Indices and output alone: equal indices read one and the same part of the tensor."""
    indices = call.inputs[0 if call.op.name == "embedding" else 1]
    assert indices is not None
    return Cost(0.0, float(call.output.nbytes + indices.nbytes))


def positions(low: int, high: int, *shape: int, dtype: str = "int64") -> Draw:
    return Draw(shape, dtype, low, high)


def _infer_gather(x: TensorSpec, indices: TensorSpec, *, axis: Any = 0) -> TensorSpec:
    require_kind(indices, "integer", "the indices")
    place = normalize_axis(axis, x.ndim)
    return x.with_shape((*x.shape[:place], *indices.shape, *x.shape[place + 1 :]))


def _gather_cases() -> list[Case]:
    return [
        *(
            case((5, 4), positions(-5, 4, 3)),
            case((5, 4), positions(0, 3, 2, 3), axis=-1),
            case((5,), positions(0, 4)),
        ),
        *(
            case((2, 5, 3), positions(-5, 4, 7), axis=1),
            case((5, 4), positions(0, 0, 0)),
            case((5, 0), positions(0, 4, 2)),
        ),
        case((33, 17), positions(0, 32, 65, dtype="int32")),
        case(Draw((4, 3), "int8"), positions(0, 3, 2)),
        case(Draw((4, 3), "bfloat16"), positions(0, 3, 2, dtype="uint8")),
    ]


@op("gather", infer=_infer_gather, cost=_gather_cost, cases=_gather_cases, tolerance=BITWISE)
def gather(x: Array, indices: Array, *, axis: int = 0) -> Array:
    """The parts of ``x`` at ``indices`` along ``axis``. ``[n, k], [...] -> [..., k]`` for axis 0; the standard's ``take``.

    Source: ONNX Gather.
    """
    return np.take(x, indices.astype(np.int64), axis=axis)


def _infer_gather_nd(x: TensorSpec, indices: TensorSpec, *, batch_dims: Any = 0) -> TensorSpec:
    batch = require_integer(batch_dims, "batch_dims", 0)
    length = index_length(indices)
    if batch >= min(x.ndim, indices.ndim):
        raise SpecError(
            f"batch_dims={batch} leaves nothing to index: it is less than the ranks of {x!r} and {indices!r}."
        )
    if not 1 <= length <= x.ndim - batch:
        raise SpecError(
            f"the last axis of the indices, {indices!r}, is the length of an index: from 1 to {x.ndim - batch} for {x!r} with batch_dims={batch}."
        )
    shared = broadcast(x.shape[:batch], indices.shape[:batch])
    for shape in (x.shape[:batch], indices.shape[:batch]):
        if any(n != m and not isinstance(n, Dim) for n, m in zip(shape, shared, strict=True)):
            raise SpecError(
                f"the first {batch} sizes of {x!r} and {indices!r} must be equal, as batch_dims={batch} demands."
            )
    return x.with_shape((*shared, *indices.shape[batch:-1], *x.shape[batch + length :]))


def index_length(indices: TensorSpec) -> int:
    """Length of the index tuples on the last axis of ``indices``."""
    require_kind(indices, "integer", "the indices")
    if not indices.ndim:
        raise SpecError("the indices have no last axis, which holds the index tuples; reshape them to (1,).")
    length = indices.shape[-1]
    if isinstance(length, Dim):
        raise SpecError(
            f"the last axis of the indices, {indices!r}, is the length of an index and must be a number."
        )
    return length


def _gather_nd_cases() -> list[Case]:
    return [
        *(
            case((4, 4), positions(-4, 3, 3, 2)),
            case((4, 3), positions(0, 3, 2, 1)),
            case((2, 4, 3), positions(0, 3, 2, 1), batch_dims=1),
        ),
        *(case((4, 4), positions(0, 3, 2)), case((2, 3, 4, 4), positions(0, 3, 2, 3, 5, 2), batch_dims=2)),
        case((4, 4), positions(0, 3, 0, 2)),
        case(Draw((4, 4), "int32"), positions(0, 3, 3, 2, dtype="int32")),
        case(Draw((4, 4), "float16"), positions(0, 3, 3, 2)),
    ]


@op("gather_nd", infer=_infer_gather_nd, cost=_gather_cost, cases=_gather_nd_cases, tolerance=BITWISE)
def gather_nd(x: Array, indices: Array, *, batch_dims: int = 0) -> Array:
    """The parts of ``x`` at index tuples, which lie along the last axis of ``indices``: ``[..., d] -> [..., *x.shape[d:]]``.

    The first ``batch_dims`` axes of both go together. Source: ONNX GatherND.
    """
    return x[_nd_position(x.shape, indices, batch_dims)]


def _nd_position(shape: tuple[int, ...], indices: Array, batch_dims: int) -> tuple[Array, ...]:
    """What NumPy's indexing takes for the index tuples."""
    ndim = indices.ndim - 1
    batches = [
        np.arange(shape[b]).reshape([-1 if i == b else 1 for i in range(ndim)]) for b in range(batch_dims)
    ]
    parts = [indices[..., d].astype(np.int64) for d in range(indices.shape[-1])]
    return (*batches, *parts)


def _infer_take_along_axis(x: TensorSpec, indices: TensorSpec, *, axis: Any = -1) -> TensorSpec:
    require_kind(indices, "integer", "the indices")
    place = normalize_axis(axis, x.ndim)
    if indices.ndim != x.ndim:
        raise SpecError(f"the indices must have the rank of x, {x.ndim}; they are {indices!r}.")
    shape = broadcast(replaced(x.shape, place, 1), replaced(indices.shape, place, 1))
    return x.with_shape(replaced(shape, place, indices.shape[place]))


def _along_cases() -> list[Case]:
    return [
        *(
            case((5, 4), positions(-4, 3, 5, 2)),
            case((5, 4), positions(0, 4, 3, 4), axis=0),
            case((5,), positions(0, 4, 7)),
        ),
        *(
            case((5, 4), positions(0, 3, 1, 2)),
            case((1, 4), positions(0, 3, 5, 2)),
            case((5, 4), positions(0, 0, 5, 0)),
        ),
        *(
            case((2, 33, 3), positions(0, 32, 2, 17, 3, dtype="int32"), axis=-2),
            case(Draw((4, 3), "int8"), positions(0, 2, 4, 1)),
        ),
        case(Draw((4, 3), "bfloat16"), positions(0, 3, 1, 3), axis=0),
    ]


@op("take_along_axis", infer=_infer_take_along_axis, cost=_gather_cost, cases=_along_cases, tolerance=BITWISE)
def take_along_axis(x: Array, indices: Array, *, axis: int = -1) -> Array:
    """``x[i, indices[i, j]]`` (axis 1), and so on: as argsort's result sorts. ``[m, n], [m, k] -> [m, k]``.

    The other axes are broadcast. Where they are equal it is ONNX GatherElements.
    """
    return np.take_along_axis(x, indices.astype(np.int64), axis)


def _infer_triangle(x: TensorSpec, *, k: Any = 0) -> TensorSpec:
    require_integer(k, "k")
    if x.ndim < 2:
        raise SpecError(
            f"a matrix has at least two axes, the input is {x!r}; add one: expand_dims(x, axis=0)."
        )
    return x


def _triangle_cases() -> list[Case]:
    return [
        *(
            case((4, 4)),
            case((3, 5), k=1),
            case((5, 3), k=-2),
            case((2, 3, 3)),
            case((0, 3)),
            case((3, 3), k=9),
            case((33, 65), k=3),
        ),
        *(case(Draw((4, 3), "int32"), k=-1), case(Draw((4, 3), "bfloat16")), case(Draw((3, 3), "bool"))),
    ]


@op("tril", infer=_infer_triangle, cost=moves, cases=_triangle_cases, tolerance=BITWISE)
def tril(x: Array, *, k: int = 0) -> Array:
    """The lower triangles of matrices ``[..., m, n]``: zeros above diagonal ``k``, where positive ``k`` lie above the main one."""
    return np.tril(x, k)


@op("triu", infer=_infer_triangle, cost=moves, cases=_triangle_cases, tolerance=BITWISE)
def triu(x: Array, *, k: int = 0) -> Array:
    """The upper triangles of matrices ``[..., m, n]``: zeros below diagonal ``k``, where positive ``k`` lie above the main one."""
    return np.triu(x, k)


def _infer_one_hot(
    indices: TensorSpec,
    *,
    depth: Any,
    on_value: Any = 1,
    off_value: Any = 0,
    axis: Any = -1,
    dtype: Any = "float32",
) -> TensorSpec:
    require_kind(indices, "integer", "the indices")
    size = require_integer(depth, "depth", 0)
    place = normalize_axis(axis, indices.ndim + 1)
    spec = TensorSpec((*indices.shape[:place], size, *indices.shape[place:]), dtype)
    require_value(on_value, spec.dtype, "on_value")
    require_value(off_value, spec.dtype, "off_value")
    return spec


def _one_hot_cases() -> list[Case]:
    return [
        *(
            case(positions(-4, 3, 5), depth=4),
            case(positions(0, 3, 2, 3), depth=4, axis=0),
            case(positions(0, 3), depth=4),
        ),
        *(
            case(positions(0, 3, 5), depth=4, on_value=2.5, off_value=-1.0),
            case(positions(-9, 9, 17), depth=4),
            case(positions(0, 3, 0), depth=4),
        ),
        *(
            case(positions(0, 3, 5), depth=0),
            case(positions(0, 3, 5, dtype="int32"), depth=4, axis=-2, dtype="int32"),
        ),
        *(
            case(positions(0, 3, 5, dtype="uint8"), depth=4, dtype="bool"),
            case(positions(0, 3, 5), depth=4, dtype="bfloat16"),
        ),
    ]


@op("one_hot", infer=_infer_one_hot, cost=moves, cases=_one_hot_cases, tolerance=BITWISE)
def one_hot(
    indices: Array,
    *,
    depth: int,
    on_value: complex = 1,
    off_value: complex = 0,
    axis: int = -1,
    dtype: str = "float32",
) -> Array:
    """``on_value`` at the index and ``off_value`` elsewhere along a new axis: ``[...] -> [..., depth]``.

    Negative indices count from the end; an index outside [-depth, depth - 1] gives ``off_value`` only. Source: ONNX OneHot.
    """
    wanted = np.asarray(indices, np.int64)
    wanted = np.expand_dims(np.where(wanted < 0, wanted + depth, wanted), axis)
    places = np.arange(depth).reshape(
        [-1 if i == normalize_axis(axis, wanted.ndim) else 1 for i in range(wanted.ndim)]
    )
    on, off = (np.asarray(value).astype(as_dtype(dtype)) for value in (on_value, off_value))
    return np.where(wanted == places, on, off)


def _infer_embedding(indices: TensorSpec, table: TensorSpec) -> TensorSpec:
    if table.ndim != 2:
        raise SpecError(f"the table of an embedding is [entries, features], it is {table!r}.")
    return _infer_gather(table, indices, axis=0)


def _embedding_cases() -> list[Case]:
    return [
        *(
            case(positions(0, 9, 5), (10, 4)),
            case(positions(-10, 9, 2, 3), (10, 4)),
            case(positions(0, 9), (10, 4)),
        ),
        *(
            case(positions(0, 9, 0), (10, 4)),
            case(positions(0, 64, 33, dtype="int32"), (65, 17)),
            case(positions(0, 3, 5), Draw((4, 3), "bfloat16")),
        ),
    ]


@op(
    "embedding",
    infer=_infer_embedding,
    cost=_gather_cost,
    decompose=lambda indices, table: gather(table, indices, axis=0),
    cases=_embedding_cases,
    tolerance=BITWISE,
)
def embedding(indices: Array, table: Array) -> Array:
    """The rows of a table of vectors. ``[...], [entries, features] -> [..., features]``."""
    return np.take(table, indices.astype(np.int64), axis=0)

"""Joining arrays along an axis, and cutting them into parts.

Source of names and meaning: Python array API standard 2024.12; split: ONNX Split.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cases import Case, Draw, case
from ..dim import Dim
from ..errors import SpecError
from ..infer import normalize_axis
from ..opfunction import op
from ..spec import TensorSpec, broadcast, promote
from ._attributes import replaced, require_integer, require_integers
from .arithmetic import BITWISE, Array
from .shape import moves, squeeze

__all__ = ["concat", "split", "stack", "unstack"]


def _infer_concat(*arrays: TensorSpec, axis: Any = 0) -> TensorSpec:
    if not arrays:
        raise SpecError("concat needs at least one array.")
    if any(a.ndim != arrays[0].ndim for a in arrays):
        raise SpecError(
            f"concat joins arrays of one rank; found {', '.join(map(repr, arrays))}. Add axes: expand_dims(x, axis=0)."
        )
    if not arrays[0].ndim:
        raise SpecError("concat joins along an axis, and arrays of rank 0 have none; use stack.")
    place = normalize_axis(axis, arrays[0].ndim)
    total: int | Dim = 0
    for spec in arrays:
        total = total + spec.shape[place]
        for i, (size, first) in enumerate(zip(spec.shape, arrays[0].shape, strict=True)):
            if i != place and size != first and not isinstance(size, Dim) and not isinstance(first, Dim):
                raise SpecError(
                    f"concat along axis {place} needs equal sizes in all other axes; axis {i} has {first} and {size}."
                )
    # sizes are equal or symbolic now, so that broadcasting only takes the numbers that are known
    shape = broadcast(*(replaced(a.shape, place, 1) for a in arrays))
    return TensorSpec(replaced(shape, place, total), promote(*(a.dtype for a in arrays)))


def _concat_cases() -> list[Case]:
    return [
        *(
            case((3, 4), (2, 4)),
            case((3, 4), (3, 1), (3, 2), axis=-1),
            case((5,)),
            case((0,), (3,)),
            case((2, 0), (2, 0), axis=1),
        ),
        *(case((2, 3, 5), (2, 4, 5), axis=1), case((17, 33), (9, 33))),
        case(Draw((3,), "int32"), Draw((2,), "int64")),
        case(Draw((3,), "int32"), Draw((2,), "float64")),
        case(Draw((3, 2), "bfloat16"), Draw((3, 1), "bfloat16"), axis=1),
        case(Draw((3,), "bool"), Draw((2,), "bool")),
    ]


@op("concat", infer=_infer_concat, cost=moves, cases=_concat_cases, tolerance=BITWISE)
def concat(*arrays: Array, axis: int = 0) -> Array:
    """Joins arrays along an axis that they have. ``[m, k], [n, k] -> [m + n, k]``; dtypes are promoted."""
    return np.concatenate(arrays, axis=axis)


def _infer_stack(*arrays: TensorSpec, axis: Any = 0) -> TensorSpec:
    if not arrays:
        raise SpecError("stack needs at least one array.")
    if any(a.shape != arrays[0].shape for a in arrays):
        raise SpecError(f"stack joins arrays of one shape; found {', '.join(map(repr, arrays))}.")
    place = normalize_axis(axis, arrays[0].ndim + 1)
    shape = arrays[0].shape
    return TensorSpec((*shape[:place], len(arrays), *shape[place:]), promote(*(a.dtype for a in arrays)))


def _stack_cases() -> list[Case]:
    return [
        *(
            case((3, 4), (3, 4)),
            case((3, 4), (3, 4), (3, 4), axis=-1),
            case((), ()),
            case((5,), axis=1),
            case((0, 2), (0, 2), axis=1),
        ),
        case(Draw((3,), "int32"), Draw((3,), "int64"), axis=1),
        case(Draw((3, 2), "float16"), Draw((3, 2), "float16"), axis=-2),
    ]


@op("stack", infer=_infer_stack, cost=moves, cases=_stack_cases, tolerance=BITWISE)
def stack(*arrays: Array, axis: int = 0) -> Array:
    """Joins arrays of one shape along a new axis. ``[k], [k] -> [2, k]``; dtypes are promoted."""
    return np.stack(arrays, axis=axis)


def _infer_split(x: TensorSpec, *, sections: Any, axis: Any = 0) -> tuple[TensorSpec, ...]:
    place = normalize_axis(axis, x.ndim)
    return tuple(x.with_shape(replaced(x.shape, place, n)) for n in _section_sizes(x, place, sections))


def _section_sizes(x: TensorSpec, axis: int, sections: Any) -> tuple[int | Dim, ...]:
    size = x.shape[axis]
    if isinstance(sections, tuple):
        sizes = require_integers(sections, "sections", 0)
        if not sizes:
            raise SpecError("sections is empty; name at least one size.")
        if not isinstance(size, Dim) and sum(sizes) != size:
            raise SpecError(f"sections={sections} add up to {sum(sizes)}, axis {axis} of {x!r} has {size}.")
        return sizes
    count = require_integer(sections, "sections", 1)
    if not isinstance(size, Dim) and size % count:
        raise SpecError(
            f"axis {axis} of {x!r} has {size} elements, which do not make {count} equal sections; give a tuple of sizes."
        )
    return (size // count,) * count


def _split_cases() -> list[Case]:
    return [
        *(
            case((6, 4), sections=3),
            case((3, 4), sections=2, axis=-1),
            case((5,), sections=1),
            case((0, 3), sections=2),
        ),
        *(case((7, 2), sections=(1, 0, 6)), case((2, 9), sections=(4, 5), axis=1)),
        case(Draw((4, 3), "int32"), sections=4),
        case(Draw((4, 3), "bfloat16"), sections=(2, 1), axis=1),
    ]


@op("split", infer=_infer_split, cost=moves, cases=_split_cases, tolerance=BITWISE)
def split(x: Array, *, sections: int | tuple[int, ...], axis: int = 0) -> Array:
    """A tuple of parts of ``x`` along ``axis``: so many equal ones, or of the sizes given. Source: ONNX Split."""
    place = normalize_axis(axis, x.ndim)
    sizes = _section_sizes(TensorSpec.of(x), place, sections)
    return tuple(np.split(x, np.cumsum(np.asarray(sizes))[:-1], axis=place))


def _infer_unstack(x: TensorSpec, *, axis: Any = 0) -> tuple[TensorSpec, ...]:
    place = normalize_axis(axis, x.ndim)
    size = x.shape[place]
    if isinstance(size, Dim) or not size:
        raise SpecError(
            f"axis {place} of {x!r} has size {size}; unstack needs a number of parts that is known and not 0."
        )
    return (x.with_shape((*x.shape[:place], *x.shape[place + 1 :])),) * size


def _decompose_unstack(x: Array, *, axis: int = 0) -> Array:
    parts = split(x, sections=x.shape[axis], axis=axis)
    return tuple(squeeze(part, axis=axis) for part in parts)


def _unstack_cases() -> list[Case]:
    return [
        *(
            case((3, 4)),
            case((2, 3, 4), axis=-1),
            case((2,)),
            case((2, 0)),
            case(Draw((2, 3), "int64"), axis=1),
        ),
        case(Draw((2, 3), "bfloat16"), axis=-2),
    ]


@op(
    "unstack",
    infer=_infer_unstack,
    cost=moves,
    decompose=_decompose_unstack,
    cases=_unstack_cases,
    tolerance=BITWISE,
)
def unstack(x: Array, *, axis: int = 0) -> Array:
    """A tuple of all ``x[i]`` along ``axis``. ``[n, k] -> ([k], ...)``, n of them."""
    return tuple(np.moveaxis(x, axis, 0))

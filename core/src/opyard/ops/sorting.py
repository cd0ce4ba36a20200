"""Sorting. Source of names and meaning: Python array API standard 2024.12; top_k: ONNX TopK.

Sorts are stable: equal elements keep their order, also in descending order. NaN counts as greater than every number,
so that it stands last in ascending order and first in descending order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..cases import Case, Cost, Draw, case
from ..dim import Dim
from ..errors import SpecError
from ..infer import normalize_axis, require_kind
from ..operation import Call
from ..opfunction import op
from ..spec import TensorSpec
from ._attributes import replaced, require_integer
from .arithmetic import EXACT, Array
from .reduction import native

__all__ = ["argsort", "sort", "top_k"]


def _cost(call: Call) -> Cost:
    """n log2 n comparisons of each row."""
    spec = call.inputs[0]
    assert spec is not None
    row = int(spec.shape[normalize_axis(call.attrs["axis"], spec.ndim)])
    return Cost(int(spec.size) * max(1.0, math.log2(max(row, 1))), call.bytes)


def _infer_sort(x: TensorSpec, *, axis: Any = -1, descending: bool = False) -> TensorSpec:
    require_kind(x, "real")
    normalize_axis(axis, x.ndim)
    return x


def _infer_argsort(x: TensorSpec, *, axis: Any = -1, descending: bool = False) -> TensorSpec:
    return _infer_sort(x, axis=axis).with_dtype("int64")


def _order(x: Array, axis: int, descending: bool) -> np.ndarray[Any, Any]:
    """Positions that sort ``x``. A descending stable sort is an ascending one from the back, read backwards."""
    values = native(x)
    if not descending:
        return np.argsort(values, axis=axis, kind="stable")
    order = np.argsort(np.flip(values, axis), axis=axis, kind="stable")
    return np.flip(x.shape[axis] - 1 - order, axis)


def _sort_cases() -> list[Case]:
    return [
        *(
            case((7,)),
            case((3, 4), axis=0),
            case((2, 3, 5), axis=1, descending=True),
            case((0,)),
            case((3, 0), axis=0),
        ),
        *(case((17, 33)), case((5, 1), axis=-2)),
        case(Draw((4, 9), "int32", -3, 3), axis=1),  # ties are certain
        case(Draw((4, 9), "int32", -3, 3), axis=1, descending=True),
        case(Draw((9,), "uint8", 0, 255), descending=True),
        case(Draw((4, 6), "float64"), axis=0, descending=True),
        case(Draw((4, 6), "bfloat16")),
    ]


@op("sort", infer=_infer_sort, cost=_cost, cases=_sort_cases, tolerance=EXACT)
def sort(x: Array, *, axis: int = -1, descending: bool = False) -> Array:
    """The elements along ``axis`` in ascending (or descending) order."""
    return np.take_along_axis(x, _order(x, axis, descending), axis)


@op("argsort", infer=_infer_argsort, cost=_cost, cases=_sort_cases)
def argsort(x: Array, *, axis: int = -1, descending: bool = False) -> Array:
    """Positions (int64) along ``axis`` of the elements in ascending (or descending) order; equal ones in their order."""
    return _order(x, axis, descending)


def _infer_top_k(
    x: TensorSpec, *, k: Any, axis: Any = -1, largest: bool = True, sorted: bool = True
) -> tuple[TensorSpec, TensorSpec]:
    require_kind(x, "real")
    require_integer(k, "k", 0)
    place = normalize_axis(axis, x.ndim)
    size = x.shape[place]
    if not isinstance(size, Dim) and k > size:
        raise SpecError(
            f"k={k} elements are asked for, axis {place} of {x!r} has {size}; use a k of at most {size}."
        )
    values = x.with_shape(replaced(x.shape, place, k))
    return values, values.with_dtype("int64")


def _top_k_cases() -> list[Case]:
    return [
        *(
            case((7,), k=3),
            case((3, 4), k=2, axis=0),
            case((3, 4), k=4, largest=False),
            case((2, 3, 5), k=1, axis=1),
        ),
        *(case((5,), k=0), case((0, 3), k=2), case((17, 33), k=5, axis=-2), case((4, 6), k=3, sorted=False)),
        case(Draw((4, 9), "int32", -3, 3), k=4),  # ties are certain
        case(Draw((4, 9), "int32", -3, 3), k=4, largest=False),
        case(Draw((4, 6), "float16"), k=2),
    ]


@op("top_k", infer=_infer_top_k, cost=_cost, cases=_top_k_cases, tolerance=EXACT)
def top_k(x: Array, *, k: int, axis: int = -1, largest: bool = True, sorted: bool = True) -> Array:
    """The ``k`` largest (or smallest) elements along ``axis`` and their positions (int64), as a tuple.

    The first of equal elements comes first. ``sorted=False`` allows the elements in any order along ``axis``; a kernel
    may still sort them, as the reference does. Source: ONNX TopK.
    """
    order = np.take(_order(x, axis, largest), np.arange(k), axis=axis)
    return np.take_along_axis(x, order, axis), order

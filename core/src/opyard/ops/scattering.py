"""Writing of elements by position.

Indices are integers; negative ones count from the end. An index out of range is found only when the op runs: the reference
raises IndexError. Source: the ONNX operators ScatterElements and ScatterND.
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
from ..spec import Shape, TensorSpec
from ._attributes import require_choice
from .arithmetic import Array
from .indexing import index_length, positions
from .reduction import native

__all__ = ["scatter", "scatter_nd"]

REDUCTIONS = ("none", "add", "mul", "max", "min")
_UFUNCS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _require_updates(x: TensorSpec, updates: TensorSpec, shape: Shape, reduction: Any) -> None:
    """Raises SpecError unless ``updates`` has this shape and the dtype of ``x``, which can be reduced so."""
    require_choice(reduction, "reduction", REDUCTIONS)
    if reduction in ("add", "mul"):
        require_kind(x, "numeric")
    elif reduction != "none":
        require_kind(x, "real")
    if updates.dtype != x.dtype:
        raise SpecError(
            f"the updates are {updates.dtype.name}, x is {x.dtype.name}; cast them: cast(updates, dtype='{x.dtype.name}')."
        )
    if len(shape) != updates.ndim or any(
        n != m and not isinstance(n, Dim) and not isinstance(m, Dim)
        for n, m in zip(shape, updates.shape, strict=True)
    ):
        raise SpecError(f"the updates must have the shape {shape}, they are {updates!r}.")


def _write(x: Array, position: tuple[Array, ...], updates: Array, reduction: str) -> Array:
    result = native(x).copy()
    if reduction == "none":
        result[position] = native(updates)
    else:
        _UFUNCS[reduction].at(result, position, native(updates))
    return result


def _updates(call: Call) -> float:
    """How many updates there are: all may be of one element."""
    updates = call.inputs[2]
    assert updates is not None
    return float(int(updates.size))


def _scatter_cost(call: Call) -> Cost:
    updates = call.inputs[2]
    assert updates is not None
    return Cost(0.0 if call.attrs["reduction"] == "none" else float(int(updates.size)), call.bytes)


def _infer_scatter(
    x: TensorSpec, indices: TensorSpec, updates: TensorSpec, *, axis: Any = 0, reduction: Any = "none"
) -> TensorSpec:
    require_kind(indices, "integer", "the indices")
    place = normalize_axis(axis, x.ndim)
    if indices.ndim != x.ndim:
        raise SpecError(f"the indices must have the rank of x, {x.ndim}; they are {indices!r}.")
    for i, (n, m) in enumerate(zip(indices.shape, x.shape, strict=True)):
        if i != place and not isinstance(n, Dim) and not isinstance(m, Dim) and n > m:
            raise SpecError(
                f"axis {i} of the indices has {n} elements, more than the {m} of {x!r}; only axis {place} may be longer."
            )
    _require_updates(x, updates, indices.shape, reduction)
    return x


def _scatter_cases() -> list[Case]:
    # without a reduction the same index must not come twice: which update stays would be open
    def sums(reduction: str, **attributes: Any) -> Case:
        return case((5, 4), positions(-5, 4, 7, 3), (7, 3), reduction=reduction, **attributes)

    return [
        *(
            case((5, 4), positions(-5, 4, 1, 4), (1, 4)),
            case((3, 6), positions(0, 5, 2, 1), (2, 1), axis=-1),
            case((5,), positions(0, 0, 0), (0,)),
        ),
        *(sums("add"), sums("mul", axis=0), sums("max"), sums("min")),
        case((2, 9, 3), positions(0, 8, 2, 5, 3), (2, 5, 3), axis=1, reduction="add"),
        case(
            Draw((4, 3), "int32"),
            positions(0, 3, 6, 3, dtype="int32"),
            Draw((6, 3), "int32"),
            reduction="add",
        ),
        case(Draw((4, 3), "bfloat16"), positions(0, 3, 1, 3), Draw((1, 3), "bfloat16")),
    ]


@op(
    "scatter",
    infer=_infer_scatter,
    cost=_scatter_cost,
    cases=_scatter_cases,
    terms=_updates,
)
def scatter(x: Array, indices: Array, updates: Array, *, axis: int = 0, reduction: str = "none") -> Array:
    """``x`` with ``updates[i, j]`` written to ``[indices[i, j], j]`` (axis 0), or to ``[i, indices[i, j]]`` (axis 1), and so on.

    ``x`` and ``indices`` have one rank, ``updates`` has the shape of ``indices``. ``reduction``: "none" overwrites (which
    of several updates of one element stays is open), "add", "mul", "max" and "min" combine. Source: ONNX ScatterElements.
    """
    grid = list(np.ogrid[tuple(slice(n) for n in indices.shape)])
    grid[normalize_axis(axis, x.ndim)] = indices.astype(np.int64)
    return _write(x, tuple(grid), updates, reduction)


def _infer_scatter_nd(
    x: TensorSpec, indices: TensorSpec, updates: TensorSpec, *, reduction: Any = "none"
) -> TensorSpec:
    length = index_length(indices)
    if not 1 <= length <= x.ndim:
        raise SpecError(
            f"the last axis of the indices, {indices!r}, is the length of an index: from 1 to {x.ndim}, the rank of {x!r}."
        )
    _require_updates(x, updates, (*indices.shape[:-1], *x.shape[length:]), reduction)
    return x


def _scatter_nd_cases() -> list[Case]:
    return [
        *(
            case((5, 4), positions(-4, 3, 1, 2), (1,)),
            case((5, 4), positions(0, 4, 1, 1), (1, 4)),
            case((5,), positions(0, 4, 1), ()),
        ),
        *(case((5, 4), positions(0, 3, 7, 2), (7,), reduction=r) for r in ("add", "mul", "max", "min")),
        *(
            case((9, 3), positions(0, 8, 2, 5, 1), (2, 5, 3), reduction="add"),
            case((5, 4), positions(0, 3, 0, 2), (0,)),
        ),
        case(Draw((4, 3), "int32"), positions(0, 3, 6, 1), Draw((6, 3), "int32"), reduction="max"),
        case(Draw((4, 3), "bfloat16"), positions(0, 3, 1, 1), Draw((1, 3), "bfloat16")),
    ]


@op(
    "scatter_nd",
    infer=_infer_scatter_nd,
    cost=_scatter_cost,
    cases=_scatter_nd_cases,
    terms=_updates,
)
def scatter_nd(x: Array, indices: Array, updates: Array, *, reduction: str = "none") -> Array:
    """``x`` with ``updates[...]`` written to the index tuples ``indices[..., :]``.

    ``indices`` is ``[..., d]``, ``updates`` is ``[..., *x.shape[d:]]``; ``reduction`` is as in scatter. Source: ONNX ScatterND.
    """
    return _write(
        x, tuple(indices[..., d].astype(np.int64) for d in range(indices.shape[-1])), updates, reduction
    )

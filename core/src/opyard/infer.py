"""Inference rules that many ops share. A rule maps input specs and attributes to output specs, and raises SpecError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import SpecError
from .spec import TensorSpec, as_dtype, broadcast, promote

KINDS = {
    "any": "biufcV",
    "numeric": "iufcV",
    "real": "iufV",
    "floating": "fcV",
    "real floating": "fV",
    "integer": "iu",
    "integer or bool": "biu",
    "bool": "b",
}
"""dtype classes by name and NumPy's kind letters; V is bfloat16 and its smaller relatives."""


def require_kind(spec: TensorSpec, kind: str, what: str = "the input") -> None:
    """Raises SpecError unless the dtype of ``spec`` belongs to the class ``kind`` of KINDS."""
    if spec.dtype.kind not in KINDS[kind]:
        target = "bool" if kind == "bool" else "int32" if kind.startswith("integer") else "float32"
        raise SpecError(f"{what} must be {kind}, it is {spec!r}; cast it first: cast(x, dtype='{target}').")


def elementwise(kind: str = "floating", dtype: Any = None) -> Callable[..., TensorSpec]:
    """Broadcasts all inputs and promotes their dtypes; ``dtype`` fixes the output's dtype (comparisons: bool)."""

    def infer(*specs: TensorSpec | None, **_: Any) -> TensorSpec:
        given = [s for s in specs if s is not None]
        if not given:
            raise SpecError("there is nothing to combine; give at least one array.")
        for position, spec in enumerate(given):
            require_kind(spec, kind, f"input {position}")
        common = promote(*(s.dtype for s in given))
        return TensorSpec(broadcast(*(s.shape for s in given)), common if dtype is None else dtype)

    return infer


def same_as_first(kind: str = "any") -> Callable[..., TensorSpec]:
    """The output has the spec of the first input."""

    def infer(first: TensorSpec, *_: TensorSpec | None, **__: Any) -> TensorSpec:
        require_kind(first, kind)
        return first

    return infer


def normalize_axis(axis: int, rank: int, name: str = "axis") -> int:
    """``axis`` counted from the front. Raises SpecError when the tensor has no such axis."""
    if not isinstance(axis, (int, np.integer)) or isinstance(axis, bool):
        raise SpecError(f"{name} is an integer; found {axis!r}.")
    if not -rank <= axis < rank:
        raise SpecError(
            f"{name}={axis} is out of range for a tensor of rank {rank}; {f'use {-rank} to {rank - 1}' if rank else 'it has no axes'}."
        )
    return int(axis) % rank


def normalize_axes(axis: int | tuple[int, ...] | None, rank: int) -> tuple[int, ...]:
    """All axes named, counted from the front and sorted; None names every axis. Raises SpecError for doubles."""
    if axis is None:
        return tuple(range(rank))
    axes = tuple(normalize_axis(a, rank) for a in (axis if isinstance(axis, tuple) else (axis,)))
    if len(set(axes)) != len(axes):
        raise SpecError(f"axis={axis} names an axis twice.")
    return tuple(sorted(axes))


def reduction(kind: str = "numeric", dtype: Any = None) -> Callable[..., TensorSpec]:
    """Removes the axes of the attribute ``axis`` (an int, a tuple, or None for all), or keeps them as 1 with ``keepdims``."""

    def infer(x: TensorSpec, *, axis: Any = None, keepdims: bool = False, **_: Any) -> TensorSpec:
        require_kind(x, kind)
        axes = normalize_axes(axis, x.ndim)
        kept = [1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes]
        return TensorSpec(kept, x.dtype if dtype is None else as_dtype(dtype))

    return infer

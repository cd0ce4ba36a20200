"""The op slice. Source: ONNX Slice."""

from __future__ import annotations

import builtins
from typing import Any

from ..cases import Case, Cost, Draw, case
from ..dim import Dim
from ..errors import SpecError
from ..infer import normalize_axis
from ..opfunction import op
from ..spec import Shape, TensorSpec
from ._attributes import require_integer
from .arithmetic import BITWISE, Array

__all__ = ["slice"]

Bounds = tuple["int | Dim", "int | Dim", int]
"""Start, stop and step of one axis, counted from its front; a stop of -1 lies before the first element."""

BEYOND = 2**31 - 1
"""Limits from here on, and from its negative down, mean an open end on a symbolic axis, as ONNX exporters write them."""


def _bounds(size: int | Dim, start: Any, stop: Any, step: Any) -> Bounds:
    """Limits counted from the front and clamped to an axis of ``size``.

    On a symbolic axis limits are taken to lie inside it. A limit at the end that the number decides raises SpecError.
    """
    if require_integer(step, "an entry of steps") == 0:
        raise SpecError("an entry of steps is 0; a slice steps by 1 or more, or by -1 or less.")
    for name, value in (("starts", start), ("stops", stop)):
        if value is not None:
            require_integer(value, f"an entry of {name}")
    forward = step > 0
    if isinstance(size, Dim):
        symbolic_first = _symbolic_limit(
            size, start, 0 if forward else size - 1, "starts", at_end=not forward
        )
        symbolic_last = _symbolic_limit(size, stop, size if forward else -1, "stops", at_end=forward)
        return symbolic_first, symbolic_last, step
    if not size:
        return 0, 0, step
    low, high = (0, size) if forward else (0, size - 1)
    first = _concrete_limit(size, start, low if forward else high)
    last = _concrete_limit(size, stop, high if forward else -1)
    return max(low, min(first, high)), max(low if forward else -1, min(last, high)), step


def _concrete_limit(size: int, value: int | None, when_open: int) -> int:
    if value is None:
        return when_open
    return value + size if value < 0 else value


def _symbolic_limit(size: Dim, value: int | None, when_open: int | Dim, name: str, at_end: bool) -> int | Dim:
    if value is None or (value >= BEYOND if at_end else value <= -BEYOND):
        return when_open
    if at_end and value >= 0:
        raise SpecError(
            f"whether the symbolic size {size!r} reaches {name}={value} is not known before it is bound; "
            "count from the end with a negative number, or give the size a number."
        )
    return size + value if value < 0 else value


def _size(bounds: Bounds) -> int | Dim:
    """Number of elements between the bounds."""
    first, last, step = bounds
    count = (last - first + step - 1) // step if step > 0 else (first - last - step - 1) // -step
    return count if isinstance(count, Dim) else max(0, count)


def slices_of(shape: Shape, starts: Any, stops: Any, axes: Any, steps: Any) -> dict[int, Bounds]:
    """What slice takes of each axis that it names."""
    count = len(starts) if isinstance(starts, tuple) else 0
    for name, value in (("starts", starts), ("stops", stops), ("axes", axes), ("steps", steps)):
        if value is not None or name in ("starts", "stops"):
            if not isinstance(value, tuple):
                raise SpecError(f"{name} is a tuple; found {value!r}. Write ({value!r},).")
            if len(value) != count:
                raise SpecError(
                    f"starts={starts} has {count} entries, {name}={value} has {len(value)}; give one per sliced axis."
                )
    places = tuple(
        normalize_axis(a, len(shape), "an entry of axes") for a in (range(count) if axes is None else axes)
    )
    if len(set(places)) != count:
        raise SpecError(f"axes={axes} names an axis twice.")
    limits = zip(places, starts, stops, (1,) * count if steps is None else steps, strict=True)
    return {place: _bounds(shape[place], start, stop, step) for place, start, stop, step in limits}


def _infer_slice(
    x: TensorSpec, *, starts: Any, stops: Any, axes: Any = None, steps: Any = None
) -> TensorSpec:
    bounds = slices_of(x.shape, starts, stops, axes, steps)
    return x.with_shape(_size(bounds[i]) if i in bounds else n for i, n in enumerate(x.shape))


def _slice_cases() -> list[Case]:
    return [
        *(
            case((7,), starts=(1,), stops=(5,)),
            case((7, 4), starts=(-3, 1), stops=(100, -1)),
            case((), starts=(), stops=()),
        ),
        case((7, 4), starts=(0,), stops=(7,), steps=(3,)),
        case((7, 4), starts=(-1,), stops=(-100,), axes=(-1,), steps=(-1,)),
        case((7, 4), starts=(100, None), stops=(2, None), axes=(0, 1), steps=(-2, 2)),
        case((2, 3, 5), starts=(1,), stops=(1,), axes=(2,)),
        case((0, 3), starts=(0,), stops=(2,)),
        case((0, 3), starts=(-1,), stops=(-9,), steps=(-1,)),
        case((33, 17), starts=(5, 3), stops=(None, 16)),
        case(Draw((6, 5), "int32"), starts=(2,), stops=(4,)),
        case(Draw((6, 5), "bfloat16"), starts=(1,), stops=(None,), axes=(1,), steps=(2,)),
    ]


@op(
    "slice",
    infer=_infer_slice,
    cost=lambda call: Cost(0.0, 2.0 * call.output.nbytes),
    cases=_slice_cases,
    tolerance=BITWISE,
)
def slice(
    x: Array,
    *,
    starts: tuple[int | None, ...],
    stops: tuple[int | None, ...],
    axes: tuple[int, ...] | None = None,
    steps: tuple[int, ...] | None = None,
) -> Array:
    """Elements ``starts[i]``, ``starts[i] + steps[i]``, ... before ``stops[i]`` of each axis ``axes[i]``. Source: ONNX Slice.

    Without ``axes`` the first axes are meant, without ``steps`` 1. Negative limits count from the end, limits beyond the
    axis are clamped to it, None is an open end. Steps may be negative.
    """
    bounds = slices_of(x.shape, starts, stops, axes, steps)
    # NumPy reads a stop of -1 as the last element; where the slice runs down to the first one, None says so
    return x[tuple(_as_slice(bounds[i]) if i in bounds else builtins.slice(None) for i in range(x.ndim))]


def _as_slice(bounds: Bounds) -> builtins.slice:
    start, stop, step = (int(b) for b in bounds)
    if not _size(bounds):
        return builtins.slice(0, 0)
    return builtins.slice(start, None if stop < 0 else stop, step)

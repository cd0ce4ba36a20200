"""Resampling of images. Source: the ONNX operator Resize, opset 19, without antialiasing."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cases import Case, Cost, Draw, Tolerance, case
from ..errors import SpecError
from ..infer import require_kind
from ..operation import Call
from ..opfunction import op
from ..spec import TensorSpec
from . import windows
from ._attributes import require_choice, require_integers, require_real
from ._precision import cast_to, computing_dtype
from ._reference import precise
from .arithmetic import Array, add, multiply
from .indexing import gather

__all__ = ["resize"]

_MODES = ("nearest", "linear", "cubic")
_TRANSFORMATIONS = ("half_pixel", "align_corners", "asymmetric")
_ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def _infer(
    x: TensorSpec,
    *,
    sizes: Any,
    mode: str,
    coordinate_transformation: str,
    nearest_rounding: str,
    cubic_coefficient: float,
) -> TensorSpec:
    rank = windows.spatial_rank(x)
    require_choice(mode, "mode", _MODES)
    require_choice(coordinate_transformation, "coordinate_transformation", _TRANSFORMATIONS)
    require_choice(nearest_rounding, "nearest_rounding", _ROUNDINGS)
    require_real(cubic_coefficient, "cubic_coefficient")
    require_kind(x, "any" if mode == "nearest" else "real floating")
    sizes = require_integers(sizes, "sizes", minimum=1, length=rank)
    if any(n == 0 for n in x.shape[2:]):
        raise SpecError(f"{x!r} has no pixel to resample; leave such inputs out.")
    return x.with_shape((*x.shape[:2], *sizes))


def _coordinates(before: int, after: int, transformation: str) -> np.ndarray[Any, Any]:
    """Where in the input, which has ``before`` pixels, the centres of ``after`` pixels lie: float64 ``[after]``."""
    pixels = np.arange(after)
    if transformation == "half_pixel":
        return (2 * pixels + 1) * before / (2 * after) - 0.5
    if transformation == "asymmetric":
        return pixels * before / after
    return pixels * (before - 1) / max(after - 1, 1)  # align_corners; a single pixel lies at 0


def _taps(
    before: int, after: int, mode: str, transformation: str, rounding: str, coefficient: float
) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """The input pixels that each output pixel of one axis is made of: pairs of (index ``[after]``, weight ``[after]``)."""
    places = _coordinates(before, after, transformation)
    if mode == "nearest":
        taps = [(_rounded(places, rounding), np.ones(after))]
    else:
        start = np.floor(places)
        offsets = (0, 1) if mode == "linear" else (-1, 0, 1, 2)
        distances = [(offset, np.abs(places - start - offset)) for offset in offsets]
        taps = [
            (start + offset, 1 - distance if mode == "linear" else _cubic(distance, coefficient))
            for offset, distance in distances
        ]
    # beyond the border the outermost pixel repeats
    return [(np.clip(index, 0, before - 1).astype(np.int64), weight) for index, weight in taps]


def _rounded(places: np.ndarray[Any, Any], rounding: str) -> Any:
    if rounding == "round_prefer_floor":
        return np.ceil(places - 0.5)
    if rounding == "round_prefer_ceil":
        return np.floor(places + 0.5)
    return np.floor(places) if rounding == "floor" else np.ceil(places)


def _cubic(distance: np.ndarray[Any, Any], a: float) -> np.ndarray[Any, Any]:
    """The cubic convolution kernel with coefficient ``a``. Source: Keys, IEEE ASSP 29(6), 1981, equation 4."""
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.asarray(np.where(distance <= 1, near, np.where(distance < 2, far, 0.0)))


def _decompose(
    x: Array,
    *,
    sizes: tuple[int, ...],
    mode: str = "nearest",
    coordinate_transformation: str = "half_pixel",
    nearest_rounding: str = "round_prefer_floor",
    cubic_coefficient: float = -0.75,
) -> Array:
    values = x if mode == "nearest" else cast_to(x, computing_dtype(x.dtype))
    for axis, after in enumerate(sizes, 2):
        taps = _taps(
            int(x.shape[axis]), after, mode, coordinate_transformation, nearest_rounding, cubic_coefficient
        )
        parts = [gather(values, index, axis=axis) for index, _ in taps]
        if mode == "nearest":
            values = parts[0]
            continue
        shape = (after, *(1,) * (len(sizes) + 1 - axis))
        weighted = [
            multiply(part, weight.reshape(shape).astype(values.dtype))
            for part, (_, weight) in zip(parts, taps, strict=True)
        ]
        values = weighted[0]
        for term in weighted[1:]:
            values = add(values, term)
    return cast_to(values, x.dtype)


def _cost(call: Call) -> Cost:
    taps = {"nearest": 0.0, "linear": 2.0, "cubic": 4.0}[call.attrs["mode"]]
    axes = len(call.attrs["sizes"])
    return Cost(2.0 * taps * axes * int(call.output.size), call.bytes)


def _cases() -> list[Case]:
    return [
        case((1, 2, 4, 5), sizes=(8, 10)),
        case((1, 2, 7, 5), sizes=(3, 9), nearest_rounding="floor", coordinate_transformation="asymmetric"),
        case((1, 2, 4, 5), sizes=(6, 3), nearest_rounding="ceil", coordinate_transformation="align_corners"),
        case((1, 2, 4, 5), sizes=(8, 10), nearest_rounding="round_prefer_ceil"),
        case((2, 3, 4, 5), sizes=(8, 10), mode="linear"),
        case((2, 3, 4, 5), sizes=(7, 3), mode="linear", coordinate_transformation="align_corners"),
        case((2, 3, 4, 5), sizes=(7, 3), mode="linear", coordinate_transformation="asymmetric"),
        case((1, 2, 5, 6), sizes=(9, 4), mode="cubic"),
        case((1, 2, 5, 6), sizes=(1, 12), mode="cubic", coordinate_transformation="align_corners"),
        case((1, 2, 5, 6), sizes=(10, 12), mode="cubic", cubic_coefficient=-0.5),
        case((1, 2, 7), sizes=(13,), mode="linear"),
        case((1, 2, 3, 4, 2), sizes=(6, 2, 5), mode="linear"),
        case((0, 2, 4, 4), sizes=(8, 8), mode="linear"),
        case((1, 8, 33, 31), sizes=(66, 62), mode="linear"),
        case(Draw((1, 2, 4, 4), "uint8", 0, 255), sizes=(8, 8)),
        case(Draw((1, 2, 4, 4), "float64"), sizes=(8, 7), mode="cubic"),
        case(Draw((1, 2, 4, 4), "float16"), sizes=(8, 7), mode="linear"),
        case(Draw((1, 2, 4, 4), "bfloat16"), sizes=(3, 7), mode="cubic"),
    ]


@op(
    "resize",
    infer=_infer,
    decompose=_decompose,
    cost=_cost,
    cases=_cases,
    tolerance=Tolerance(8, scaled=True),
)
def resize(
    x: Array,
    *,
    sizes: tuple[int, ...],
    mode: str = "nearest",
    coordinate_transformation: str = "half_pixel",
    nearest_rounding: str = "round_prefer_floor",
    cubic_coefficient: float = -0.75,
) -> Array:
    """Resamples every image to new spatial ``sizes``. ``[n, c, *spatial] -> [n, c, *sizes]``.

    ``mode`` is "nearest", "linear" or "cubic", along each axis in turn. Output pixel i of an axis that goes from n to m pixels
    lies in the input at ``(i + 0.5) * n / m - 0.5`` ("half_pixel"), ``i * (n - 1) / (m - 1)`` ("align_corners") or
    ``i * n / m`` ("asymmetric"); "nearest" rounds this by ``nearest_rounding``: "round_prefer_floor", "round_prefer_ceil",
    "floor" or "ceil". Beyond the border the outermost pixel repeats.
    """
    array = np.asarray(x)
    values = array if mode == "nearest" else precise(array)
    for axis, after in enumerate(sizes, 2):
        taps = _taps(
            array.shape[axis], after, mode, coordinate_transformation, nearest_rounding, cubic_coefficient
        )
        if mode == "nearest":
            values = np.take(values, taps[0][0], axis=axis)
            continue
        matrix = np.zeros((array.shape[axis], after))
        for index, weight in taps:
            np.add.at(matrix, (index, np.arange(after)), weight)
        values = np.moveaxis(np.moveaxis(values, axis, -1) @ matrix, -1, axis)
    return values

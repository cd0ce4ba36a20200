"""Resampling of images, and the selection of boxes. Source: ONNX Resize (opset 19), Upsample, NonMaxSuppression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

import opyard as oy
from opyard_onnx.errors import ModelError
from opyard_onnx.limits import require_size
from opyard_onnx.node import OnnxNode
from opyard_onnx.operators.table import Operator

Array = np.ndarray[Any, Any]

CORE_TRANSFORMATIONS = ("half_pixel", "align_corners", "asymmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@dataclass(frozen=True)
class Resampling:
    """How one axis goes from ``before`` to ``after`` pixels; ``scale`` may differ a little from their quotient."""

    before: int
    after: int
    scale: float
    mode: str
    transformation: str
    rounding: str
    cubic: float
    antialias: bool
    exclude_outside: bool
    region: tuple[float, float]

    def places(self) -> Array:
        """Where in the input the centres of the output's pixels lie: float64 ``[after]``."""
        require_size(self.after, "a resized axis")
        pixels, n = np.arange(self.after, dtype=np.float64), self.before
        length = self.scale * n
        if self.transformation == "align_corners":
            return pixels * (n - 1) / (length - 1) if length != 1 else pixels * 0
        if self.transformation == "asymmetric":
            return pixels / self.scale
        if self.transformation == "tf_crop_and_resize":
            start, end = self.region
            if length == 1:
                return pixels * 0 + (start + end) * (n - 1) / 2
            return pixels * (end - start) * (n - 1) / (length - 1) + start * (n - 1)
        if self.transformation == "pytorch_half_pixel" and length == 1:
            return pixels * 0
        found = (pixels + 0.5) / self.scale - 0.5
        if self.transformation == "half_pixel_symmetric":
            found = found + n / 2 * (1 - self.after / length)
        return found

    def nearest(self) -> Array:
        """The input pixel of each output pixel: int64 ``[after]``."""
        places = self.places()
        rounded = {
            "round_prefer_floor": np.ceil(places - 0.5),
            "round_prefer_ceil": np.floor(places + 0.5),
            "floor": np.floor(places),
            "ceil": np.ceil(places),
        }[self.rounding]
        return np.clip(rounded, 0, self.before - 1).astype(np.int64)

    def weights(self) -> Array:
        """What each input pixel counts in each output pixel: float64 ``[after, before]``."""
        stretch = max(1.0, 1.0 / self.scale) if self.antialias else 1.0
        reach = (1.0 if self.mode == "linear" else 2.0) * stretch
        require_size(
            self.after * max(self.before, 1024), "the weights of a resize, 1024 at least for each row,"
        )
        found = np.zeros((self.after, self.before))
        for row, place in enumerate(self.places()):
            taps = np.arange(math.floor(place - reach), math.ceil(place + reach) + 1)
            amounts = self._filter(np.abs(taps - place) / stretch)
            if self.antialias:
                amounts = amounts / amounts.sum()
            if self.exclude_outside:
                amounts = np.where((taps < 0) | (taps >= self.before), 0.0, amounts)
                amounts = amounts / amounts.sum()
            np.add.at(found[row], np.clip(taps, 0, self.before - 1), amounts)
        return found

    def _filter(self, distance: Array) -> Array:
        if self.mode == "linear":
            return np.maximum(0.0, 1.0 - distance)
        a = self.cubic  # Keys, IEEE ASSP 29(6), 1981, equation 4
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = a * (((distance - 5) * distance + 8) * distance - 4)
        return np.asarray(np.where(distance <= 1, near, np.where(distance < 2, far, 0.0)))


def _sizes_and_scales(node: OnnxNode, shape: tuple[int, ...]) -> tuple[list[int], list[float]]:
    """Of all axes."""
    rank = len(shape)
    axes = [a % rank for a in node.attribute("axes", tuple(range(rank)))]
    sizes, scales = list(shape), [1.0] * rank
    given = node.value(2 if node.version >= 11 else 1)
    if given is not None and given.size:
        for axis, scale in zip(axes, given.ravel(), strict=True):
            scales[axis] = float(scale)
            sizes[axis] = math.floor(np.float32(shape[axis]) * np.float32(scale))
        return sizes, scales
    if node.get(3) is None:
        raise ModelError("Resize needs sizes or scales.")
    wanted = [int(n) for n in node.sizes(3)]
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    ratios = [n / shape[axis] for axis, n in zip(axes, wanted, strict=True)]
    if policy != "stretch":
        ratio = min(ratios) if policy == "not_larger" else max(ratios)
        ratios = [ratio] * len(axes)
        wanted = [math.floor(ratio * shape[axis] + 0.5) for axis in axes]
    for axis, n, ratio in zip(axes, wanted, ratios, strict=True):
        sizes[axis], scales[axis] = n, ratio
    return sizes, scales


def _regions(node: OnnxNode, rank: int) -> list[tuple[float, float]]:
    found = [(0.0, 1.0)] * rank
    if node.attribute("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        region = node.value(1)
        if region is not None and region.size:
            axes = [a % rank for a in node.attribute("axes", tuple(range(rank)))]
            for number, axis in enumerate(axes):
                found[axis] = (float(region[number]), float(region[len(axes) + number]))
    return found


def resize(node: OnnxNode) -> Any:
    x = node.x
    shape = tuple(int(n) for n in x.shape)
    sizes, scales = _sizes_and_scales(node, shape)
    default = "half_pixel" if node.version >= 11 else "asymmetric"
    transformation = node.attribute("coordinate_transformation_mode", default)
    rounding = node.attribute("nearest_mode", "round_prefer_floor" if node.version >= 11 else "floor")
    regions, mode = _regions(node, x.ndim), node.attribute("mode", "nearest")
    axes = [
        Resampling(
            *(shape[i], sizes[i], scales[i], mode, transformation, rounding),
            cubic=node.attribute("cubic_coeff_a", -0.75),
            antialias=bool(node.attribute("antialias", 0)) and mode != "nearest",
            exclude_outside=bool(node.attribute("exclude_outside", 0)),
            region=regions[i],
        )
        for i in range(x.ndim)
    ]
    if _is_core(axes, x):
        return oy.resize(
            x, sizes=tuple(sizes[2:]), mode=mode, coordinate_transformation=transformation,
            nearest_rounding=rounding, cubic_coefficient=axes[0].cubic,
        )  # fmt: skip
    found = _resampled(node, x, axes, mode)
    return _extrapolated(node, found, axes) if transformation == "tf_crop_and_resize" else found


def _changes(axis: Resampling) -> bool:
    return axis.before != axis.after or axis.scale != 1 or axis.transformation == "tf_crop_and_resize"


def _is_core(axes: list[Resampling], x: Any) -> bool:
    """Whether opyard's own op resize, which has kernels, computes this."""
    return (
        3 <= len(axes) <= 5
        and (axes[0].mode == "nearest" or x.dtype.kind in "fV")
        and not any(_changes(axis) for axis in axes[:2])
        and all(axis.after == axis.before * axis.scale for axis in axes)
        and axes[0].transformation in CORE_TRANSFORMATIONS
        and not (axes[0].antialias or axes[0].exclude_outside)
        and min(axis.after for axis in axes[2:]) > 0
    )


def _resampled(node: OnnxNode, x: Any, axes: list[Resampling], mode: str) -> Any:
    found = x
    if mode == "nearest":
        for place, axis in enumerate(axes):
            if _changes(axis):
                found = oy.gather(found, node.constant(axis.nearest()), axis=place)
        return oy.identity(found)
    found = found if x.dtype.kind == "f" and x.dtype.itemsize >= 4 else oy.cast(found, dtype="float32")
    for place, axis in enumerate(axes):
        if _changes(axis):
            matrix = node.constant(np.ascontiguousarray(axis.weights().T), found)
            last = oy.matmul(oy.moveaxis(found, source=place, destination=-1), matrix)
            found = oy.moveaxis(last, source=-1, destination=place)
    return oy.identity(found) if found.dtype == x.dtype else oy.cast(found, dtype=x.dtype.name)


def _extrapolated(node: OnnxNode, found: Any, axes: list[Resampling]) -> Any:
    """A fixed number where the region lies outside of the image."""
    require_size(math.prod(axis.after for axis in axes), "the mask of a resize")
    outside = np.zeros((1,) * len(axes), bool)
    for place, axis in enumerate(axes):
        places = axis.places()
        shape = [1] * len(axes)
        shape[place] = axis.after
        outside = outside | ((places < 0) | (places > axis.before - 1)).reshape(shape)
    value = node.constant(np.array(node.attribute("extrapolation_value", 0.0)), found)
    return oy.where(node.constant(outside), value, found)


def upsample(node: OnnxNode) -> Any:
    """Source: ONNX Upsample 7 and 9: nearest by the floor, linear without a shift of half a pixel."""
    x = node.x
    scales = node.attribute("scales") if node.version < 9 else node.value(1).tolist()
    mode = node.attribute("mode", "nearest")
    axes = [
        Resampling(
            *(int(n), math.floor(int(n) * scale), scale, mode, "asymmetric", "floor"),
            cubic=-0.75,
            antialias=False,
            exclude_outside=False,
            region=(0.0, 1.0),
        )
        for n, scale in zip(x.shape, scales, strict=True)
    ]
    return _resampled(node, x, axes, mode)


def non_max_suppression(node: OnnxNode) -> Any:
    """Boxes with the highest scores that overlap with no better one: int64 ``[selected, 3]`` of batch, class and box.

    How many there are depends on the numbers: they are asked for, and the rest of the model is a stage of its own.
    """
    boxes, scores = node.value(0).astype(np.float64), node.value(1)
    limit, overlap = int(node.number(2, 0)), node.number(3, 0.0)
    least = node.number(4)
    corners = _corners(boxes, bool(node.attribute("center_point_box", 0)))
    rows = []
    for batch in range(scores.shape[0]):
        for group in range(scores.shape[1]):
            chosen: list[int] = []
            for box in np.argsort(-scores[batch, group], kind="stable"):
                if len(chosen) == limit or (least is not None and scores[batch, group, box] <= least):
                    break
                if all(_overlap(corners[batch, box], corners[batch, other]) <= overlap for other in chosen):
                    chosen.append(int(box))
            rows += [(batch, group, box) for box in chosen]
    return np.array(rows, np.int64).reshape(-1, 3)


def _corners(boxes: Array, center: bool) -> Array:
    """Boxes as (least, least, greatest, greatest)."""
    if center:
        middle, half = boxes[..., :2], boxes[..., 2:] / 2
        return np.concatenate([middle - half, middle + half], axis=-1)
    first, second = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=-1)


def _overlap(a: Array, b: Array) -> float:
    """Intersection over union of two boxes."""
    inner = np.prod(np.maximum(0.0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])))
    total = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner
    return float(inner / total) if total > 0 else 0.0


OPERATORS = (
    Operator("NonMaxSuppression", 10, non_max_suppression),
    Operator("Resize", 10, resize),
    Operator("Upsample", 7, upsample),
)

"""Operators that read an image at places that are computed: GridSample, RoiAlign, DeformConv."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np

import opyard as oy
from opyard_onnx.node import OnnxNode
from opyard_onnx.operators.table import Operator
from opyard_onnx.operators.windows import geometry

Array = np.ndarray[Any, Any]

MODES = {"bilinear": "linear", "bicubic": "cubic"}
"""Older names of modes of GridSample."""


def grid_sample(node: OnnxNode) -> Any:
    """Each axis has taps with a place and a weight; the result sums all their combinations. Source: ONNX GridSample."""
    x, grid = node.inputs
    mode = node.attribute("mode", "linear")
    mode, border = MODES.get(mode, mode), node.attribute("padding_mode", "zeros")
    corners = bool(node.attribute("align_corners", 0))
    sizes = tuple(int(n) for n in x.shape[2:])
    outer = tuple(int(n) for n in grid.shape[1:-1])
    points = math.prod(outer)
    flat = oy.reshape(grid, shape=(grid.shape[0], points, len(sizes)))
    axes = []
    for i, n in enumerate(sizes):
        last = len(sizes) - 1 - i  # the grid names its axes from the last to the first
        place = oy.squeeze(oy.slice(flat, starts=(last,), stops=(last + 1,), axes=(2,)), axis=2)
        axes.append(_taps(_pixels(place, n, corners), n, mode, border, corners))
    image = oy.reshape(x, shape=(*x.shape[:2], math.prod(sizes)))
    total: Any = None
    for combination in product(*axes):
        index, weight = _combined(combination, sizes)
        index = oy.broadcast_to(oy.expand_dims(index, axis=1), shape=(*x.shape[:2], points))
        term = oy.take_along_axis(image, index, axis=2)
        if weight is not None:
            term = oy.multiply(term, oy.expand_dims(oy.cast(weight, dtype=x.dtype.name), axis=1))
        total = term if total is None else oy.add(total, term)
    return oy.reshape(total, shape=(*x.shape[:2], *outer))


def _combined(combination: tuple[Any, ...], sizes: tuple[int, ...]) -> tuple[Any, Any]:
    """The flat place and the weight of one tap of each axis; a weight of None is 1."""
    index, weight = combination[0]
    for (place, amount), n in zip(combination[1:], sizes[1:], strict=True):
        index = oy.add(oy.multiply(index, n), place)
        if amount is not None:
            weight = amount if weight is None else oy.multiply(weight, amount)
    return index, weight


def _pixels(place: Any, n: int, corners: bool) -> Any:
    """Places in [-1, 1] as pixels of an axis of ``n``."""
    if corners:
        return oy.multiply(oy.add(place, 1.0), (n - 1) / 2)
    return oy.multiply(oy.subtract(oy.multiply(oy.add(place, 1.0), float(n)), 1.0), 0.5)


def _reflected(x: Any, low: float, high: float) -> Any:
    """``x`` mirrored at both borders until it lies between them."""
    span = high - low
    if span <= 0:
        return oy.multiply(x, 0.0)
    away = oy.abs(oy.subtract(x, low))
    turns = oy.floor(oy.divide(away, span))
    rest = oy.subtract(away, oy.multiply(turns, span))
    odd = oy.greater(oy.remainder(turns, 2.0), 0.5)
    return oy.where(odd, oy.subtract(high, rest), oy.add(low, rest))


def _taps(x: Any, n: int, mode: str, border: str, corners: bool) -> list[tuple[Any, Any]]:
    """Pairs (place, weight) along one axis; the weight is zero where a tap lies outside and counts as zero."""
    low, high = (0.0, n - 1.0) if corners else (-0.5, n - 0.5)
    if mode == "nearest":
        x = oy.round(x)
    if border == "border":
        # only what lies outside moves
        outside = oy.logical_or(oy.less(x, low), oy.greater(x, high))
        x = oy.where(outside, _between(x, 0.0, n - 1.0), x)
    elif border == "reflection":
        outside = oy.logical_or(oy.less(x, low), oy.greater(x, high))
        x = oy.where(outside, _reflected(x, low, high), x)
    if mode == "nearest":
        # reflection ends between two pixels, and then the one nearer to zero is taken
        return [_tap(oy.trunc(x), None, n, border, low, high)]
    start = oy.floor(x)
    part = oy.subtract(x, start)
    offsets = (0, 1) if mode == "linear" else (-1, 0, 1, 2)
    weights = _linear(part) if mode == "linear" else _cubic(part)
    return [
        _tap(oy.add(start, float(offset)), weight, n, border, low, high)
        for offset, weight in zip(offsets, weights, strict=True)
    ]


def _between(x: Any, low: float, high: float) -> Any:
    return oy.minimum(oy.maximum(x, low), high)


def _tap(place: Any, weight: Any, n: int, border: str, low: float, high: float) -> tuple[Any, Any]:
    if border == "reflection":
        outside = oy.logical_or(oy.less(place, low), oy.greater(place, high))
        place = oy.where(outside, oy.trunc(_reflected(place, low, high)), place)
    inside = _between(place, 0.0, n - 1.0)
    if border == "zeros":
        there = oy.cast(oy.equal(place, inside), dtype=place.dtype.name)
        weight = there if weight is None else oy.multiply(weight, there)
    return oy.cast(inside, dtype="int64"), weight


def _linear(part: Any) -> list[Any]:
    return [oy.subtract(1.0, part), part]


def _cubic(part: Any) -> list[Any]:
    """Keys, IEEE ASSP 29(6), 1981, equation 4, with the coefficient -0.75."""
    a = -0.75

    def near(d: Any) -> Any:
        return oy.add(oy.multiply(oy.square(d), oy.subtract(oy.multiply(d, a + 2), a + 3)), 1.0)

    def far(d: Any) -> Any:
        inner = oy.add(oy.multiply(d, oy.subtract(d, 5.0)), 8.0)
        return oy.multiply(oy.subtract(oy.multiply(d, inner), 4.0), a)

    other = oy.subtract(1.0, part)
    return [far(oy.add(part, 1.0)), near(part), near(other), far(oy.add(other, 1.0))]


def _bilinear(image: Array, y: Array, x: Array) -> Array:
    """Pixels of ``image [..., h, w]`` at places between them, zeros outside: ``[..., *y.shape]``."""
    h, w = image.shape[-2:]
    top, left = np.floor(y), np.floor(x)
    total: Any = 0.0
    for dy, dx in product((0, 1), (0, 1)):
        row, column = top + dy, left + dx
        weight = (1 - np.abs(y - row)) * (1 - np.abs(x - column))
        inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
        rows, columns = np.clip(row, 0, h - 1).astype(np.int64), np.clip(column, 0, w - 1).astype(np.int64)
        total = total + image[..., rows, columns] * np.where(inside, weight, 0.0)
    return np.asarray(total)


def _roi_spec(
    x: oy.TensorSpec, rois: oy.TensorSpec, _: oy.TensorSpec, *, size: Any, **__: Any
) -> oy.TensorSpec:
    return x.with_shape((rois.shape[0], x.shape[1], *size))


@oy.op("onnx.roi_align", infer=_roi_spec)
def roi_align_op(
    x: Any, rois: Any, batch: Any, *, size: Any, samples: int, scale: float, offset: float, mode: str
) -> Any:
    """Pools regions ``rois [r, 4]`` of ``x [n, c, h, w]`` to ``[r, c, *size]``. Source: He et al. 2017; ONNX RoiAlign.

    Each bin is the mean, or the greatest term, of ``samples`` by ``samples`` bilinear samples; 0 samples means as many as
    the bin has pixels. Regions begin and end ``offset`` before their numbers; without an offset they have at least one pixel.
    """
    height, width = x.shape[2:]
    found = np.zeros((rois.shape[0], x.shape[1], *size))
    for number, (roi, image) in enumerate(zip(rois.astype(np.float64) * scale - offset, batch, strict=True)):
        extent = roi[[3, 2]] - roi[[1, 0]]
        extent = extent if offset else np.maximum(extent, 1.0)
        bins = extent / size
        counts = [samples or math.ceil(b) for b in bins]
        ys, xs = (
            start + (np.arange(n)[:, None] + (np.arange(count) + 0.5) / count) * step
            for start, n, count, step in zip(roi[[1, 0]], size, counts, bins, strict=True)
        )
        y, x_ = np.broadcast_arrays(ys[:, :, None, None], xs[None, None])
        found[number] = _pooled_bins(x[image], y, x_, (height, width), mode)
    return found


def _pooled_bins(image: Array, y: Array, x: Array, sizes: tuple[int, int], mode: str) -> Array:
    """``[c, h, w]`` at samples ``[bins, samples, bins, samples]``: ``[c, bins, bins]``."""
    height, width = sizes
    outside = (y < -1) | (y > height) | (x < -1) | (x > width)
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    if mode == "max":
        terms = []
        for dy, dx in product((0, 1), (0, 1)):
            row, column = np.minimum(np.floor(y) + dy, height - 1), np.minimum(np.floor(x) + dx, width - 1)
            wy = (y - np.floor(y)) if dy else 1 - (y - np.floor(y))
            wx = (x - np.floor(x)) if dx else 1 - (x - np.floor(x))
            pixel = image[:, row.astype(np.int64), column.astype(np.int64)]
            terms.append(pixel * np.where(outside, 0.0, wy * wx))
        return np.asarray(np.max(np.stack(terms), axis=(0, 3, 5)))
    return np.asarray(np.where(outside, 0.0, _bilinear(image.astype(np.float64), y, x)).mean(axis=(2, 4)))


def roi_align(node: OnnxNode) -> Any:
    default = "half_pixel" if node.version >= 16 else "output_half_pixel"
    half = node.attribute("coordinate_transformation_mode", default) == "half_pixel"
    return roi_align_op(
        *node.inputs,
        size=(node.attribute("output_height", 1), node.attribute("output_width", 1)),
        samples=node.attribute("sampling_ratio", 0),
        scale=node.attribute("spatial_scale", 1.0),
        offset=0.5 if half else 0.0,
        mode=node.attribute("mode", "avg"),
    )


def _deform_spec(
    x: oy.TensorSpec, weight: oy.TensorSpec, offset: oy.TensorSpec, *_: Any, **__: Any
) -> oy.TensorSpec:
    return x.with_shape((x.shape[0], weight.shape[0], *offset.shape[2:]))


@oy.op("onnx.deform_conv", infer=_deform_spec)
def deform_conv_op(
    x: Any, weight: Any, offset: Any, bias: Any = None, mask: Any = None,
    *, strides: Any, padding: Any, dilations: Any, groups: int, offset_groups: int,
) -> Any:  # fmt: skip
    """Convolution of images whose taps are moved by ``offset``. Source: Dai et al. 2017; ONNX DeformConv, two spatial axes.

    ``x [n, c, h, w]``, ``weight [o, c / groups, kh, kw]``, ``offset [n, offset_groups * kh * kw * 2, *windows]``, ``mask`` a
    factor for each tap ``[n, offset_groups * kh * kw, *windows]`` -> ``[n, o, *windows]``.
    """
    n, channels = x.shape[:2]
    kernel, out = weight.shape[2:], offset.shape[2:]
    taps = math.prod(kernel)
    moves = offset.reshape(n, offset_groups, taps, 2, *out)
    factors = (
        np.ones((n, offset_groups, taps, *out))
        if mask is None
        else mask.reshape(n, offset_groups, taps, *out)
    )
    grid = [
        (np.arange(size) * s - before).reshape((-1, 1) if axis == 0 else (1, -1))
        for axis, (size, s, (before, _)) in enumerate(zip(out, strides, padding, strict=True))
    ]
    columns = np.zeros((n, channels, taps, *out))
    per = channels // offset_groups
    for image, group in product(range(n), range(offset_groups)):
        for tap, (i, j) in enumerate(product(*map(range, kernel))):
            y = grid[0] + i * dilations[0] + moves[image, group, tap, 0]
            at = grid[1] + j * dilations[1] + moves[image, group, tap, 1]
            part = slice(group * per, (group + 1) * per)
            columns[image, part, tap] = _bilinear(x[image, part], y, at) * factors[image, group, tap]
    grouped = columns.reshape(n, groups, channels // groups * taps, math.prod(out))
    matrix = weight.reshape(groups, weight.shape[0] // groups, -1)
    found = np.matmul(matrix, grouped).reshape(n, weight.shape[0], *out)
    return found if bias is None else found + bias.reshape(-1, 1, 1)


def deform_conv(node: OnnxNode) -> Any:
    options = geometry(node, node.x.ndim - 2)
    options["groups"] = node.attribute("group", 1)
    options["offset_groups"] = node.attribute("offset_group", 1)
    inputs = [node.get(position) for position in range(5)]
    call: Any = deform_conv_op
    return call(*inputs, **options)


OPERATORS = (
    Operator("DeformConv", 19, deform_conv),
    Operator("GridSample", 16, grid_sample),
    Operator("RoiAlign", 10, roi_align),
)

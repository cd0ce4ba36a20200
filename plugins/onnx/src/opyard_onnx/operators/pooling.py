"""Poolings, their inverse, and the pooled positions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import opyard as oy
from opyard.ops.windows import padding_pairs
from opyard_onnx.limits import require_size
from opyard_onnx.node import OnnxNode
from opyard_onnx.operators.table import Operator, direct
from opyard_onnx.operators.windows import geometry, window_places


def _options(node: OnnxNode) -> dict[str, Any]:
    kernel = node.attribute("kernel_shape")
    ceil = bool(node.attribute("ceil_mode", 0))
    return {"kernel": kernel, "ceil_mode": ceil, **geometry(node, len(kernel))}


def average_pool(node: OnnxNode) -> Any:
    include = bool(node.attribute("count_include_pad", 0))
    return oy.average_pool(node.x, count_include_pad=include, **_options(node))


def lp_pool(node: OnnxNode) -> Any:
    return oy.lp_pool(node.x, p=node.attribute("p", 2), **_options(node))


def global_lp_pool(node: OnnxNode) -> Any:
    power, axes = float(node.attribute("p", 2)), tuple(range(2, node.x.ndim))
    return oy.pow(oy.sum(oy.pow(oy.abs(node.x), power), axis=axes, keepdims=True), 1 / power)


def max_pool(node: OnnxNode) -> Any:
    options = _options(node)
    found = oy.max_pool(node.x, **options)
    return (found, _positions(node, options, found)) if node.wants(1) else found


def _positions(node: OnnxNode, options: dict[str, Any], found: Any) -> Any:
    """Where in the flat tensor the greatest elements lie: every window is gathered, with a last element for the padding."""
    x, sizes = node.x, tuple(int(n) for n in node.x.shape[2:])
    counts, kernel = tuple(int(n) for n in found.shape[2:]), options["kernel"]
    pairs = padding_pairs(options["padding"], sizes, kernel, options["strides"], options["dilations"])
    before = tuple(pair[0] for pair in pairs)
    places = window_places(sizes, counts, kernel, options["strides"], before, options["dilations"])
    table = places.reshape(math.prod(counts), math.prod(kernel))
    images, area = math.prod(int(n) for n in x.shape[:2]), math.prod(sizes)
    least = -np.inf if x.dtype.kind in "fV" else np.iinfo(x.dtype).min
    flat = oy.pad(oy.reshape(x, shape=(images, area)), pads=((0, 0), (0, 1)), value=least)
    windows = oy.reshape(
        oy.gather(flat, node.constant(table.reshape(-1)), axis=1), shape=(images, *table.shape)
    )
    winner = oy.argmax(windows, axis=2)
    rows = np.arange(table.shape[0]) * table.shape[1]
    if node.attribute("storage_order", 0):
        order = np.arange(area + 1)
        order[:area] = np.ravel_multi_index(np.unravel_index(np.arange(area), sizes)[::-1], sizes[::-1])
        table = order[table]
    inside = oy.gather(node.constant(table.reshape(-1)), oy.add(winner, node.constant(rows)), axis=0)
    offset = node.constant(np.arange(images)[:, None] * area)
    return oy.reshape(oy.add(inside, offset), shape=found.shape)


def max_unpool(node: OnnxNode) -> Any:
    """Elements at the positions that MaxPool gave, zeros elsewhere. Source: ONNX MaxUnpool."""
    x, positions = node.inputs[:2]
    kernel = node.attribute("kernel_shape")
    rank = len(kernel)
    steps, pads = node.attribute("strides", (1,) * rank), node.attribute("pads", (0,) * 2 * rank)
    sizes = tuple(
        (int(n) - 1) * s - pads[i] - pads[rank + i] + k
        for i, (n, s, k) in enumerate(zip(x.shape[2:], steps, kernel, strict=True))
    )
    plain = (*(int(n) for n in x.shape[:2]), *sizes)
    wanted = node.sizes(2) if node.get(2) is not None else plain
    count = math.prod(plain)
    require_size(count, "MaxUnpool")
    zeros = node.constant(np.zeros(count, x.dtype))
    flat = (math.prod(int(n) for n in x.shape),)
    found = oy.scatter(zeros, oy.reshape(positions, shape=flat), oy.reshape(x, shape=flat), axis=0)
    found = oy.reshape(found, shape=plain)
    pairs = tuple((0, int(w) - n) for w, n in zip(wanted, plain, strict=True))
    return oy.pad(found, pads=pairs) if any(after for _, after in pairs) else found


def columns_to_image(node: OnnxNode) -> Any:
    """Columns of windows, added up where windows overlap. Source: ONNX Col2Im."""
    x, image, block = node.x, node.sizes(1), node.sizes(2)
    rank = len(image)
    options = geometry(node, rank)
    before = tuple(pair[0] for pair in options["padding"])
    counts = tuple(
        (n + sum(pair) - d * (k - 1) - 1) // s + 1
        for n, pair, d, k, s in zip(
            image, options["padding"], options["dilations"], block, options["strides"], strict=True
        )
    )
    places = window_places(image, counts, block, options["strides"], before, options["dilations"])
    table = np.moveaxis(places.reshape(math.prod(counts), math.prod(block)), 0, 1).reshape(-1)
    batch, area = int(x.shape[0]), math.prod(image)
    channels = int(x.shape[1]) // math.prod(block)
    values = oy.reshape(x, shape=(batch * channels, table.size))
    require_size(batch * channels * (area + table.size), "Col2Im")
    zeros = node.constant(np.zeros((batch * channels, area + 1), x.dtype))
    indices = node.constant(np.ascontiguousarray(np.broadcast_to(table, (batch * channels, table.size))))
    found = oy.scatter(zeros, indices, values, axis=1, reduction="add")
    return oy.reshape(oy.slice(found, starts=(0,), stops=(area,), axes=(1,)), shape=(batch, channels, *image))


OPERATORS = (
    Operator("AveragePool", 1, average_pool),
    Operator("Col2Im", 18, columns_to_image),
    Operator("GlobalAveragePool", 1, direct(oy.global_average_pool)),
    Operator("GlobalLpPool", 1, global_lp_pool),
    Operator("GlobalMaxPool", 1, direct(oy.global_max_pool)),
    Operator("LpPool", 1, lp_pool),
    Operator("MaxPool", 1, max_pool),
    Operator("MaxUnpool", 9, max_unpool),
)

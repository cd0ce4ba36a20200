"""Operators that make, move, join and index elements."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import opyard as oy
from opyard_onnx.errors import ModelError
from opyard_onnx.limits import LARGEST, require_parts, require_size
from opyard_onnx.node import OnnxNode
from opyard_onnx.operators.table import Operator
from opyard_onnx.tensors import dtype_of

_CONSTANTS = {
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_string": object,
    "value_strings": object,
}
"""Attributes of Constant by the dtype that they have."""


def constant(node: OnnxNode) -> Any:
    for name, dtype in _CONSTANTS.items():
        if node.has(name):
            return np.array(node.attribute(name), dtype)
    if node.has("sparse_value"):
        from opyard_onnx.importer import dense

        return dense(node.attribute("sparse_value").sparse_tensor, node.importer.file.external)
    return node.attribute("value")


def constant_of_shape(node: OnnxNode) -> Any:
    value = node.attribute("value", np.zeros(1, np.float32)).reshape(())
    return _full(node, node.sizes(0), value)


def _full(node: OnnxNode, shape: tuple[Any, ...], value: Any) -> Any:
    if value.dtype.kind == "V":
        return oy.broadcast_to(node.constant(value), shape=shape)
    given = {"shape": shape, "value": value.item(), "dtype": value.dtype.name}
    if all(isinstance(n, int) for n in shape) and math.prod(shape) <= LARGEST:
        return oy.full(**given)
    return node.importer.graph.apply(oy.full.op, (), given)


def identity(node: OnnxNode) -> Any:
    return oy.identity(node.x) if isinstance(node.x, oy.Value) else node.x


def reshape(node: OnnxNode) -> Any:
    x, wanted = node.x, node.integers("shape", 1)
    if not node.attribute("allowzero", 0):
        wanted = tuple(x.shape[i] if n == 0 and isinstance(n, int) else n for i, n in enumerate(wanted))
    if isinstance(x, np.ndarray):
        return np.reshape(x, wanted)
    if -1 in wanted and 0 in wanted:
        wanted = tuple(0 if n == -1 else n for n in wanted)
    if -1 in wanted and any(n == 0 for n in x.shape):
        rest = math.prod(n for n in wanted if n != -1)
        wanted = tuple(0 // rest if n == -1 else n for n in wanted)
    return oy.reshape(x, shape=wanted)


def transpose(node: OnnxNode) -> Any:
    return oy.permute_dims(node.x, axes=node.attribute("perm", tuple(range(node.x.ndim))[::-1]))


def squeeze(node: OnnxNode) -> Any:
    axes = node.integers("axes", 1)
    if axes is None:
        axes = tuple(i for i, n in enumerate(node.x.shape) if isinstance(n, int) and n == 1)
    return oy.squeeze(node.x, axis=axes)


def unsqueeze(node: OnnxNode) -> Any:
    axes = node.integers("axes", 1)
    if isinstance(node.x, np.ndarray):
        return np.expand_dims(node.x, axes)
    return oy.expand_dims(node.x, axis=axes)


def flatten(node: OnnxNode) -> Any:
    return oy.flatten(node.x, axis=node.attribute("axis", 1))


def concat(node: OnnxNode) -> Any:
    if isinstance(node.x, np.ndarray):
        return np.concatenate(node.inputs, axis=node.attribute("axis"))
    return oy.concat(*node.inputs, axis=node.attribute("axis", 1))


def split_sizes(size: Any, count: int) -> tuple[int, ...]:
    """Sizes of ``count`` parts, all equal but for a smaller last one."""
    each = -(-size // count)
    return tuple(max(0, min(each, size - each * i)) for i in range(count))


def split(node: OnnxNode) -> Any:
    axis = node.attribute("axis", 0)
    sections = node.integers("split", 1)
    if sections is None:
        count = node.attribute("num_outputs", len(node.outputs))
        require_parts(count, "Split")
        sections = split_sizes(int(node.x.shape[axis]), count)
    return tuple(oy.split(node.x, sections=tuple(sections), axis=axis))


def slice_(node: OnnxNode) -> Any:
    starts, stops = node.integers("starts", 1), node.integers("ends", 2)
    axes, steps = node.integers("axes", 3), node.sizes(4) if node.get(4) is not None else None
    return oy.slice(node.x, starts=starts, stops=stops, axes=axes, steps=steps)


def gather(node: OnnxNode) -> Any:
    x, indices = node.inputs
    axis = node.attribute("axis", 0)
    if isinstance(x, np.ndarray):
        return np.take(x, node.value(1), axis=axis)
    return oy.gather(x, indices, axis=axis)


def gather_elements(node: OnnxNode) -> Any:
    x, indices = node.inputs
    axis = node.attribute("axis", 0) % x.ndim
    # the other axes of the indices may be shorter than those of the data
    sizes = [n if i == axis else m for i, (n, m) in enumerate(zip(x.shape, indices.shape, strict=True))]
    if tuple(sizes) != tuple(x.shape):
        x = oy.slice(x, starts=(0,) * x.ndim, stops=tuple(sizes))
    return oy.take_along_axis(x, indices, axis=axis)


def gather_nd(node: OnnxNode) -> Any:
    x, indices = node.inputs
    return oy.gather_nd(x, indices, batch_dims=node.attribute("batch_dims", 0))


def scatter(node: OnnxNode) -> Any:
    x, indices, updates = node.inputs
    return oy.scatter(x, indices, updates, axis=node.attribute("axis", 0), reduction=_reduction(node))


def scatter_nd(node: OnnxNode) -> Any:
    x, indices, updates = node.inputs
    return oy.scatter_nd(x, indices, updates, reduction=_reduction(node))


def _reduction(node: OnnxNode) -> str:
    found: str = node.attribute("reduction", "none")
    return found


def expand(node: OnnxNode) -> Any:
    from opyard.spec import broadcast

    wanted = node.sizes(1)
    if isinstance(node.x, np.ndarray):
        return np.broadcast_to(node.x, np.broadcast_shapes(node.x.shape, wanted))
    return oy.broadcast_to(node.x, shape=broadcast(node.x.shape, wanted))


def tile(node: OnnxNode) -> Any:
    if node.version < 6:
        times = tuple(int(node.number(1)) if i == int(node.number(2)) else 1 for i in range(node.x.ndim))
        return oy.tile(node.x, repetitions=times)
    return oy.tile(node.x, repetitions=node.sizes(1))


PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}


def pad(node: OnnxNode) -> Any:
    """Negative pads cut elements off."""
    x = node.x
    pads = node.integers("pads", 1) if node.version >= 2 else node.attribute("paddings")
    axes = node.sizes(3) if node.get(3) is not None else tuple(range(x.ndim))
    value = node.number(2, 0) if node.version >= 11 else node.attribute("value", 0.0)
    half = len(pads) // 2
    pairs = [(0, 0)] * x.ndim
    for axis, before, after in zip(axes, pads[:half], pads[half:], strict=True):
        pairs[axis] = (int(before), int(after))
    cut = [(max(0, -before), max(0, -after)) for before, after in pairs]
    if any(n for pair in cut for n in pair):
        stops = tuple(-after if after else None for _, after in cut)
        x = oy.slice(x, starts=tuple(before for before, _ in cut), stops=stops)
    kept = tuple((max(0, before), max(0, after)) for before, after in pairs)
    mode = node.attribute("mode", "constant")
    if mode == "constant":
        return oy.pad(x, pads=kept, value=value)
    return oy.pad(x, pads=kept, mode=PAD_MODES.get(mode, mode))


def shape(node: OnnxNode) -> Any:
    if not isinstance(node.x, oy.Value):
        found = node.constant(np.array(np.shape(node.x), np.int64))
    else:
        found = oy.shape_of(node.x)
    start, end = node.attribute("start", 0), node.attribute("end", None)
    if start == 0 and end is None:
        return found
    return oy.slice(found, starts=(start,), stops=(end,))


def size(node: OnnxNode) -> Any:
    return oy.size_of(node.x) if isinstance(node.x, oy.Value) else np.array(np.size(node.x), np.int64)


def range_(node: OnnxNode) -> Any:
    start, limit, delta = (node.importer.value(entry) for entry in node.inputs)
    dtype = node.x.dtype
    if any(n.dtype == object for n in (start, limit, delta)):
        if start.item() == 0 and delta.item() == 1:
            return oy.iota(size=limit.item(), dtype=dtype.name)
        raise ModelError(
            "Range with symbolic limits counts from 0 by 1 only; give the model's inputs concrete shapes."
        )
    count = max(0, math.ceil((limit.item() - start.item()) / delta.item()))
    require_size(count, "Range")
    numbers = np.arange(count) * delta.astype(np.float64 if dtype.kind in "fV" else dtype)
    return node.constant((numbers + start.astype(numbers.dtype)).astype(dtype))


def eye_like(node: OnnxNode) -> Any:
    rows, columns = node.x.shape
    dtype = dtype_of(node.attribute("dtype")) if node.has("dtype") else node.x.dtype
    require_size(rows * columns, "EyeLike")
    return oy.eye(rows=rows, columns=columns, k=node.attribute("k", 0), dtype=dtype.name)


def one_hot(node: OnnxNode) -> Any:
    """Indices out of range give ``off`` everywhere."""
    indices, values = node.x, node.inputs[2]
    depth, axis = int(node.number(1)), node.attribute("axis", -1)
    whole = oy.cast(indices, dtype="int64")
    places = oy.where(oy.less(whole, 0), oy.add(whole, depth), whole)
    axis = axis % (indices.ndim + 1)
    require_size(depth, "the depth of OneHot")
    numbers = node.constant(np.arange(depth).reshape(-1, *(1,) * (indices.ndim - axis)))
    chosen = oy.equal(oy.expand_dims(places, axis=axis), numbers)
    off, on = (oy.slice(values, starts=(i,), stops=(i + 1,)) for i in (0, 1))
    single = (1,) * (indices.ndim + 1)
    return oy.where(chosen, oy.reshape(on, shape=single), oy.reshape(off, shape=single))


def triangle(node: OnnxNode) -> Any:
    k = int(node.number(1, 0))
    return (oy.triu if node.attribute("upper", 1) else oy.tril)(node.x, k=k)


def depth_to_space(node: OnnxNode) -> Any:
    return oy.depth_to_space(
        node.x, block_size=node.attribute("blocksize"), mode=node.attribute("mode", "DCR")
    )


def space_to_depth(node: OnnxNode) -> Any:
    block = node.attribute("blocksize")
    if node.attribute("mode", "DCR") == "DCR":
        return oy.space_to_depth(node.x, block_size=block)
    n, c, h, w = node.x.shape
    parts = oy.reshape(node.x, shape=(n, c, h // block, block, w // block, block))
    moved = oy.permute_dims(parts, axes=(0, 1, 3, 5, 2, 4))
    return oy.reshape(moved, shape=(n, c * block * block, h // block, w // block))


def reverse_sequence(node: OnnxNode) -> Any:
    """Of each sequence the first ``length`` elements turn around. Source: ONNX ReverseSequence."""
    x, lengths = node.inputs
    time, batch = node.attribute("time_axis", 0), node.attribute("batch_axis", 1)
    steps = x.shape[time]
    require_size(steps, "the time axis of ReverseSequence")
    shape_of_time = tuple(steps if i == time else 1 for i in range(x.ndim))
    shape_of_batch = tuple(x.shape[batch] if i == batch else 1 for i in range(x.ndim))
    numbers = oy.reshape(node.constant(np.arange(int(steps))), shape=shape_of_time)
    last = oy.reshape(oy.cast(lengths, dtype="int64"), shape=shape_of_batch)
    places = oy.where(oy.less(numbers, last), oy.subtract(oy.subtract(last, 1), numbers), numbers)
    return oy.take_along_axis(x, oy.broadcast_to(places, shape=x.shape), axis=time)


def center_crop_pad(node: OnnxNode) -> Any:
    x, wanted = node.x, node.sizes(1)
    axes = [a % x.ndim for a in node.attribute("axes", tuple(range(x.ndim)))]
    starts, stops, pads = [0] * x.ndim, list(x.shape), [(0, 0)] * x.ndim
    for axis, target in zip(axes, wanted, strict=True):
        have = x.shape[axis]
        if target < have:
            starts[axis] = (have - target) // 2
            stops[axis] = starts[axis] + target
        elif target > have:
            before = (target - have) // 2
            pads[axis] = (before, target - have - before)
    return oy.pad(oy.slice(x, starts=tuple(starts), stops=tuple(stops)), pads=tuple(pads))


def nonzero(node: OnnxNode) -> Any:
    """The numbers decide about the shape: they are asked for, and the rest of the model is a stage of its own."""
    return np.stack(np.nonzero(node.value(0))).astype(np.int64)


def compress(node: OnnxNode) -> Any:
    x, axis = node.x, node.attribute("axis", None)
    chosen = np.flatnonzero(node.value(1))
    if axis is None:
        x, axis = oy.reshape(x, shape=(-1,)), 0
    return oy.gather(x, node.constant(chosen), axis=axis)


def unique(node: OnnxNode) -> Any:
    """Source: ONNX Unique; unsorted ones in the order in which they first occur."""
    axis = node.attribute("axis", None)
    x = node.value(0)
    found, first, inverse, counts = np.unique(
        x if axis is not None else x.reshape(-1), True, True, True, axis=axis
    )
    inverse = inverse.reshape(-1)
    if not node.attribute("sorted", 1):
        order = np.argsort(first)
        rank = np.argsort(order)
        found = np.take(found, order, axis=0 if axis is None else axis)
        first, counts, inverse = first[order], counts[order], rank[inverse]
    return (found, *(a.astype(np.int64) for a in (first, inverse, counts)))


def tensor_scatter(node: OnnxNode) -> Any:
    """Updates of a cache from a position on, each row of the batch from its own. Source: ONNX TensorScatter."""
    cache, update = node.x, node.inputs[1]
    axis = node.attribute("axis", -2) % cache.ndim
    length, count = int(cache.shape[axis]), int(update.shape[axis])
    batch = int(cache.shape[0])
    require_size(batch * count, "TensorScatter")
    starts = node.get(2)
    if starts is None:
        starts = node.constant(np.zeros(batch, np.int64))
    places = oy.add(oy.expand_dims(oy.cast(starts, dtype="int64"), axis=1), node.constant(np.arange(count)))
    if node.attribute("mode", "linear") == "circular":
        places = oy.remainder(places, length)
    shape_ = tuple(batch if i == 0 else count if i == axis else 1 for i in range(cache.ndim))
    places = oy.broadcast_to(oy.reshape(places, shape=shape_), shape=update.shape)
    return oy.scatter(cache, places, update, axis=axis)


OPERATORS = (
    Operator("CenterCropPad", 18, center_crop_pad),
    Operator("Compress", 9, compress),
    Operator("Concat", 1, concat),
    Operator("Constant", 1, constant),
    Operator("ConstantOfShape", 9, constant_of_shape),
    Operator("DepthToSpace", 1, depth_to_space),
    Operator("Expand", 8, expand),
    Operator("EyeLike", 9, eye_like),
    Operator("Flatten", 1, flatten),
    Operator("Gather", 1, gather),
    Operator("GatherElements", 11, gather_elements),
    Operator("GatherND", 11, gather_nd),
    Operator("Identity", 1, identity),
    Operator("NonZero", 9, nonzero),
    Operator("OneHot", 9, one_hot),
    Operator("Pad", 1, pad),
    Operator("Range", 11, range_),
    Operator("Reshape", 5, reshape),
    Operator("ReverseSequence", 10, reverse_sequence),
    Operator("Scatter", 9, scatter),
    Operator("ScatterElements", 11, scatter),
    Operator("ScatterND", 11, scatter_nd),
    Operator("Shape", 1, shape),
    Operator("Size", 1, size),
    Operator("Slice", 1, slice_),
    Operator("SpaceToDepth", 1, space_to_depth),
    Operator("Split", 1, split),
    Operator("Squeeze", 1, squeeze),
    Operator("TensorScatter", 24, tensor_scatter),
    Operator("Tile", 1, tile),
    Operator("Transpose", 1, transpose),
    Operator("Trilu", 14, triangle),
    Operator("Unique", 11, unique),
    Operator("Unsqueeze", 1, unsqueeze),
)

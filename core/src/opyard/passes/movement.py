"""Movement: chains of reshapes and permutations that amount to one of them, or to nothing, become that.

Each value is followed as a view, by sizes and strides, of the elements of the value that its chain begins with.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ..graph import Graph, Node, Value
from ..infer import normalize_axis
from ..operation import Op
from ..ops.shape import expand_dims, flatten, matrix_transpose, permute_dims, reshape, squeeze
from ..rewrite import Rewrite

Sizes = tuple[int, ...]

_RESHAPES = frozenset(function.op for function in (reshape, flatten, expand_dims, squeeze))
_PERMUTATIONS = frozenset(function.op for function in (permute_dims, matrix_transpose))


class _View(NamedTuple):
    """What a value is of another: its element i, j, ... is number ``i * strides[0] + j * strides[1] + ...`` of ``base``."""

    base: Value
    sizes: Sizes
    strides: Sizes


def merge_movement(graph: Graph) -> Graph:
    """The graph with chains of movement made shorter where all sizes are known, and none is 0."""
    rewrite = Rewrite(graph)
    views: dict[Value, _View] = {}
    for node in graph.nodes:
        movement = node.op in _RESHAPES or node.op in _PERMUTATIONS
        if not movement or not node.outputs[0].spec.is_concrete or not node.outputs[0].spec.size:
            rewrite.copy(node)
            continue
        source = rewrite.inputs(node)[0]
        assert source is not None
        before = views.get(source) or _whole(source)
        view = (
            _permuted(before, node)
            if node.op in _PERMUTATIONS
            else _reshaped(before, _sizes(node.outputs[0]))
        )
        found = _direct(rewrite, node, view) if view and view.base is not source else None
        if found is None:
            (found,) = rewrite.copy(node)
        rewrite[node.outputs[0]] = found
        views[found] = view or _whole(found)
    return rewrite.finish()


def _sizes(value: Value) -> Sizes:
    return tuple(map(int, value.shape))


def _dense(sizes: Sizes) -> Sizes:
    """The strides of an array in row-major order."""
    return tuple(math.prod(sizes[axis + 1 :]) for axis in range(len(sizes)))


def _whole(value: Value) -> _View:
    return _View(value, _sizes(value), _dense(_sizes(value)))


def _permuted(view: _View, node: Node) -> _View:
    rank = len(view.sizes)
    axes = node.call.attrs.get("axes", (*range(rank - 2), rank - 1, rank - 2))
    order = [normalize_axis(axis, rank) for axis in axes]
    return _View(view.base, tuple(view.sizes[i] for i in order), tuple(view.strides[i] for i in order))


def _reshaped(view: _View, sizes: Sizes) -> _View | None:
    """The view in other sizes, in row-major order; None where no strides describe it."""
    runs: list[list[int]] = []  # [size, stride] of axes that are one run of elements at equal distances
    for size, stride in zip(view.sizes, view.strides, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][1] == size * stride:
            runs[-1] = [runs[-1][0] * size, stride]
        else:
            runs.append([size, stride])
    strides = [0] * len(sizes)
    for axis in reversed(range(len(sizes))):
        if sizes[axis] == 1:
            continue
        while runs and runs[-1][0] == 1:
            runs.pop()
        left, stride = runs[-1]
        if left % sizes[axis]:
            return None
        strides[axis] = stride
        runs[-1] = [left // sizes[axis], stride * sizes[axis]]
    return _View(view.base, sizes, tuple(strides))


def _direct(rewrite: Rewrite, node: Node, view: _View) -> Value | None:
    """A value that the view is of its base: the base itself, or by one call; None where it takes more than that."""
    base, sizes = view.base, _sizes(view.base)
    moved = [(n, s) for n, s in zip(view.sizes, view.strides, strict=True) if n > 1]
    dense = [(n, s) for n, s in zip(view.sizes, _dense(view.sizes), strict=True) if n > 1]
    if moved == dense:
        return base if view.sizes == sizes else _called(rewrite, node, reshape.op, base, shape=view.sizes)
    axes = _permutation(view, sizes)
    return None if axes is None else _called(rewrite, node, permute_dims.op, base, axes=axes)


def _permutation(view: _View, sizes: Sizes) -> Sizes | None:
    """The axes of the base, of these sizes, in the order of the view; None where it is no permutation of them."""
    places = {pair: axis for axis, pair in enumerate(zip(sizes, _dense(sizes), strict=True)) if pair[0] > 1}
    ones = iter([axis for axis, size in enumerate(sizes) if size == 1])
    pairs = zip(view.sizes, view.strides, strict=True)
    axes = [next(ones, None) if pair[0] == 1 else places.get(pair) for pair in pairs]
    known = [axis for axis in axes if axis is not None]
    return tuple(known) if len(known) == len(axes) == len(sizes) else None


def _called(rewrite: Rewrite, node: Node, op: Op, base: Value, **attributes: Sizes) -> Value:
    return rewrite.graph.append(op.call(base.spec, **attributes), (base,), node.mark)[0]

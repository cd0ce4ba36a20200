"""Sizes in rules of gradients, where they may be symbolic."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...dim import Dim
from ...spec import Shape
from ..arithmetic import Array, constant_like
from ..creation import shape_of
from ..shape import broadcast_to, reshape
from ..slicing import slice


def size_of_axis(x: Array, axis: int) -> Any:
    """The size of an axis: a number, or, where it is symbolic, a value of the graph, int64 ``[]``."""
    size = x.shape[axis]
    if not isinstance(size, Dim):
        return np.int64(size)
    return reshape(slice(shape_of(x), starts=(axis,), stops=(axis + 1,)), shape=())


def filled(number: float, shape: Shape, like: Array) -> Array:
    """A tensor of one number in the dtype of ``like``, a value, as nodes of its graph: no array of this shape is kept."""
    constant = like.graph.constant(constant_like(number, like))
    return broadcast_to(constant, shape=tuple(shape)) if shape else constant

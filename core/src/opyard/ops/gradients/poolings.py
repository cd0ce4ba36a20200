"""Gradients of pooling: what each window got goes back to its elements."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import windows
from ..arithmetic import Array, divide
from ..backward import give_back, max_pool_gradient
from ..pooling import average_pool, elements_per_window, max_pool, pool_geometry
from ..shape import broadcast_to, reshape


def _max_pool(g: Array, y: Array, x: Array, **attributes: Any) -> Array:
    windows.require_numbers("x", x.shape[2:])
    return max_pool_gradient(x, g, **attributes)


def _average_pool(g: Array, y: Array, x: Array, *, count_include_pad: bool, **attributes: Any) -> Array:
    windows.require_numbers("x", x.shape[2:])
    geometry = pool_geometry(x.ndim - 2, attributes["kernel"], attributes["strides"], attributes["dilations"])
    kernel, steps, gaps = geometry
    padding, sizes = attributes["padding"], tuple(map(int, x.shape[2:]))
    pairs = windows.padding_pairs(padding, sizes, *geometry)
    elements = elements_per_window(sizes, geometry, padding, attributes["ceil_mode"], count_include_pad)
    share = divide(g, np.maximum(elements, 1).astype(g.dtype))

    def parts(shape: tuple[int, ...]) -> Array:
        return broadcast_to(reshape(share, shape=(shape[0], 1, *shape[2:])), shape=shape)

    return give_back(parts, x, tuple(y.shape[2:]), kernel, steps, gaps, pairs)


RULES = {max_pool.op: _max_pool, average_pool.op: _average_pool}

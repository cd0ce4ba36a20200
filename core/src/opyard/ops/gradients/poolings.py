"""Gradients of pooling: what each window got goes back to its elements."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from ...opfunction import op
from ...spec import TensorSpec
from .. import windows
from ..arithmetic import Array, constant_like, divide
from ..comparison import equal, greater
from ..pooling import average_pool, elements_per_window, max_pool, pool_geometry, pool_windows
from ..rearrange import pad
from ..selection import where
from ..shape import broadcast_to, permute_dims, reshape
from ..slicing import slice
from ._sizes import require_numbers
from .products import spread


def _positions_spec(x: TensorSpec, **attributes: Any) -> TensorSpec:
    return max_pool.op.call(x, **attributes).output.with_dtype("int32")


def _positions_from_taps(
    x: Array, *, kernel: Any, strides: Any, padding: Any, dilations: Any, ceil_mode: bool
) -> Array:
    """Compares the elements of all windows that have one place in their window, place by place."""
    rank = x.ndim - 2
    sizes, steps, gaps = pool_geometry(rank, kernel, strides, dilations)
    require_numbers("x", x.shape[2:])
    pairs = windows.padding_pairs(padding, x.shape[2:], sizes, steps, gaps)
    counts = windows.window_counts(x.shape[2:], sizes, steps, padding, gaps, ceil_mode)
    padded = [int(n) + before + after for n, (before, after) in zip(x.shape[2:], pairs, strict=True)]
    extents = windows.window_extents(sizes, gaps)
    beyond = windows.missing_after(tuple(padded), counts, extents, steps)
    ends = tuple((before, after + more) for (before, after), (_, more) in zip(pairs, beyond, strict=True))
    if any(map(any, ends)):
        x = pad(x, pads=((0, 0), (0, 0), *ends), value=-math.inf)
    best: Any = None
    position: Any = None
    for number, tap in enumerate(product(*map(range, sizes))):
        starts = tuple(t * gap for t, gap in zip(tap, gaps, strict=True))
        stops = tuple(s + (int(n) - 1) * step + 1 for s, n, step in zip(starts, counts, steps, strict=True))
        found = slice(x, starts=starts, stops=stops, axes=tuple(range(2, 2 + rank)), steps=steps)
        if best is None:
            best, position = found, np.int32(0)
        else:
            better = greater(found, best)
            best, position = where(better, found, best), where(better, np.int32(number), position)
    return broadcast_to(position, shape=tuple(best.shape))


@op("max_pool_positions", infer=_positions_spec, decompose=_positions_from_taps)
def max_pool_positions(
    x: Array, *, kernel: Any, strides: Any, padding: Any, dilations: Any, ceil_mode: bool
) -> Array:
    """The place of the greatest element in each window, the first of equals, in row-major order: int32 ``[n, c, *windows]``."""
    values = np.asarray(x)
    if values.dtype.kind == "V":
        values = values.astype(np.float32)
    rank = values.ndim - 2
    found = pool_windows(values, -np.inf, pool_geometry(rank, kernel, strides, dilations), padding, ceil_mode)
    return found.reshape(*found.shape[:-rank], math.prod(found.shape[-rank:])).argmax(-1)


def _give_back(
    parts: Callable[[tuple[int, ...]], Array],
    x: Array,
    counts: tuple[int, ...],
    kernel: tuple[int, ...],
    steps: tuple[int, ...],
    gaps: tuple[int, ...],
    pairs: windows.Pairs,
) -> Array:
    """Adds up what windows give to their elements: ``parts(shape)``, with places of the kernel first: ``[n*c, places, *counts]``."""
    rank, (n, c, *sizes) = len(kernel), x.shape
    apart = steps == kernel and set(gaps) == {1} and not any(before for before, _ in pairs)
    taps = parts((n * c, math.prod(kernel), *counts))
    if not apart:
        places = np.eye(math.prod(kernel), dtype=np.float64).reshape(math.prod(kernel), 1, *kernel)
        before = tuple(pair[0] for pair in pairs)
        found = spread(taps, places.astype(taps.dtype), tuple(sizes), steps, gaps, before)
        return reshape(found, shape=tuple(x.shape))
    # each element is in one window at most: it only has to find its place
    order = (0, *(axis for i in range(rank) for axis in (1 + rank + i, 1 + i)))
    turned = permute_dims(reshape(taps, shape=(n * c, *kernel, *counts)), axes=order)
    whole = reshape(turned, shape=(n, c, *(k * int(m) for k, m in zip(kernel, counts, strict=True))))
    spatial = tuple(zip(sizes, whole.shape[2:], strict=True))
    if any(covered > size for size, covered in spatial):
        whole = slice(whole, starts=(0,) * rank, stops=tuple(sizes), axes=tuple(range(2, 2 + rank)))
    if any(covered < size for size, covered in spatial):
        ends = tuple((0, max(size - covered, 0)) for size, covered in spatial)
        whole = pad(whole, pads=((0, 0), (0, 0), *ends))
    return whole


def _max_pool(g: Array, y: Array, x: Array, **attributes: Any) -> Array:
    rank = x.ndim - 2
    require_numbers("x", x.shape[2:])
    kernel, steps, gaps = pool_geometry(
        rank, attributes["kernel"], attributes["strides"], attributes["dilations"]
    )
    pairs = windows.padding_pairs(attributes["padding"], x.shape[2:], kernel, steps, gaps)
    position = max_pool_positions(x, **attributes)
    numbers = np.arange(math.prod(kernel), dtype=np.int32).reshape(-1, *(1,) * rank)

    def parts(shape: tuple[int, ...]) -> Array:
        flat = (shape[0], 1, *shape[2:])
        chosen = equal(reshape(position, shape=flat), numbers)
        return where(chosen, reshape(g, shape=flat), constant_like(0, g))

    return _give_back(parts, x, tuple(y.shape[2:]), kernel, steps, gaps, pairs)


def _average_pool(g: Array, y: Array, x: Array, *, count_include_pad: bool, **attributes: Any) -> Array:
    require_numbers("x", x.shape[2:])
    geometry = pool_geometry(x.ndim - 2, attributes["kernel"], attributes["strides"], attributes["dilations"])
    kernel, steps, gaps = geometry
    padding, sizes = attributes["padding"], tuple(map(int, x.shape[2:]))
    pairs = windows.padding_pairs(padding, sizes, *geometry)
    elements = elements_per_window(sizes, geometry, padding, attributes["ceil_mode"], count_include_pad)
    share = divide(g, np.maximum(elements, 1).astype(g.dtype))

    def parts(shape: tuple[int, ...]) -> Array:
        return broadcast_to(reshape(share, shape=(shape[0], 1, *shape[2:])), shape=shape)

    return _give_back(parts, x, tuple(y.shape[2:]), kernel, steps, gaps, pairs)


RULES = {max_pool.op: _max_pool, average_pool.op: _average_pool}

"""Gradients of windows as ops: what is decomposed into several steps, and deserves a kernel for the whole.

Sources: the chain rule; Dumoulin and Visin, arXiv:1603.07285.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from ..cases import Case, Cost, Draw, Tolerance, case
from ..errors import SpecError
from ..infer import require_kind
from ..operation import Call
from ..opfunction import op
from ..spec import TensorSpec, promote
from . import windows
from ._attributes import require_integer
from ._precision import wide
from ._reference import precise
from .arithmetic import Array, constant_like
from .comparison import equal, greater
from .convolution import Padding, PerAxis, conv, conv_transpose
from .pooling import max_pool, pool_geometry, pool_windows
from .rearrange import pad
from .selection import where
from .shape import broadcast_to, permute_dims, reshape
from .slicing import slice

__all__ = ["conv_weight_gradient", "max_pool_gradient"]


def spread(
    values: Array,
    weight: Array,
    sizes: tuple[int, ...],
    steps: tuple[int, ...],
    dilations: tuple[int, ...],
    before: tuple[int, ...],
    groups: int = 1,
) -> Array:
    """The transposed convolution that undoes the windows of an input with these spatial ``sizes``, padded ``before``.

    ``values`` is ``[n, o, *counts]``, ``weight`` ``[o, c / groups, *kernel]``; the result ``[n, c, *sizes]``.
    """
    extents = windows.window_extents(tuple(weight.shape[2:]), dilations)
    pairs, extra = [], []
    for size, count, extent, step, ahead in zip(sizes, values.shape[2:], extents, steps, before, strict=True):
        beyond = (count - 1) * step + extent - ahead - size
        if not isinstance(beyond, int):
            raise SpecError(
                f"the gradient needs to know how far the last window reaches along a spatial axis of size {size}; with a stride above 1 the size must be a number."
            )
        pairs.append((ahead, max(beyond, 0)))
        extra.append(max(-beyond, 0))
    return conv_transpose(
        *(values, weight),
        strides=steps,
        padding=tuple(pairs),
        output_padding=tuple(extra),
        dilations=dilations,
        groups=groups,
    )


def give_back(
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


# The weights of a convolution ----------------------------------------------------------------------------------------


def _of_weights(
    x: TensorSpec,
    g: TensorSpec,
    *,
    kernel: tuple[int, ...],
    strides: PerAxis = 1,
    padding: Padding = 0,
    dilations: PerAxis = 1,
    groups: int = 1,
) -> TensorSpec:
    rank = windows.spatial_rank(x)
    sizes = windows.per_axis(kernel, rank, "kernel")
    require_integer(groups, "groups", 1)
    if g.ndim != x.ndim:
        raise SpecError(f"g has the shape of conv's output, of rank {x.ndim}; it is {g!r}.")
    weight = TensorSpec((g.shape[1], x.shape[1] // groups, *sizes), promote(x.dtype, g.dtype))
    attributes = {"strides": strides, "padding": padding, "dilations": dilations, "groups": groups}
    output = conv.op.call(x, weight, None, **attributes).output
    if output.is_concrete and g.is_concrete and output.shape != g.shape:
        raise SpecError(f"g has the shape of conv's output, {output.shape}; it is {g!r}.")
    return weight


def _weights_from_conv(
    x: Array,
    g: Array,
    *,
    kernel: tuple[int, ...],
    strides: PerAxis = 1,
    padding: Padding = 0,
    dilations: PerAxis = 1,
    groups: int = 1,
) -> Array:
    """A convolution whose batch are the channels, whose channels are the batch, and whose kernel is ``g``."""
    rank = len(kernel)
    windows.require_numbers("the input and the output", g.shape[2:])
    n, c, *sizes = x.shape
    steps = windows.per_axis(strides, rank, "strides")
    gaps = windows.per_axis(dilations, rank, "dilations")
    pairs = windows.padding_pairs(padding, tuple(sizes), kernel, steps, gaps)
    spatial = tuple(range(2, 2 + rank))
    grouped = reshape(x, shape=(n, groups, c // groups, *sizes))
    turned = permute_dims(grouped, axes=(2, 1, 0, *(axis + 1 for axis in spatial)))
    batches = reshape(turned, shape=(c // groups, groups * n, *sizes))
    filters = permute_dims(g, axes=(1, 0, *spatial))
    found = conv(batches, filters, strides=gaps, padding=pairs, dilations=steps, groups=groups)
    if tuple(found.shape[2:]) != kernel:  # windows that the strides left out reach one place further
        found = slice(found, starts=(0,) * rank, stops=kernel, axes=spatial)
    return permute_dims(found, axes=(1, 0, *spatial))


def _weight_terms(call: Call) -> float:
    """How many products one element is the sum of: one for each window."""
    g = call.inputs[1]
    assert g is not None
    return float(int(g.size) // max(int(g.shape[1]), 1))


def _weight_cost(call: Call) -> Cost:
    return Cost(2.0 * _weight_terms(call) * int(call.output.size), call.bytes)


def _weight_cases() -> list[Case]:
    return [
        case((1, 3, 8, 8), (1, 4, 6, 6), kernel=(3, 3)),
        case((2, 3, 9, 7), (2, 4, 5, 4), kernel=(3, 2), strides=2, padding=1),
        case(
            (2, 4, 9, 7),
            (2, 6, 4, 9),
            kernel=(3, 3),
            strides=(2, 1),
            padding=(1, 2),
            dilations=(2, 1),
            groups=2,
        ),
        case((2, 4, 7, 7), (2, 4, 7, 7), kernel=(3, 3), padding="same_upper", groups=4),
        case((1, 2, 8, 6), (1, 3, 4, 3), kernel=(2, 4), strides=2, padding="same_lower"),
        case((1, 2, 5, 6), (1, 3, 5, 5), kernel=(3, 3), padding=((0, 2), (1, 0))),
        case((1, 3, 5, 5), (1, 2, 5, 5), kernel=(1, 1), padding="valid"),
        case((2, 3, 11), (2, 4, 9), kernel=(3,), padding=1, dilations=2),
        case((1, 2, 5, 6, 4), (1, 3, 6, 3, 5), kernel=(2, 3, 2), strides=(1, 2, 1), padding=1),
        case((0, 3, 5, 5), (0, 2, 3, 3), kernel=(3, 3)),
        case((5, 16, 33, 31), (5, 8, 33, 31), kernel=(3, 3), padding=1),
        case(Draw((1, 2, 5, 5), "float64"), Draw((1, 3, 3, 3), "float64"), kernel=(3, 3)),
        case(Draw((1, 4, 6, 6), "float16"), Draw((1, 3, 4, 4), "float16"), kernel=(3, 3)),
        case(Draw((1, 4, 6, 6), "bfloat16"), Draw((1, 3, 6, 6), "bfloat16"), kernel=(3, 3), padding=1),
    ]


def _beyond_edges(x: Array, g: Array, *, kernel: tuple[int, ...], padding: Any, **attributes: Any) -> Array:
    """Output channels with a cotangent that is not finite, where there is padding. ``[o, 1, 1, ...]``."""
    sizes, rank = x.shape[2:], len(kernel)
    strange = ~np.isfinite(wide(g)).all(axis=(0, *range(2, g.ndim)))
    steps, gaps = (windows.per_axis(attributes[name], rank, name) for name in ("strides", "dilations"))
    padded = any(map(any, windows.padding_pairs(padding, sizes, kernel, steps, gaps)))
    return (strange & padded).reshape(-1, *(1,) * (1 + rank))


@op(
    "conv_weight_gradient",
    infer=_of_weights,
    decompose=_weights_from_conv,
    cost=_weight_cost,
    cases=_weight_cases,
    terms=_weight_terms,
    unspecified=_beyond_edges,
)
def conv_weight_gradient(
    x: Array,
    g: Array,
    *,
    kernel: tuple[int, ...],
    strides: PerAxis = 1,
    padding: Padding = 0,
    dilations: PerAxis = 1,
    groups: int = 1,
) -> Array:
    """The gradient of ``conv`` by its weights: ``x [n, c, *spatial], g [n, o, *windows] -> [o, c / groups, *kernel]``.

    ``g`` is the cotangent of the output; the other attributes are those of the convolution. With padding the result of a channel
    whose cotangents are not all finite is unspecified, as that of ``conv`` is for its weights.
    """
    values, cotangents = wide(x), wide(g)
    rank = len(kernel)
    steps = windows.per_axis(strides, rank, "strides")
    gaps = windows.per_axis(dilations, rank, "dilations")
    pairs = windows.padding_pairs(padding, values.shape[2:], kernel, steps, gaps)
    views = windows.windows(windows.pad_spatial(values, pairs, 0), g.shape[2:], kernel, steps, gaps)
    n, o = cotangents.shape[:2]
    seen = views.reshape(n, groups, views.shape[1] // groups, *views.shape[2:])
    parts = cotangents.reshape(n, groups, o // groups, *cotangents.shape[2:])
    summed = (0, *range(2, 2 + rank))  # images and windows
    return np.concatenate([np.tensordot(parts[:, i], seen[:, i], (summed, summed)) for i in range(groups)])


# The maxima of windows -----------------------------------------------------------------------------------------------


def _positions_spec(x: TensorSpec, **attributes: Any) -> TensorSpec:
    return max_pool.op.call(x, **attributes).output.with_dtype("int32")


def _positions_from_taps(
    x: Array, *, kernel: Any, strides: Any, padding: Any, dilations: Any, ceil_mode: bool
) -> Array:
    """Compares the elements of all windows that have one place in their window, place by place."""
    rank = x.ndim - 2
    sizes, steps, gaps = pool_geometry(rank, kernel, strides, dilations)
    windows.require_numbers("x", x.shape[2:])
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


def _of_maxima(
    x: TensorSpec,
    g: TensorSpec,
    *,
    kernel: PerAxis,
    strides: PerAxis | None = None,
    padding: Padding = 0,
    dilations: PerAxis = 1,
    ceil_mode: bool = False,
) -> TensorSpec:
    require_kind(x, "real floating")
    attributes = {"kernel": kernel, "strides": strides, "padding": padding, "dilations": dilations}
    output = max_pool.op.call(x, **attributes, ceil_mode=ceil_mode).output
    if g.dtype != x.dtype or g.ndim != x.ndim or (g.is_concrete and output.is_concrete and g != output):
        raise SpecError(f"g has the shape and dtype of max_pool's output, {output!r}; it is {g!r}.")
    return x


def _maxima_from_positions(
    x: Array,
    g: Array,
    *,
    kernel: PerAxis,
    strides: PerAxis | None = None,
    padding: Padding = 0,
    dilations: PerAxis = 1,
    ceil_mode: bool = False,
) -> Array:
    rank = x.ndim - 2
    windows.require_numbers("x", x.shape[2:])
    sizes, steps, gaps = pool_geometry(rank, kernel, strides, dilations)
    pairs = windows.padding_pairs(padding, x.shape[2:], sizes, steps, gaps)
    position = max_pool_positions(
        x, kernel=kernel, strides=strides, padding=padding, dilations=dilations, ceil_mode=ceil_mode
    )
    numbers = np.arange(math.prod(sizes), dtype=np.int32).reshape(-1, *(1,) * rank)

    def parts(shape: tuple[int, ...]) -> Array:
        flat = (shape[0], 1, *shape[2:])
        chosen = equal(reshape(position, shape=flat), numbers)
        return where(chosen, reshape(g, shape=flat), constant_like(0, g))

    return give_back(parts, x, tuple(g.shape[2:]), sizes, steps, gaps, pairs)


def _maxima_cases() -> list[Case]:
    """Those of max_pool whose gradients are floats."""
    found = []
    for one in max_pool.op.cases():
        (x,) = one.inputs
        assert x is not None
        output = max_pool.op.call(x.spec, **one.attributes).output
        if "int" not in x.dtype:
            found.append(case(x, Draw(tuple(map(int, output.shape)), x.dtype), **one.attributes))
    return found


def _maxima_cost(call: Call) -> Cost:
    g = call.inputs[1]
    assert g is not None
    window = pool_geometry(g.ndim - 2, call.attrs["kernel"], None, 1)[0]
    return Cost(2.0 * int(g.size) * math.prod(window), call.bytes)


def _beside_nan(x: Array, g: Array, **attributes: Any) -> Array:
    """The channels with a NaN in them."""
    values = precise(x)
    return np.isnan(values).any(axis=tuple(range(2, values.ndim)), keepdims=True)


@op(
    "max_pool_gradient",
    infer=_of_maxima,
    decompose=_maxima_from_positions,
    cost=_maxima_cost,
    cases=_maxima_cases,
    tolerance=Tolerance(4, scaled=True),
    unspecified=_beside_nan,
)
def max_pool_gradient(
    x: Array,
    g: Array,
    *,
    kernel: PerAxis,
    strides: PerAxis | None = None,
    padding: Padding = 0,
    dilations: PerAxis = 1,
    ceil_mode: bool = False,
) -> Array:
    """The gradient of ``max_pool``: ``x [n, c, *spatial], g [n, c, *windows] -> [n, c, *spatial]``.

    Each element gets the sum of what is in ``g`` for the windows of which it is the greatest, the first of equals in
    row-major order. What is all padding gives nothing. In a channel with a NaN the result is unspecified.
    """
    values, cotangents = precise(x), precise(g)
    rank, shape = values.ndim - 2, values.shape
    geometry = pool_geometry(rank, kernel, strides, dilations)
    numbers = np.broadcast_to(np.arange(values.size, dtype=np.float64).reshape(shape), shape)
    options = (geometry, padding, ceil_mode)
    found = pool_windows(values, -np.inf, *options)
    flat = (*found.shape[:-rank], math.prod(found.shape[-rank:]))
    best = found.reshape(flat).argmax(-1)[..., None]
    places = np.take_along_axis(pool_windows(numbers, -1.0, *options).reshape(flat), best, -1)[..., 0]
    result = np.zeros(values.size + 1, cotangents.dtype)
    np.add.at(result, places.astype(np.int64), cotangents)  # what is padding adds to the last
    return result[:-1].reshape(shape)

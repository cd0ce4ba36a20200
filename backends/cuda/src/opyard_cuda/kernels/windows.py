"""Convolution and pooling over ``[batch, channels, *spatial]``: windows as a strided view, then cuBLAS or a reduction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from opyard.ops import windows
from opyard.spec import Shape

from ..array_module import xp
from . import reductions
from .movement import pad_constant
from .reductions import wide

Pairs = tuple[tuple[int, int], ...]
Sizes = tuple[int, ...]


def _numbers(shape: Shape) -> Sizes:
    return tuple(int(n) for n in shape)


def _padded(x: Any, pairs: Pairs, fill: float) -> Any:
    return pad_constant(x, (*((0, 0),) * (x.ndim - len(pairs)), *pairs), fill)


def _windows_of(x: Any, counts: Sizes, kernel: Sizes, strides: Sizes, dilations: Sizes) -> Any:
    """A view of all windows: ``[*leading, *spatial] -> [*leading, *counts, *kernel]``. It is never written to."""
    lead = x.ndim - len(kernel)
    steps = tuple(step * s for step, s in zip(x.strides[lead:], strides, strict=True))
    taps = tuple(step * d for step, d in zip(x.strides[lead:], dilations, strict=True))
    shape = (*x.shape[:lead], *counts, *kernel)
    return xp().lib.stride_tricks.as_strided(x, shape, (*x.strides[:lead], *steps, *taps))


def _with_bias(result: Any, bias: Any) -> Any:
    return result if bias is None else result + wide(bias).reshape(-1, *(1,) * (result.ndim - 2))


def _result_dtype(*arrays: Any) -> Any:
    return xp().result_type(*(array.dtype for array in arrays if array is not None))


def conv(
    x: Any, weight: Any, bias: Any = None, *, strides: Any, padding: Any, dilations: Any, groups: int
) -> Any:
    """Convolution: the windows of each group as rows of a matrix, times the weights (im2col)."""
    dtype = _result_dtype(x, weight, bias)
    kernel, rank = weight.shape[2:], x.ndim - 2
    steps = windows.per_axis(strides, rank, "strides")
    spread = windows.per_axis(dilations, rank, "dilations")
    counts = _numbers(windows.window_counts(x.shape[2:], kernel, steps, padding, spread))
    padded = _padded(x, windows.padding_pairs(padding, x.shape[2:], kernel, steps, spread), 0)
    n, out, area = x.shape[0], math.prod(counts), math.prod(weight.shape[1:])
    grouped = padded.reshape(n, groups, weight.shape[1], *padded.shape[2:])
    patches = _windows_of(grouped, counts, kernel, steps, spread)
    # [n, groups, c / groups, *kernel, *counts]: the product then has the layout of the result
    order = (0, 1, 2, *range(3 + rank, 3 + 2 * rank), *range(3, 3 + rank))
    columns = patches.transpose(order).reshape(n, groups, area, out)
    rows = weight.reshape(groups, weight.shape[0] // groups, area)
    result = xp().matmul(wide(rows), wide(columns)).reshape(n, weight.shape[0], *counts)
    return _with_bias(result, bias).astype(dtype)


def _transposed_geometry(
    call_sizes: Sizes, kernel: Sizes, steps: Sizes, spread: Sizes, extra: Sizes, padding: Any
) -> tuple[Sizes, Pairs]:
    """Spatial sizes of the output of a transposed convolution, and what is cut off there."""
    extents = windows.window_extents(kernel, spread)
    if padding in ("same_upper", "same_lower"):
        totals = [max(0, e - s + p) for e, s, p in zip(extents, steps, extra, strict=True)]
        return tuple(n * s for n, s in zip(call_sizes, steps, strict=True)), tuple(
            windows.split_total(t, padding) for t in totals
        )
    pairs = ((0, 0),) * len(kernel) if padding == "valid" else windows.explicit_pairs(padding, len(kernel))
    full = [(n - 1) * s + e + p for n, s, e, p in zip(call_sizes, steps, extents, extra, strict=True)]
    return tuple(n - before - after for n, (before, after) in zip(full, pairs, strict=True)), pairs


def conv_transpose(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    strides: Any,
    padding: Any,
    output_padding: Any,
    dilations: Any,
    groups: int,
) -> Any:
    """Transposed convolution: one product for all taps, which are then added to the output one by one."""
    dtype = _result_dtype(x, weight, bias)
    kernel, rank, spatial = weight.shape[2:], x.ndim - 2, x.shape[2:]
    steps = windows.per_axis(strides, rank, "strides")
    spread = windows.per_axis(dilations, rank, "dilations")
    extra = windows.per_axis(output_padding, rank, "output_padding", least=0)
    sizes, pairs = _transposed_geometry(spatial, kernel, steps, spread, extra, padding)
    n, channels = x.shape[0], weight.shape[1] * groups
    rows = x.reshape(n, groups, x.shape[1] // groups, math.prod(spatial))
    per_group = weight.reshape(groups, weight.shape[0] // groups, math.prod(weight.shape[1:])).transpose(
        0, 2, 1
    )
    taps = xp().matmul(wide(per_group), wide(rows)).reshape(n, channels, *kernel, *spatial)
    # room for every tap and for the whole output, so that no slice is clipped
    room = [
        max((k - 1) * d + size * s, before + out)
        for k, d, size, s, (before, _), out in zip(kernel, spread, spatial, steps, pairs, sizes, strict=True)
    ]
    full = xp().zeros((n, channels, *room), taps.dtype)
    for tap in product(*map(range, kernel)):
        starts = [index * d for index, d in zip(tap, spread, strict=True)]
        reached = (
            slice(start, start + size * s, s) for start, size, s in zip(starts, spatial, steps, strict=True)
        )
        full[(slice(None), slice(None), *reached)] += taps[(slice(None), slice(None), *tap)]
    cut = (slice(before, before + size) for (before, _), size in zip(pairs, sizes, strict=True))
    return _with_bias(full[(slice(None), slice(None), *cut)], bias).astype(dtype)


@dataclass(frozen=True, slots=True)
class Pooling:
    """The geometry of pooling, one entry for each spatial axis; ``beyond`` is what ceil_mode adds behind the padding."""

    kernel: Sizes
    strides: Sizes
    dilations: Sizes
    counts: Sizes
    padding: Pairs
    beyond: Pairs

    @staticmethod
    def of(x: Any, kernel: Any, strides: Any, padding: Any, dilations: Any, ceil_mode: bool) -> Pooling:
        rank, spatial = x.ndim - 2, x.shape[2:]
        sizes = windows.per_axis(kernel, rank, "kernel")
        steps = sizes if strides is None else windows.per_axis(strides, rank, "strides")
        spread = windows.per_axis(dilations, rank, "dilations")
        counts = _numbers(windows.window_counts(spatial, sizes, steps, padding, spread, ceil_mode))
        pairs = windows.padding_pairs(padding, spatial, sizes, steps, spread)
        room = tuple(before + n + after for n, (before, after) in zip(spatial, pairs, strict=True))
        beyond = windows.missing_after(room, counts, windows.window_extents(sizes, spread), steps)
        return Pooling(sizes, steps, spread, counts, pairs, beyond)

    def windows(self, x: Any, fill: float) -> Any:
        """All windows of ``x`` padded with ``fill``: ``[n, c, *counts, *kernel]``."""
        pairs = tuple(
            (before, after + more)
            for (before, after), (_, more) in zip(self.padding, self.beyond, strict=True)
        )
        return _windows_of(_padded(x, pairs, fill), self.counts, self.kernel, self.strides, self.dilations)

    def elements(self, spatial: Sizes, include_pad: bool) -> np.ndarray[Any, Any]:
        """How many elements each window has: ``[*counts]``. The axes are independent, so it is a product over them."""
        total: np.ndarray[Any, Any] = np.ones((), np.int64)
        for axis, n in enumerate(spatial):
            before, after = self.padding[axis]
            low, high = (0, before + n + after) if include_pad else (before, before + n)
            starts, taps = (
                np.arange(self.counts[axis]) * self.strides[axis],
                np.arange(self.kernel[axis]) * self.dilations[axis],
            )
            places = starts[:, None] + taps
            total = total[..., None] * ((places >= low) & (places < high)).sum(axis=1)
        return total


def _kernel_axes(x: Any) -> tuple[int, ...]:
    return tuple(range(2 - x.ndim, 0))


def max_pool(x: Any, *, kernel: Any, strides: Any, padding: Any, dilations: Any, ceil_mode: bool) -> Any:
    """Greatest element of each window; padding never wins."""
    least = -np.inf if x.dtype.kind == "f" else int(np.iinfo(x.dtype).min)
    pooling = Pooling.of(x, kernel, strides, padding, dilations, ceil_mode)
    return reductions.max(pooling.windows(x, least), axis=_kernel_axes(x), keepdims=False)


def average_pool(
    x: Any,
    *,
    kernel: Any,
    strides: Any,
    padding: Any,
    dilations: Any,
    ceil_mode: bool,
    count_include_pad: bool,
) -> Any:
    """Mean of each window; padding counts as zeros with ``count_include_pad``, else not at all."""
    pooling = Pooling.of(x, kernel, strides, padding, dilations, ceil_mode)
    values = wide(x)
    total = reductions.sum(pooling.windows(values, 0), axis=_kernel_axes(x), keepdims=False)
    elements = np.maximum(pooling.elements(x.shape[2:], count_include_pad), 1)
    uniform = elements.size and (elements == elements.flat[0]).all()
    # a single number needs no transfer
    divisor = float(elements.flat[0]) if uniform else xp().asarray(elements.astype(values.dtype))
    return (total / divisor).astype(x.dtype)


def global_average_pool(x: Any) -> Any:
    """Mean over all spatial axes."""
    return reductions.mean(x, axis=tuple(range(2, x.ndim)), keepdims=True)


def global_max_pool(x: Any) -> Any:
    """Greatest element over all spatial axes."""
    return reductions.max(x, axis=tuple(range(2, x.ndim)), keepdims=True)

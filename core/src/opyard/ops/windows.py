"""Arithmetic of sliding windows over spatial axes, shared by convolution and pooling.

Layout: ``[batch, channels, *spatial]`` with one to three spatial axes. Source: the ONNX operators Conv, ConvTranspose,
MaxPool and AveragePool (opset 22).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dim import Dim
from ..errors import SpecError
from ..spec import Shape, TensorSpec

Size = int | Dim
Pairs = tuple[tuple[int, int], ...]


def spatial_rank(x: TensorSpec) -> int:
    """The number of spatial axes of ``[batch, channels, *spatial]``: one to three."""
    if not 3 <= x.ndim <= 5:
        raise SpecError(
            f"the input is [batch, channels, *spatial] with 1 to 3 spatial axes, it is {x!r}; "
            "add the missing axes: expand_dims(x, axis=0)."
        )
    return x.ndim - 2


def require_numbers(name: str, sizes: Shape) -> None:
    """Raises SpecError for a size without which a gradient cannot be written."""
    for size in sizes:
        if isinstance(size, Dim):
            raise SpecError(
                f"the gradient needs the sizes of {name} as numbers, one is {size!r}; give the graph's input a number there."
            )


def per_axis(value: Any, rank: int, name: str, least: int = 1) -> tuple[int, ...]:
    """One integer, not below ``least``, for each spatial axis; a single integer stands for all axes."""
    values = value if isinstance(value, tuple) else (value,) * rank
    if len(values) != rank or not all(_is_integer(v) and v >= least for v in values):
        raise SpecError(f"{name} is an integer or {rank} integers, each at least {least}; found {value!r}.")
    return values


def padding_pairs(
    padding: Any, sizes: Shape, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> Pairs:
    """(before, after) for each spatial axis. ``sizes`` are those of the input.

    ``padding`` is an integer, one integer or one pair for each axis, "valid" (none), "same_upper" or "same_lower": as much
    as gives ceil(size / stride) windows, with the odd one after or before.
    """
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if padding in ("same_upper", "same_lower"):
        extents = window_extents(kernel, dilations)
        totals = [_same_total(*axis) for axis in zip(sizes, extents, strides, strict=True)]
        return tuple(split_total(total, padding) for total in totals)
    return explicit_pairs(padding, len(kernel))


def explicit_pairs(padding: Any, rank: int) -> Pairs:
    """(before, after) for each of ``rank`` axes, from an integer, integers or pairs."""
    entries = padding if isinstance(padding, tuple) else (padding,) * rank
    pairs = tuple(entry if isinstance(entry, tuple) else (entry, entry) for entry in entries)
    if len(pairs) != rank or not all(
        len(pair) == 2 and all(_is_integer(n) and n >= 0 for n in pair) for pair in pairs
    ):
        raise SpecError(
            f"padding is an integer, {rank} integers, {rank} pairs (before, after), all at least 0, or 'valid', "
            f"'same_upper' or 'same_lower'; found {padding!r}."
        )
    return pairs


def split_total(total: int, side: str) -> tuple[int, int]:
    """(before, after) of a total: the odd one goes after for "same_upper", before for "same_lower"."""
    half = total // 2
    return (half, total - half) if side == "same_upper" else (total - half, half)


def window_extents(kernel: tuple[int, ...], dilations: tuple[int, ...]) -> tuple[int, ...]:
    """How many elements each axis of a dilated window spans."""
    return tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))


def window_counts(
    sizes: Shape,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    padding: Any,
    dilations: tuple[int, ...],
    ceil_mode: bool = False,
) -> Shape:
    """How many windows fit along each spatial axis: the spatial sizes of the output.

    Raises SpecError when not even one fits. With ``ceil_mode`` a last window may reach beyond the padded input, if it
    starts inside the input or the padding before it.
    """
    if padding in ("same_upper", "same_lower"):
        return tuple((n + s - 1) // s for n, s in zip(sizes, strides, strict=True))
    pairs = padding_pairs(padding, sizes, kernel, strides, dilations)
    extents = window_extents(kernel, dilations)
    counts = []
    for axis, (n, (before, after), extent, s) in enumerate(zip(sizes, pairs, extents, strides, strict=True)):
        room = n + before + after - extent
        if isinstance(room, int) and room < 0:
            raise SpecError(
                f"the window spans {extent} elements along spatial axis {axis}, which has {n} and {before + after} of "
                "padding; pad more or use a smaller kernel."
            )
        counts.append(_ceil_count(room, n + before, s) if ceil_mode else room // s + 1)
    return tuple(counts)


def _ceil_count(room: Size, start: Size, stride: int) -> Size:
    count = (room + stride - 1) // stride + 1
    if stride > 1 and (count - 1) * stride >= start:
        return count - 1
    return count


def _same_total(n: Size, extent: int, stride: int) -> int:
    if stride == 1:
        return extent - 1  # also for a symbolic size
    return max(0, int(((n + stride - 1) // stride - 1) * stride + extent - n))


def pad_spatial(x: np.ndarray[Any, Any], pairs: Pairs, fill: Any) -> np.ndarray[Any, Any]:
    """``x`` with its last axes padded by ``fill``, (before, after) each."""
    leading = ((0, 0),) * (x.ndim - len(pairs))
    return np.pad(x, (*leading, *pairs), constant_values=fill)


def transposed_sizes(
    sizes: Shape,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    padding: Any,
    output_padding: tuple[int, ...],
    dilations: tuple[int, ...],
) -> tuple[Shape, Pairs]:
    """Spatial sizes of a transposed convolution's output, and the padding, which is cut off there."""
    extents = window_extents(kernel, dilations)
    if padding in ("same_upper", "same_lower"):
        totals = [max(0, e - s + p) for e, s, p in zip(extents, strides, output_padding, strict=True)]
        pairs = tuple(split_total(total, padding) for total in totals)
        return tuple(n * s for n, s in zip(sizes, strides, strict=True)), pairs
    pairs = ((0, 0),) * len(kernel) if padding == "valid" else explicit_pairs(padding, len(kernel))
    full = [(n - 1) * s + e + p for n, s, e, p in zip(sizes, strides, extents, output_padding, strict=True)]
    return tuple(n - before - after for n, (before, after) in zip(full, pairs, strict=True)), pairs


def missing_after(
    sizes: tuple[int, ...], counts: Shape, extents: tuple[int, ...], strides: tuple[int, ...]
) -> Pairs:
    """Padding that lets ``counts`` windows fit into axes of ``sizes``: only ``ceil_mode`` needs any."""
    needed = [(int(c) - 1) * s + e for c, s, e in zip(counts, strides, extents, strict=True)]
    return tuple((0, max(0, end - n)) for end, n in zip(needed, sizes, strict=True))


def windows(
    x: np.ndarray[Any, Any],
    counts: Shape,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> np.ndarray[Any, Any]:
    """A read-only view of all windows of a padded array: ``[*leading, *spatial] -> [*leading, *counts, *kernel]``."""
    rank = len(kernel)
    leading, spatial = x.strides[: x.ndim - rank], x.strides[x.ndim - rank :]
    steps = tuple(step * s for step, s in zip(spatial, strides, strict=True))
    taps = tuple(step * d for step, d in zip(spatial, dilations, strict=True))
    shape = (*x.shape[: x.ndim - rank], *map(int, counts), *kernel)
    return np.lib.stride_tricks.as_strided(x, shape, (*leading, *steps, *taps), writeable=False)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

"""Where a tap of a sliding window meets the input: the way to convolve and pool without a padded copy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from opyard.ops.windows import Pairs


class Range(NamedTuple):
    """One tap along one axis: output elements ``output`` see the input elements ``input``, equally many of them."""

    output: slice
    input: slice


def tap_ranges(
    sizes: tuple[int, ...],
    counts: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pairs: Pairs,
) -> list[list[Range]]:
    """For each spatial axis and each tap of the kernel along it, the outputs for which the tap is inside the input.

    ``sizes`` are those of the unpadded input, ``counts`` those of the output.
    """
    axes = zip(sizes, counts, kernel, strides, dilations, pairs, strict=True)
    return [
        [_range(n, count, tap * d - before, s) for tap in range(k)] for n, count, k, s, d, (before, _) in axes
    ]


def _range(size: int, count: int, offset: int, stride: int) -> Range:
    first = max(0, -(offset // stride))  # least output i with i * stride + offset >= 0
    last = min(
        count, (size - 1 - offset) // stride + 1
    )  # one more than the greatest with i * stride + offset < size
    if first >= last:
        return Range(slice(0, 0), slice(0, 0))
    start = first * stride + offset
    return Range(slice(first, last), slice(start, start + (last - first - 1) * stride + 1, stride))


def last_axes(entries: Iterable[Any]) -> tuple[Any, ...]:
    """An index into the last axes, one entry for each."""
    return (..., *entries)

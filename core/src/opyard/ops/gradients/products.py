"""Gradients of matrix products and convolutions. Source: the chain rule; for convolutions Dumoulin and Visin, arXiv:1603.07285."""

from __future__ import annotations

import math
from typing import Any

from ...errors import SpecError
from .. import windows
from ..arithmetic import Array
from ..convolution import conv, conv_transpose
from ..linear_algebra import matmul
from ..reduction import sum
from ..shape import expand_dims, matrix_transpose, permute_dims, reshape
from ..slicing import slice
from ._sizes import require_numbers


def _matmul(g: Array, y: Array, x1: Array, x2: Array) -> Any:
    left = expand_dims(x1, axis=0) if x1.ndim == 1 else x1
    right = expand_dims(x2, axis=1) if x2.ndim == 1 else x2
    if x2.ndim == 1:
        g = expand_dims(g, axis=-1)
    if x1.ndim == 1:
        g = expand_dims(g, axis=-2)

    def of_first() -> Array:
        found = matmul(g, matrix_transpose(right))
        return _without(found, -2) if x1.ndim == 1 else found

    def of_second() -> Array:
        if x2.ndim == 2:  # one product of matrices, and not a stack of them that is summed
            return matmul(matrix_transpose(_as_matrix(left)), _as_matrix(g))
        found = matmul(matrix_transpose(left), g)
        return _without(found, -1) if x2.ndim == 1 else found

    return of_first, of_second


def _as_matrix(x: Array) -> Array:
    return x if x.ndim == 2 else reshape(x, shape=(math.prod(x.shape[:-1]), x.shape[-1]))


def _without(x: Array, axis: int) -> Array:
    place = axis % x.ndim
    return reshape(x, shape=(*x.shape[:place], *x.shape[place + 1 :]))


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


def _kernel_gradient(
    wide: Array,
    narrow: Array,
    kernel: tuple[int, ...],
    steps: tuple[int, ...],
    dilations: tuple[int, ...],
    pairs: windows.Pairs,
    groups: int,
) -> Array:
    """Products of the windows of ``wide [n, c, *sizes]`` with ``narrow [n, o, *counts]``: ``[o, c / groups, *kernel]``.

    It is a convolution whose batch are the channels, whose channels are the batch, and whose kernel is ``narrow``.
    """
    rank = len(kernel)
    require_numbers("the input and the output", narrow.shape[2:])
    n, c, *sizes = wide.shape
    spatial = tuple(range(2, 2 + rank))
    grouped = reshape(wide, shape=(n, groups, c // groups, *sizes))
    turned = permute_dims(grouped, axes=(2, 1, 0, *(axis + 1 for axis in spatial)))
    batches = reshape(turned, shape=(c // groups, groups * n, *sizes))
    filters = permute_dims(narrow, axes=(1, 0, *spatial))
    found = conv(batches, filters, strides=dilations, padding=pairs, dilations=steps, groups=groups)
    if tuple(found.shape[2:]) != kernel:  # windows that the strides left out reach one place further
        found = slice(found, starts=(0,) * rank, stops=kernel, axes=spatial)
    return permute_dims(found, axes=(1, 0, *spatial))


def _bias_gradient(g: Array) -> Array:
    return sum(g, axis=(0, *range(2, g.ndim)))


def _conv(
    g: Array,
    y: Array,
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    strides: Any,
    padding: Any,
    dilations: Any,
    groups: int,
) -> Any:
    kernel = tuple(weight.shape[2:])
    rank = len(kernel)
    steps = windows.per_axis(strides, rank, "strides")
    gaps = windows.per_axis(dilations, rank, "dilations")
    sizes = tuple(x.shape[2:])
    pairs = windows.padding_pairs(padding, sizes, kernel, steps, gaps)
    before = tuple(pair[0] for pair in pairs)
    return (
        lambda: spread(g, weight, sizes, steps, gaps, before, groups),
        lambda: _kernel_gradient(x, g, kernel, steps, gaps, pairs, groups),
        lambda: _bias_gradient(g),
    )


def _conv_transpose(
    g: Array,
    y: Array,
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    strides: Any,
    padding: Any,
    output_padding: Any,
    dilations: Any,
    groups: int,
) -> Any:
    kernel = tuple(weight.shape[2:])
    rank = len(kernel)
    steps = windows.per_axis(strides, rank, "strides")
    gaps = windows.per_axis(dilations, rank, "dilations")
    extra = windows.per_axis(output_padding, rank, "output_padding", least=0)
    sizes = tuple(x.shape[2:])
    _, pairs = windows.transposed_sizes(sizes, kernel, steps, padding, extra, gaps)

    def of_input() -> Array:
        found = conv(g, weight, strides=steps, padding=pairs, dilations=gaps, groups=groups)
        if tuple(found.shape[2:]) == sizes:
            return found
        require_numbers("x", sizes)
        return slice(found, starts=(0,) * rank, stops=sizes, axes=tuple(range(2, 2 + rank)))

    return (
        of_input,
        lambda: _kernel_gradient(g, x, kernel, steps, gaps, pairs, groups),
        lambda: _bias_gradient(g),
    )


RULES = {matmul.op: _matmul, conv.op: _conv, conv_transpose.op: _conv_transpose}

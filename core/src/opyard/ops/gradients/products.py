"""Gradients of matrix products and convolutions. Source: the chain rule; for convolutions Dumoulin and Visin, arXiv:1603.07285."""

from __future__ import annotations

import math
from typing import Any

from .. import windows
from ..arithmetic import Array
from ..backward import conv_weight_gradient, spread
from ..convolution import conv, conv_transpose
from ..linear_algebra import einsum, matmul
from ..rearrange import pad
from ..reduction import sum
from ..shape import expand_dims, matrix_transpose, reshape
from ..slicing import slice


def _matmul(g: Array, y: Array, x1: Array, x2: Array) -> Any:
    left = expand_dims(x1, axis=0) if x1.ndim == 1 else x1
    right = expand_dims(x2, axis=1) if x2.ndim == 1 else x2
    if x2.ndim == 1:
        g = expand_dims(g, axis=-1)
    if x1.ndim == 1:
        g = expand_dims(g, axis=-2)

    def of_first() -> Array:
        flat = g.ndim == right.ndim == 2  # then the product may take the matrix as it lies
        found = einsum(g, right, equation="ij,kj->ik") if flat else matmul(g, matrix_transpose(right))
        return _without(found, -2) if x1.ndim == 1 else found

    def of_second() -> Array:
        if x2.ndim == 2:  # one product of matrices, and not a stack of them that is summed
            return einsum(_as_matrix(left), _as_matrix(g), equation="ki,kj->ij")
        found = matmul(matrix_transpose(left), g)
        return _without(found, -1) if x2.ndim == 1 else found

    return of_first, of_second


def _as_matrix(x: Array) -> Array:
    return x if x.ndim == 2 else reshape(x, shape=(math.prod(x.shape[:-1]), x.shape[-1]))


def _without(x: Array, axis: int) -> Array:
    place = axis % x.ndim
    return reshape(x, shape=(*x.shape[:place], *x.shape[place + 1 :]))


def _bias_gradient(g: Array) -> Array:
    return sum(g, axis=(0, *range(2, g.ndim)))


def _conv(g: Array, y: Array, x: Array, weight: Array, bias: Array | None, **attributes: Any) -> Any:
    kernel = tuple(weight.shape[2:])
    rank, sizes, groups = len(kernel), tuple(x.shape[2:]), attributes["groups"]
    steps = windows.per_axis(attributes["strides"], rank, "strides")
    gaps = windows.per_axis(attributes["dilations"], rank, "dilations")
    pairs = windows.padding_pairs(attributes["padding"], sizes, kernel, steps, gaps)
    before = tuple(pair[0] for pair in pairs)
    return (
        lambda: spread(g, weight, sizes, steps, gaps, before, groups),
        lambda: _weight_gradient(x, g, kernel, **attributes),
        lambda: _bias_gradient(g),
    )


def _weight_gradient(wide: Array, narrow: Array, kernel: tuple[int, ...], **attributes: Any) -> Array:
    """Products of the windows of ``wide [n, c, *sizes]`` with ``narrow [n, o, *counts]``: ``[o, c / groups, *kernel]``."""
    windows.require_numbers("the input and the output", narrow.shape[2:])
    return conv_weight_gradient(wide, narrow, kernel=kernel, **attributes)


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
        windows.require_numbers("x", sizes)
        return slice(found, starts=(0,) * rank, stops=sizes, axes=tuple(range(2, 2 + rank)))

    def of_weight() -> Array:
        counts = windows.window_counts(tuple(g.shape[2:]), kernel, steps, pairs, gaps)
        ends = (
            tuple((0, int(n) - int(m)) for n, m in zip(counts, sizes, strict=True)) if counts != sizes else ()
        )
        inputs = (
            pad(x, pads=((0, 0), (0, 0), *ends)) if ends else x
        )  # windows that reach into the output padding
        return _weight_gradient(
            g, inputs, kernel, strides=steps, padding=pairs, dilations=gaps, groups=groups
        )

    return (
        of_input,
        of_weight,
        lambda: _bias_gradient(g),
    )


RULES = {matmul.op: _matmul, conv.op: _conv, conv_transpose.op: _conv_transpose}

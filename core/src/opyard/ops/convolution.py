"""Convolution and its transpose over one to three spatial axes. Source: ONNX operators Conv and ConvTranspose, opset 22."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np

from ..cases import Case, Cost, Draw, case
from ..dim import Dim
from ..errors import SpecError
from ..infer import require_kind
from ..operation import Call
from ..opfunction import op
from ..spec import TensorSpec, promote
from . import windows
from ._attributes import require_integer
from ._precision import wide
from .arithmetic import Array

__all__ = ["conv", "conv_transpose"]

PerAxis = int | tuple[int, ...]
Padding = int | str | tuple[int, ...] | tuple[tuple[int, int], ...]


def _checked(x: TensorSpec, weight: TensorSpec, groups: int) -> tuple[tuple[int, ...], int]:
    """The sizes of the kernel and the number of spatial axes, once ranks, dtypes and groups are known to fit."""
    rank = windows.spatial_rank(x)
    require_kind(x, "real floating", "x")
    require_kind(weight, "real floating", "weight")
    require_integer(groups, "groups", 1)
    if weight.ndim != x.ndim:
        raise SpecError(
            f"weight needs the rank of x, {x.ndim}, with one kernel size for each spatial axis; it is {weight!r}."
        )
    kernel = windows.per_axis(tuple(weight.shape[2:]), rank, "the kernel's size in weight")
    return kernel, rank


def _check_groups(channels: int | Dim, groups: int, what: str) -> None:
    if isinstance(channels, int) and channels % groups:
        raise SpecError(
            f"groups={groups} does not divide the {channels} {what} channels; use one of their divisors."
        )


def _check_bias(bias: TensorSpec | None, channels: int | Dim) -> None:
    if bias is None:
        return
    require_kind(bias, "real floating", "bias")
    if bias.shape != (channels,):
        raise SpecError(f"bias is [{channels}], one number for each output channel; it is {bias!r}.")


def _common_dtype(*specs: TensorSpec | None) -> np.dtype[Any]:
    return promote(*(spec.dtype for spec in specs if spec is not None))


def _conv_infer(
    x: TensorSpec,
    weight: TensorSpec,
    bias: TensorSpec | None,
    *,
    strides: Any,
    padding: Any,
    dilations: Any,
    groups: int,
) -> TensorSpec:
    kernel, rank = _checked(x, weight, groups)
    steps = windows.per_axis(strides, rank, "strides")
    spread = windows.per_axis(dilations, rank, "dilations")
    _check_groups(x.shape[1], groups, "input")
    _check_groups(weight.shape[0], groups, "output")
    channels = x.shape[1] // groups
    if weight.shape[1] != channels and isinstance(channels, int) and isinstance(weight.shape[1], int):
        raise SpecError(
            f"weight is [out, in / groups, *kernel] with in / groups = {channels}, it is {weight!r}; "
            f"x has {x.shape[1]} channels and groups={groups}."
        )
    _check_bias(bias, weight.shape[0])
    counts = windows.window_counts(x.shape[2:], kernel, steps, padding, spread)
    return TensorSpec((x.shape[0], weight.shape[0], *counts), _common_dtype(x, weight, bias))


def _conv_products(call: Call) -> float:
    """How many products one output element is the sum of."""
    weight = call.inputs[1]
    assert weight is not None
    return float(math.prod(int(n) for n in weight.shape[1:]))


def _conv_cost(call: Call) -> Cost:
    weight = call.inputs[1]
    assert weight is not None
    per_output = 2.0 * math.prod(int(n) for n in weight.shape[1:]) + (call.inputs[2] is not None)
    return Cost(per_output * int(call.output.size), call.bytes)


def _conv_cases() -> list[Case]:
    return [
        case((1, 3, 8, 8), (4, 3, 3, 3), (4,)),
        case((2, 3, 9, 7), (4, 3, 3, 2), (4,), strides=2, padding=1),
        case((2, 4, 9, 7), (6, 2, 3, 3), None, strides=(2, 1), padding=(1, 2), dilations=(2, 1), groups=2),
        case((2, 4, 7, 7), (4, 1, 3, 3), (4,), padding="same_upper", groups=4),
        case((1, 2, 8, 6), (3, 2, 2, 4), (3,), strides=2, padding="same_lower"),
        case((1, 2, 5, 6), (3, 2, 3, 3), None, padding=((0, 2), (1, 0))),
        case((1, 3, 5, 5), (2, 3, 1, 1), None, padding="valid"),
        case((2, 3, 11), (4, 3, 3), (4,), padding=1, dilations=2),
        case((1, 2, 5, 6, 4), (3, 2, 2, 3, 2), (3,), strides=(1, 2, 1), padding=1),
        case((0, 3, 5, 5), (2, 3, 3, 3), (2,)),
        case((1, 16, 33, 31), (8, 16, 3, 3), (8,), padding=1),
        case(Draw((1, 2, 5, 5), "float64"), Draw((3, 2, 3, 3), "float64"), None),
        case(Draw((1, 4, 6, 6), "float16"), Draw((3, 4, 3, 3), "float16"), Draw((3,), "float16")),
        case(Draw((1, 4, 6, 6), "bfloat16"), Draw((3, 4, 3, 3), "bfloat16"), None, padding=1),
    ]


def _beyond_edges(x: Array, weight: Array, bias: Array | None, *, padding: Any, **attributes: Any) -> Array:
    """Output channels with a weight that is not finite, where there is padding. ``[1, o, 1, ...]``."""
    strange = ~np.isfinite(wide(weight)).all(axis=tuple(range(1, weight.ndim)))
    sizes, rank = x.shape[2:], x.ndim - 2
    steps, spread = (windows.per_axis(attributes[name], rank, name) for name in ("strides", "dilations"))
    padded = any(map(any, windows.padding_pairs(padding, sizes, weight.shape[2:], steps, spread)))
    return _per_channel(strange & padded, rank)[None]


@op(
    "conv",
    infer=_conv_infer,
    cost=_conv_cost,
    cases=_conv_cases,
    terms=_conv_products,
    unspecified=_beyond_edges,
)
def conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    strides: PerAxis = 1,
    padding: Padding = 0,
    dilations: PerAxis = 1,
    groups: int = 1,
) -> Array:
    """Convolution (cross-correlation) of ``x [n, c, *spatial]`` with ``weight [o, c / groups, *kernel]``, plus ``bias [o]``.

    ``strides`` and ``dilations`` are one integer, or one for each spatial axis. ``padding`` is an integer, one integer or
    one pair (before, after) for each spatial axis, "valid" (none), or "same_upper" or "same_lower": as much as gives
    ceil(size / stride), with the odd one after or before. Each of ``groups`` blocks of output channels sees only its own
    block of input channels. Result: ``[n, o, *windows]``. With padding the result of a channel whose weights are not all finite
    is unspecified: a kernel may leave padding out, or multiply by its zeros.
    """
    x, weight = wide(x), wide(weight)
    kernel = weight.shape[2:]
    rank = len(kernel)
    steps = windows.per_axis(strides, rank, "strides")
    spread = windows.per_axis(dilations, rank, "dilations")
    counts = windows.window_counts(x.shape[2:], kernel, steps, padding, spread)
    padded = windows.pad_spatial(x, windows.padding_pairs(padding, x.shape[2:], kernel, steps, spread), 0)
    grouped = padded.reshape(x.shape[0], groups, weight.shape[1], *padded.shape[2:])
    patches = windows.windows(grouped, counts, kernel, steps, spread)
    # [groups, c / groups, *kernel, *counts]
    order = (0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
    area, out, per_group = math.prod(weight.shape[1:]), math.prod(counts), weight.shape[0] // groups
    matrices = weight.reshape(groups, per_group, area)
    result = np.empty((x.shape[0], groups, per_group, out), np.result_type(x, weight))
    # one image at a time: the columns of all would be many times x
    for image, windows_of_image in zip(result, patches, strict=True):
        np.matmul(matrices, windows_of_image.transpose(order).reshape(groups, area, out), out=image)
    result = result.reshape(x.shape[0], weight.shape[0], *counts)
    return result if bias is None else result + _per_channel(wide(bias), rank)


def _per_channel(bias: Any, rank: int) -> Any:
    return bias.reshape(-1, *(1,) * rank)


def _conv_transpose_infer(
    x: TensorSpec,
    weight: TensorSpec,
    bias: TensorSpec | None,
    *,
    strides: Any,
    padding: Any,
    output_padding: Any,
    dilations: Any,
    groups: int,
) -> TensorSpec:
    kernel, rank = _checked(x, weight, groups)
    steps = windows.per_axis(strides, rank, "strides")
    spread = windows.per_axis(dilations, rank, "dilations")
    extra = windows.per_axis(output_padding, rank, "output_padding", least=0)
    for p, s, d in zip(extra, steps, spread, strict=True):
        if p >= max(s, d):
            raise SpecError(
                f"output_padding is below the stride or the dilation of its axis; found {p} with stride {s} and dilation {d}."
            )
    if weight.shape[0] != x.shape[1] and isinstance(x.shape[1], int) and isinstance(weight.shape[0], int):
        raise SpecError(
            f"weight is [in, out / groups, *kernel] with in = {x.shape[1]}, the channels of x; it is {weight!r}."
        )
    _check_groups(x.shape[1], groups, "input")
    channels = weight.shape[1] * groups
    _check_bias(bias, channels)
    sizes, _ = windows.transposed_sizes(x.shape[2:], kernel, steps, padding, extra, spread)
    for axis, size in enumerate(sizes):
        if isinstance(size, int) and size < 0:
            raise SpecError(
                f"padding={padding!r} cuts off more than there is: spatial axis {axis} would have size {size}; pad less."
            )
    return TensorSpec((x.shape[0], channels, *sizes), _common_dtype(x, weight, bias))


def _transpose_products(call: Call) -> float:
    """How many products one output element is the sum of at most."""
    weight = call.inputs[1]
    assert weight is not None
    return math.prod(int(n) for n in (weight.shape[0], *weight.shape[2:])) / int(call.attrs["groups"])


def _conv_transpose_cost(call: Call) -> Cost:
    x, weight, bias = call.inputs
    assert x is not None and weight is not None
    flops = 2.0 * int(x.size) * math.prod(int(n) for n in weight.shape[1:])
    return Cost(flops + (int(call.output.size) if bias is not None else 0), call.bytes)


def _conv_transpose_cases() -> list[Case]:
    return [
        case((1, 3, 5, 5), (3, 4, 3, 3), (4,)),
        case((2, 3, 5, 4), (3, 4, 3, 2), (4,), strides=2, padding=1, output_padding=1),
        case((2, 4, 5, 4), (4, 3, 3, 3), None, strides=(2, 1), padding=(1, 2), dilations=(2, 1), groups=2),
        case((1, 4, 5, 5), (4, 1, 3, 3), (4,), strides=2, padding="same_upper", groups=4),
        case((1, 2, 4, 3), (2, 3, 4, 2), (3,), strides=(3, 1), padding="same_lower"),
        case((1, 2, 4, 3), (2, 3, 1, 1), (3,), strides=3, padding="same_upper"),
        case((1, 2, 4, 3), (2, 3, 3, 3), None, padding=((0, 2), (1, 0))),
        case((2, 3, 7), (3, 2, 3), (2,), strides=2, padding="valid"),
        case((1, 2, 3, 4, 2), (2, 3, 2, 3, 2), (3,), strides=(1, 2, 2), padding=1),
        case((0, 3, 5, 5), (3, 2, 3, 3), (2,)),
        case((1, 8, 15, 17), (8, 4, 4, 4), (4,), strides=2, padding=1),
        case(Draw((1, 2, 4, 4), "float64"), Draw((2, 3, 3, 3), "float64"), None),
        case(Draw((1, 4, 4, 4), "float16"), Draw((4, 2, 3, 3), "float16"), Draw((2,), "float16")),
        case(Draw((1, 4, 4, 4), "bfloat16"), Draw((4, 2, 3, 3), "bfloat16"), None, strides=2),
    ]


@op(
    "conv_transpose",
    infer=_conv_transpose_infer,
    cost=_conv_transpose_cost,
    cases=_conv_transpose_cases,
    terms=_transpose_products,
)
def conv_transpose(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    strides: PerAxis = 1,
    padding: Padding = 0,
    output_padding: PerAxis = 0,
    dilations: PerAxis = 1,
    groups: int = 1,
) -> Array:
    """Transposed convolution of ``x [n, c, *spatial]`` with ``weight [c, o / groups, *kernel]``, plus ``bias [o]``.

    Each element of ``x`` adds its multiple of the kernel to the output, ``strides`` apart. ``padding`` is cut off the output,
    ``output_padding`` lengthens it at the end: each spatial size is ``(size - 1) * stride + (kernel - 1) * dilation + 1 +
    output_padding - before - after``. "same_upper" and "same_lower" give ``size * stride`` and cut the odd one after or before.
    """
    x, weight = wide(x), wide(weight)
    kernel = weight.shape[2:]
    rank = len(kernel)
    steps = windows.per_axis(strides, rank, "strides")
    spread = windows.per_axis(dilations, rank, "dilations")
    extra = windows.per_axis(output_padding, rank, "output_padding", least=0)
    sizes, pairs = windows.transposed_sizes(x.shape[2:], kernel, steps, padding, extra, spread)
    n, spatial = x.shape[0], x.shape[2:]
    channels = weight.shape[1] * groups
    rows = x.reshape(n, groups, x.shape[1] // groups, math.prod(spatial))
    per_group = weight.reshape(groups, weight.shape[0] // groups, math.prod(weight.shape[1:])).transpose(
        0, 2, 1
    )
    taps = np.matmul(per_group, rows).reshape(n, channels, *kernel, *spatial)
    # room for every tap and for the whole output, so that no slice is clipped
    room = [
        max((k - 1) * d + size * s, before + out)
        for k, d, size, s, (before, _), out in zip(kernel, spread, spatial, steps, pairs, sizes, strict=True)
    ]
    full = np.zeros((n, channels, *room), taps.dtype)
    for tap in product(*map(range, kernel)):
        starts = [index * d for index, d in zip(tap, spread, strict=True)]
        reached = (
            slice(start, start + size * s, s) for start, size, s in zip(starts, spatial, steps, strict=True)
        )
        full[(slice(None), slice(None), *reached)] += taps[(slice(None), slice(None), *tap)]
    cut = (slice(before, before + int(size)) for (before, _), size in zip(pairs, sizes, strict=True))
    result = full[(slice(None), slice(None), *cut)]
    return result if bias is None else result + _per_channel(wide(bias), rank)

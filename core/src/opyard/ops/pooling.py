"""Pooling over windows of one to three spatial axes. Source: ONNX operators MaxPool, AveragePool, LpPool, opset 22."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..cases import Case, Cost, Draw, Tolerance, case
from ..errors import SpecError
from ..infer import require_kind
from ..operation import Call
from ..opfunction import op
from ..spec import TensorSpec
from . import windows
from ._attributes import require_real
from ._precision import cast_to, computing_dtype
from ._reference import precise
from .arithmetic import Array, abs, multiply
from .exponential import pow
from .reduction import max, mean

__all__ = ["average_pool", "global_average_pool", "global_max_pool", "lp_pool", "max_pool"]

PerAxis = int | tuple[int, ...]
Padding = int | str | tuple[int, ...] | tuple[tuple[int, int], ...]
_Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def pool_geometry(rank: int, kernel: Any, strides: Any, dilations: Any) -> _Geometry:
    """Kernel, strides and dilations for each spatial axis; strides are the kernel's sizes unless given."""
    sizes = windows.per_axis(kernel, rank, "kernel")
    steps = sizes if strides is None else windows.per_axis(strides, rank, "strides")
    return sizes, steps, windows.per_axis(dilations, rank, "dilations")


def _pool_infer(kind: str) -> Callable[..., TensorSpec]:
    def infer(
        x: TensorSpec,
        *,
        kernel: Any,
        strides: Any,
        padding: Any,
        dilations: Any,
        ceil_mode: bool,
        **others: Any,
    ) -> TensorSpec:
        require_kind(x, kind)
        sizes, steps, spread = pool_geometry(windows.spatial_rank(x), kernel, strides, dilations)
        if "p" in others and require_real(others["p"], "p") <= 0:
            raise SpecError(
                f"p is above 0; found {others['p']!r}. For the largest absolute value use max_pool(abs(x))."
            )
        if not isinstance(padding, str):
            _refuse_empty_windows(padding, windows.window_extents(sizes, spread))
        counts = windows.window_counts(x.shape[2:], sizes, steps, padding, spread, ceil_mode)
        return x.with_shape((*x.shape[:2], *counts))

    return infer


def _refuse_empty_windows(padding: Any, extents: tuple[int, ...]) -> None:
    pairs = windows.explicit_pairs(padding, len(extents))
    if any(n >= extent for pair, extent in zip(pairs, extents, strict=True) for n in pair):
        raise SpecError(
            f"padding={padding!r} leaves windows that span {extents} elements nothing but padding; pad less."
        )


def pool_windows(x: Any, fill: float, geometry: _Geometry, padding: Any, ceil_mode: bool) -> Any:
    """All windows, ``[n, c, *counts, *kernel]``, of ``x`` padded with ``fill``."""
    sizes, steps, spread = geometry
    counts = windows.window_counts(x.shape[2:], sizes, steps, padding, spread, ceil_mode)
    padded = windows.pad_spatial(x, windows.padding_pairs(padding, x.shape[2:], *geometry), fill)
    extents = windows.window_extents(sizes, spread)
    beyond = windows.missing_after(padded.shape[2:], counts, extents, steps)
    return windows.windows(windows.pad_spatial(padded, beyond, fill), counts, *geometry)


def elements_per_window(
    spatial: tuple[int, ...], geometry: _Geometry, padding: Any, ceil_mode: bool, include_pad: bool
) -> Any:
    """How many elements each window has, ``[*counts]``; what ``ceil_mode`` adds beyond the padding never counts."""
    pairs = windows.padding_pairs(padding, spatial, *geometry)
    ones = windows.pad_spatial(np.ones((1, 1, *spatial)), pairs, float(include_pad))
    sizes, steps, spread = geometry
    counts = windows.window_counts(spatial, sizes, steps, padding, spread, ceil_mode)
    beyond = windows.missing_after(ones.shape[2:], counts, windows.window_extents(sizes, spread), steps)
    return windows.windows(windows.pad_spatial(ones, beyond, 0), counts, *geometry).sum(
        axis=_kernel_axes(len(sizes))
    )[0, 0]


def _kernel_axes(rank: int) -> tuple[int, ...]:
    return tuple(range(-rank, 0))


def _pool_cost(call: Call) -> Cost:
    x = call.inputs[0]
    assert x is not None
    kernel = windows.per_axis(call.attrs["kernel"], x.ndim - 2, "kernel")
    return Cost(float(int(call.output.size) * math.prod(kernel)), call.bytes)


def _pool_cases() -> list[Case]:
    """Shapes and attributes that all three kinds take."""
    return [
        case((1, 2, 8, 8), kernel=2),
        case((2, 3, 9, 7), kernel=(3, 2), strides=2, padding=1),
        case((1, 2, 9, 8), kernel=3, strides=(2, 1), padding=((1, 0), (2, 1))),
        case((1, 2, 9, 8), kernel=3, strides=1, padding=(2, 1), dilations=(2, 1)),
        case((1, 2, 8, 7), kernel=3, strides=2, ceil_mode=True),
        case((1, 2, 8, 7), kernel=3, strides=2, padding=1, ceil_mode=True),
        case((1, 2, 7, 5), kernel=3, strides=2, padding="same_upper"),
        case((1, 2, 6, 5), kernel=2, strides=1, padding="same_lower"),
        case((1, 2, 6, 5), kernel=2, padding="valid"),
        case((2, 3, 11), kernel=3, strides=2),
        case((1, 2, 4, 5, 6), kernel=(2, 3, 2), strides=2),
        case((0, 2, 4, 4), kernel=2),
        case((1, 8, 33, 31), kernel=3, strides=2, padding=1),
        case(Draw((1, 2, 5, 5), "float64"), kernel=3),
        case(Draw((1, 2, 6, 6), "float16"), kernel=3),
        case(Draw((1, 2, 6, 6), "bfloat16"), kernel=3, strides=2),
    ]


def _max_pool_cases() -> list[Case]:
    return [
        *_pool_cases(),
        case(Draw((1, 2, 6, 6), "int32", -9, 9), kernel=2, padding=1),
        case(Draw((1, 2, 6, 6), "uint8", 0, 255), kernel=2),
    ]


@op("max_pool", infer=_pool_infer("real"), cost=_pool_cost, cases=_max_pool_cases, tolerance=Tolerance(0))
def max_pool(
    x: Array,
    *,
    kernel: PerAxis,
    strides: PerAxis | None = None,
    padding: Padding = 0,
    dilations: PerAxis = 1,
    ceil_mode: bool = False,
) -> Array:
    """Greatest element of each window; padding never wins. ``[n, c, *spatial] -> [n, c, *windows]``.

    ``kernel``, ``strides`` (default: the kernel's sizes) and ``dilations`` are one integer, or one for each spatial axis;
    ``padding`` is as in ``conv``. With ``ceil_mode`` a last window may reach beyond the padding. NaN wins.
    A dilated window all of whose elements are padding gives the least value of the dtype.
    """
    values = np.asarray(x)
    if values.dtype.kind == "V":
        values = values.astype(np.float32)
    least = -np.inf if values.dtype.kind == "f" else np.iinfo(values.dtype).min
    geometry = pool_geometry(values.ndim - 2, kernel, strides, dilations)
    return pool_windows(values, least, geometry, padding, ceil_mode).max(axis=_kernel_axes(values.ndim - 2))


def _window_size(call: Call) -> float:
    """How many elements a window has."""
    return float(math.prod(pool_geometry(call.output.ndim - 2, call.attrs["kernel"], None, 1)[0]))


def _average_pool_cases() -> list[Case]:
    return [
        *_pool_cases(),
        case((1, 2, 8, 7), kernel=3, strides=2, padding=1, ceil_mode=True, count_include_pad=True),
        case((1, 2, 8, 7), kernel=3, padding="same_upper", count_include_pad=True),
    ]


@op(
    "average_pool",
    infer=_pool_infer("real floating"),
    cost=_pool_cost,
    cases=_average_pool_cases,
    terms=_window_size,
)
def average_pool(
    x: Array,
    *,
    kernel: PerAxis,
    strides: PerAxis | None = None,
    padding: Padding = 0,
    dilations: PerAxis = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> Array:
    """Mean of each window. ``[n, c, *spatial] -> [n, c, *windows]``.

    Attributes as in ``max_pool``. Padding counts as zeros with ``count_include_pad``, else not at all; what ``ceil_mode`` adds
    beyond the padding never counts. A dilated window all of whose elements are padding gives 0.
    """
    values = precise(x)
    geometry = pool_geometry(values.ndim - 2, kernel, strides, dilations)
    total = pool_windows(values, 0, geometry, padding, ceil_mode).sum(axis=_kernel_axes(values.ndim - 2))
    elements = elements_per_window(values.shape[2:], geometry, padding, ceil_mode, count_include_pad)
    return total / np.maximum(elements, 1)


def _lp_pool_decompose(
    x: Array,
    *,
    kernel: PerAxis,
    p: float = 2,
    strides: PerAxis | None = None,
    padding: Padding = 0,
    dilations: PerAxis = 1,
    ceil_mode: bool = False,
) -> Array:
    values = cast_to(x, computing_dtype(x.dtype))
    mean_power = average_pool(
        pow(abs(values), float(p)),
        kernel=kernel,
        strides=strides,
        padding=padding,
        dilations=dilations,
        ceil_mode=ceil_mode,
        count_include_pad=True,
    )
    geometry = pool_geometry(len(x.shape) - 2, kernel, strides, dilations)
    elements: Any = float(math.prod(geometry[0]))
    if ceil_mode:  # windows at the border may have fewer
        elements = elements_per_window(
            tuple(x.shape[2:]), geometry, padding, ceil_mode, include_pad=True
        ).astype(values.dtype)
    return cast_to(pow(multiply(mean_power, elements), 1.0 / p), x.dtype)


def _lp_pool_cases() -> list[Case]:
    return [*_pool_cases(), case((1, 2, 6, 6), kernel=2, p=1), case((1, 2, 6, 6), kernel=2, strides=1, p=3)]


@op(
    "lp_pool",
    infer=_pool_infer("real floating"),
    decompose=_lp_pool_decompose,
    cost=_pool_cost,
    cases=_lp_pool_cases,
    tolerance=Tolerance(16, scaled=True),
    terms=_window_size,
)
def lp_pool(
    x: Array,
    *,
    kernel: PerAxis,
    p: float = 2,
    strides: PerAxis | None = None,
    padding: Padding = 0,
    dilations: PerAxis = 1,
    ceil_mode: bool = False,
) -> Array:
    """p-norm of each window, ``sum(abs(x) ** p) ** (1 / p)``. ``[n, c, *spatial] -> [n, c, *windows]``.

    Attributes as in ``max_pool``; ``p`` is a number above 0, and padding counts as zeros.
    """
    values = np.abs(precise(x)) ** p
    geometry = pool_geometry(values.ndim - 2, kernel, strides, dilations)
    total = pool_windows(values, 0, geometry, padding, ceil_mode).sum(axis=_kernel_axes(values.ndim - 2))
    return total ** (1.0 / p)


def _global_infer(kind: str) -> Callable[..., TensorSpec]:
    def infer(x: TensorSpec) -> TensorSpec:
        require_kind(x, kind)
        rank = windows.spatial_rank(x)
        if any(n == 0 for n in x.shape[2:]):
            raise SpecError(f"{x!r} has no element to pool in each channel; leave such inputs out.")
        return x.with_shape((*x.shape[:2], *(1,) * rank))

    return infer


def _input_cost(call: Call) -> Cost:
    x = call.inputs[0]
    assert x is not None
    return Cost(float(int(x.size)), call.bytes)


def _global_cases() -> list[Case]:
    return [
        case((2, 3, 5, 7)),
        case((1, 2, 9)),
        case((2, 3, 4, 2, 3)),
        case((0, 3, 4, 4)),
        case((1, 16, 33, 31)),
        case(Draw((2, 3, 5, 5), "float64")),
        case(Draw((2, 3, 5, 5), "float16")),
        case(Draw((2, 3, 5, 5), "bfloat16")),
    ]


def _spatial_axes(x: Array) -> tuple[int, ...]:
    return tuple(range(2, len(x.shape)))


@op(
    "global_average_pool",
    infer=_global_infer("real floating"),
    decompose=lambda x: mean(x, axis=_spatial_axes(x), keepdims=True),
    cost=_input_cost,
    cases=_global_cases,
    terms=lambda call: _input_cost(call).flops / (int(call.output.size) or 1),
)
def global_average_pool(x: Array) -> Array:
    """Mean over all spatial axes. ``[n, c, *spatial] -> [n, c, 1, ...]``."""
    return np.mean(precise(x), axis=_spatial_axes(x), keepdims=True)


def _global_max_cases() -> list[Case]:
    return [*_global_cases(), case(Draw((2, 3, 5, 5), "int32", -9, 9))]


@op(
    "global_max_pool",
    infer=_global_infer("real"),
    decompose=lambda x: max(x, axis=_spatial_axes(x), keepdims=True),
    cost=_input_cost,
    cases=_global_max_cases,
    tolerance=Tolerance(0),
)
def global_max_pool(x: Array) -> Array:
    """Greatest element over all spatial axes; NaN wins. ``[n, c, *spatial] -> [n, c, 1, ...]``."""
    return np.max(x if np.asarray(x).dtype.kind != "V" else precise(x), axis=_spatial_axes(x), keepdims=True)

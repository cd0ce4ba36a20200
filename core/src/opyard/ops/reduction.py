"""Reductions over axes. Source of names and meaning: Python array API standard 2024.12; cumulative_sum: also ONNX CumSum.

``axis`` is an integer, a tuple of integers, or None for all axes; negative axes count from the back. ``keepdims`` keeps
reduced axes with size 1. The dtype of a sum or product is that of its input: unlike the standard, which widens small
integers, so that a graph's dtypes do not change on the way; cast first where int8 sums would overflow (they wrap).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..cases import Cost, Tolerance
from ..dim import Dim
from ..errors import SpecError
from ..infer import normalize_axes, normalize_axis, reduction, require_kind
from ..operation import Call
from ..opfunction import op
from ..spec import TensorSpec
from ._attributes import require_real
from ._precision import cast_to, computing_dtype
from ._reduction_cases import (
    cumulative_cases,
    extremum_cases,
    float_cases,
    mean_cases,
    position_cases,
    product_cases,
    sum_cases,
    truth_cases,
    variance_cases,
)
from .arithmetic import EXACT, Array, add, constant_like, divide, maximum, minimum, multiply, subtract
from .exponential import exp, log, sqrt
from .shape import squeeze

__all__ = [
    "all",
    "any",
    "argmax",
    "argmin",
    "cumulative_sum",
    "logsumexp",
    "max",
    "mean",
    "min",
    "prod",
    "standard_deviation",
    "sum",
    "variance",
]

Axis = int | tuple[int, ...] | None


def native(x: Array) -> Array:
    """``x`` in a dtype that NumPy itself knows, without loss: float32 for bfloat16 and float8, int8 for 4-bit integers.

    NumPy neither sorts nor compares the NaN of ml_dtypes' types as it does its own.
    """
    if x.dtype.kind != "V":
        return x
    return x.astype(np.int8 if "int" in x.dtype.name else np.float32)


def _accumulator(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that sums of ``dtype`` are computed in, so that the reference is exact to a rounding."""
    if dtype.kind in "fV":
        return np.dtype(np.int64 if "int" in dtype.name else np.float64)
    return np.dtype(np.complex128) if dtype.kind == "c" else dtype


def _count(x: Array, axis: Axis) -> int | Dim:
    """Number of elements that one output element is made of."""
    total: int | Dim = 1
    for i in normalize_axes(axis, len(x.shape)):
        total = total * x.shape[i]
    return total


def _infer_extremum(x: TensorSpec, *, axis: Any = None, keepdims: bool = False) -> TensorSpec:
    _require_elements(x, axis)
    return reduction("real")(x, axis=axis, keepdims=keepdims)


def _infer_logsumexp(x: TensorSpec, *, axis: Any = None, keepdims: bool = False) -> TensorSpec:
    require_kind(x, "real floating")
    return _infer_extremum(x, axis=axis, keepdims=keepdims)


def _infer_position(x: TensorSpec, *, axis: Any = None, keepdims: bool = False) -> TensorSpec:
    require_kind(x, "real")
    if axis is not None:
        normalize_axis(axis, x.ndim)
    _require_elements(x, axis)
    return reduction("real", "int64")(x, axis=axis, keepdims=keepdims)


def _require_elements(x: TensorSpec, axis: Any) -> None:
    for i in normalize_axes(axis, x.ndim):
        if x.shape[i] == 0:
            raise SpecError(
                f"axis {i} of {x!r} is empty, and no element has no extremum; leave such inputs out."
            )


def _infer_variance(
    x: TensorSpec, *, axis: Any = None, keepdims: bool = False, correction: Any = 0
) -> TensorSpec:
    require_real(correction, "correction")
    return reduction("real floating")(x, axis=axis, keepdims=keepdims)


def _infer_cumulative(
    x: TensorSpec, *, axis: Any = None, exclusive: bool = False, reverse: bool = False
) -> TensorSpec:
    require_kind(x, "numeric")
    _cumulative_axis(axis, x.ndim)
    return x


def _cumulative_axis(axis: int | None, rank: int) -> int:
    if axis is None and rank != 1:
        raise SpecError(
            f"axis may be left out only for a tensor of rank 1; this one has rank {rank}. Write for example axis=-1."
        )
    return normalize_axis(0 if axis is None else axis, rank)


def _reduced(call: Call) -> float:
    """How many elements one output element is made of."""
    spec = call.inputs[0]
    assert spec is not None
    return int(spec.size) / (int(call.output.size) or 1)


def _summed_up(call: Call) -> float:
    """Length of the axis that is summed up."""
    spec = call.inputs[0]
    assert spec is not None
    return float(int(spec.shape[_cumulative_axis(call.attrs["axis"], spec.ndim)]))


def _cost(flops_per_element: float) -> Any:
    def cost(call: Call) -> Cost:
        spec = call.inputs[0]
        assert spec is not None
        return Cost(flops_per_element * int(spec.size), call.bytes)

    return cost


def _truth_cost(call: Call) -> Cost:
    """One element for each output: the first may decide. All are looked at where it does not."""
    spec = call.inputs[0]
    assert spec is not None
    read = int(call.output.size) * spec.dtype.itemsize if int(spec.size) else 0
    return Cost(float(int(spec.size)), float(read + call.output.nbytes))


@op("sum", infer=reduction("numeric"), cost=_cost(1), cases=sum_cases, terms=_reduced)
def sum(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """Sum over axes, in the dtype of ``x``; 0 where there is nothing to add."""
    return np.sum(native(x), axis=axis, keepdims=keepdims, dtype=_accumulator(x.dtype))


@op(
    "prod",
    infer=reduction("numeric"),
    cost=_cost(1),
    cases=product_cases,
    tolerance=Tolerance(16, scaled=True),
    terms=_reduced,
)
def prod(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """Product over axes, in the dtype of ``x``; 1 where there is nothing to multiply."""
    return np.prod(native(x), axis=axis, keepdims=keepdims, dtype=_accumulator(x.dtype))


@op("max", infer=_infer_extremum, cost=_cost(1), cases=extremum_cases, tolerance=EXACT)
def max(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """Greatest element over axes; NaN where there is one. SpecError for an empty axis."""
    return np.max(native(x), axis=axis, keepdims=keepdims)


@op("min", infer=_infer_extremum, cost=_cost(1), cases=extremum_cases, tolerance=EXACT)
def min(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """Least element over axes; NaN where there is one. SpecError for an empty axis."""
    return np.min(native(x), axis=axis, keepdims=keepdims)


@op("argmax", infer=_infer_position, cost=_cost(1), cases=position_cases)
def argmax(x: Array, *, axis: int | None = None, keepdims: bool = False) -> Array:
    """Position (int64) of the greatest element along ``axis``, the first of equals, or of the first NaN.

    Without ``axis`` the position in the flattened tensor. SpecError for an empty axis.
    """
    return np.argmax(native(x), axis=axis, keepdims=keepdims)


@op("argmin", infer=_infer_position, cost=_cost(1), cases=position_cases)
def argmin(x: Array, *, axis: int | None = None, keepdims: bool = False) -> Array:
    """Position (int64) of the least element along ``axis``, the first of equals, or of the first NaN.

    Without ``axis`` the position in the flattened tensor. SpecError for an empty axis.
    """
    return np.argmin(native(x), axis=axis, keepdims=keepdims)


@op("any", infer=reduction("any", "bool"), cost=_truth_cost, cases=truth_cases)
def any(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """Whether some element over axes is not zero (NaN is not zero); False where there is none."""
    return np.any(native(x) != 0, axis=axis, keepdims=keepdims)


@op("all", infer=reduction("any", "bool"), cost=_truth_cost, cases=truth_cases)
def all(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """Whether no element over axes is zero (NaN is not zero); True where there is none."""
    return np.all(native(x) != 0, axis=axis, keepdims=keepdims)


@op("cumulative_sum", infer=_infer_cumulative, cases=cumulative_cases, terms=_summed_up)
def cumulative_sum(
    x: Array, *, axis: int | None = None, exclusive: bool = False, reverse: bool = False
) -> Array:
    """Sums of all elements up to each one along ``axis``, in the shape and dtype of ``x``.

    ``exclusive`` leaves the element itself out (the first sum is 0), ``reverse`` sums from the back.
    ``axis`` may be left out for rank 1.
    """
    values = np.moveaxis(native(x), _cumulative_axis(axis, x.ndim), -1)
    values = values[..., ::-1] if reverse else values
    sums = np.cumsum(values, axis=-1, dtype=_accumulator(x.dtype))
    if exclusive:
        sums = np.concatenate([np.zeros_like(sums[..., :1]), sums[..., :-1]], axis=-1)
    sums = sums[..., ::-1] if reverse else sums
    return np.moveaxis(sums, -1, _cumulative_axis(axis, x.ndim))


def _decompose_mean(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    return cast_to(_divided_sum(cast_to(x, computing_dtype(x.dtype)), axis, keepdims), x.dtype)


def _divided_sum(x: Array, axis: Axis, keepdims: bool, correction: float = 0.0) -> Array:
    count = float(_count(x, axis)) - correction
    return divide(sum(x, axis=axis, keepdims=keepdims), constant_like(count if count > 0 else 0.0, x))


def _mean(values: Array, axis: Axis, keepdims: bool, correction: float = 0.0) -> Array:
    """Sum over count minus correction: NumPy's own mean warns of empty input instead of just giving NaN."""
    count = float(_count(values, axis)) - correction
    return np.sum(values, axis=axis, keepdims=keepdims) / np.float64(count if count > 0 else 0)


@op(
    "mean",
    infer=reduction("floating"),
    cost=_cost(1),
    decompose=_decompose_mean,
    cases=mean_cases,
    terms=_reduced,
)
def mean(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """Arithmetic mean over axes; NaN where there are no elements."""
    return _mean(native(x).astype(_accumulator(x.dtype)), axis, keepdims)


def _decompose_variance(
    x: Array, *, axis: Axis = None, keepdims: bool = False, correction: float = 0
) -> Array:
    return cast_to(_wide_variance(x, axis, keepdims, correction), x.dtype)


def _wide_variance(x: Array, axis: Axis, keepdims: bool, correction: float) -> Array:
    values = cast_to(x, computing_dtype(x.dtype))
    deviation = subtract(values, _divided_sum(values, axis, keepdims=True))
    return _divided_sum(multiply(deviation, deviation), axis, keepdims, correction)


@op(
    "variance",
    infer=_infer_variance,
    cost=_cost(4),
    decompose=_decompose_variance,
    cases=variance_cases,
    tolerance=Tolerance(16, scaled=True),
    terms=_reduced,
)
def variance(x: Array, *, axis: Axis = None, keepdims: bool = False, correction: float = 0) -> Array:
    """Mean square deviation from the mean over axes, the squares divided by the count minus ``correction``.

    ``correction=1`` gives the unbiased sample variance. A divisor below 0 counts as 0, as in NumPy: NaN or infinity.
    """
    values = native(x).astype(np.float64)
    deviation = values - _mean(values, axis, keepdims=True)
    return _mean(deviation * deviation, axis, keepdims, correction)


def _decompose_deviation(
    x: Array, *, axis: Axis = None, keepdims: bool = False, correction: float = 0
) -> Array:
    return cast_to(sqrt(_wide_variance(x, axis, keepdims, correction)), x.dtype)


@op(
    "standard_deviation",
    infer=_infer_variance,
    cost=_cost(4),
    decompose=_decompose_deviation,
    cases=variance_cases,
    tolerance=Tolerance(16, scaled=True),
    terms=_reduced,
)
def standard_deviation(
    x: Array, *, axis: Axis = None, keepdims: bool = False, correction: float = 0
) -> Array:
    """Square root of ``variance``; the standard calls it ``std``."""
    values = native(x).astype(np.float64)
    deviation = values - _mean(values, axis, keepdims=True)
    return np.sqrt(_mean(deviation * deviation, axis, keepdims, correction))


def _decompose_logsumexp(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    values = cast_to(x, computing_dtype(x.dtype))
    # a finite shift: infinity minus infinity would be NaN where the result is infinite
    largest = float(np.finfo(values.dtype).max)
    limits = constant_like(-largest, values), constant_like(largest, values)
    shift = minimum(maximum(max(values, axis=axis, keepdims=True), limits[0]), limits[1])
    total = add(log(sum(exp(subtract(values, shift)), axis=axis, keepdims=True)), shift)
    return cast_to(total if keepdims else squeeze(total, axis=normalize_axes(axis, len(x.shape))), x.dtype)


@op(
    "logsumexp",
    infer=_infer_logsumexp,
    cost=_cost(4),
    decompose=_decompose_logsumexp,
    cases=float_cases,
    tolerance=Tolerance(8, scaled=True),
    terms=_reduced,
)
def logsumexp(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """Logarithm of the sum of exponentials over axes, without overflow. SpecError for an empty axis.

    Infinite elements give infinite results, NaN gives NaN. Source: ONNX ReduceLogSumExp.
    """
    values = native(x).astype(np.float64)
    shift = np.nan_to_num(np.max(values, axis=axis, keepdims=True), nan=math.nan)
    result = np.log(np.sum(np.exp(values - shift), axis=axis, keepdims=True)) + shift
    return result if keepdims else np.squeeze(result, axis=normalize_axes(axis, x.ndim))

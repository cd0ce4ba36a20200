"""Standard ops that ONNX has no operator for, in terms of those that it has; and what cannot be exported, with the reason.

The formulas keep the precision that the ops promise. float16 and bfloat16 are computed in float32, as the references are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce, wraps
from typing import Any

import numpy as np

import opyard as oy
from opyard.infer import normalize_axes, normalize_axis
from opyard_onnx.errors import UnsupportedModel

Parts = Callable[..., Any]
Array = Any

WITHOUT: dict[str, str] = {
    **dict.fromkeys(
        ("philox_bits", "split_key", "random_bernoulli", "random_normal", "random_uniform", "dropout"),
        "ONNX does not define which numbers its random operators draw",
    ),
    "nextafter": "opset 21 has no operator that reads the bits of a number",
}
"""Standard ops that are not exported, and why."""


def wide(function: Parts) -> Parts:
    """The same, computed in float32 for the narrow floating dtypes."""

    @wraps(function)
    def computed(*inputs: Array, **attributes: Any) -> Array:
        dtype = inputs[0].dtype.name
        if dtype not in ("float16", "bfloat16"):
            return function(*inputs, **attributes)
        found = function(*(oy.cast(x, dtype="float32") for x in inputs), **attributes)
        return oy.cast(found, dtype=dtype) if found.dtype.name == "float32" else found

    return computed


# Exponentials --------------------------------------------------------------------------------------------------------


@wide
def log1p(x: Array) -> Array:
    """Source: Kahan; see Goldberg, What every computer scientist should know about floating-point arithmetic (1991), theorem 4."""
    u = x + 1
    d = u - 1
    exact = oy.log(u) * (x / oy.where(oy.equal(d, 0), 1, d))
    return oy.where(oy.equal(d, 0), x, oy.where(oy.isinf(u), u, exact))


@wide
def expm1(x: Array) -> Array:
    """Source: Kahan; Higham, Accuracy and stability of numerical algorithms, 2nd ed., section 1.14.1."""
    u = oy.exp(x)
    less = u - 1
    logarithm = oy.log(u)
    exact = less * (x / oy.where(oy.equal(logarithm, 0), 1, logarithm))
    ends = oy.logical_or(oy.equal(less, -1), oy.isinf(u))
    return oy.where(oy.equal(u, 1), x, oy.where(ends, less, exact))


@wide
def log2(x: Array) -> Array:
    return oy.log(x) / math.log(2)


@wide
def log10(x: Array) -> Array:
    return oy.log(x) / math.log(10)


@wide
def exp2(x: Array) -> Array:
    return oy.pow(np.asarray(2, x.dtype), x)


@wide
def cbrt(x: Array) -> Array:
    """A power, whose exponent is not exact, and a step of Newton's method."""
    size = oy.abs(x)
    r = oy.pow(size, 1 / 3)
    whole = oy.logical_or(oy.equal(r, 0), oy.isinf(r))
    better = r - (r - size / oy.square(oy.where(whole, 1, r))) / 3
    return oy.sign(x) * oy.where(whole, r, better)


@wide
def hypot(x1: Array, x2: Array) -> Array:
    a, b = oy.abs(x1), oy.abs(x2)
    high, low = oy.maximum(a, b), oy.minimum(a, b)
    ratio = low / oy.where(oy.equal(high, 0), 1, high)
    found = high * oy.sqrt(oy.square(ratio) + 1)
    return oy.where(oy.logical_or(oy.isinf(a), oy.isinf(b)), math.inf, found)


@wide
def logaddexp(x1: Array, x2: Array) -> Array:
    more = log1p(oy.exp(oy.negative(oy.abs(x1 - x2))))
    return oy.where(oy.equal(x1, x2), x1 + math.log(2), oy.maximum(x1, x2) + more)


# Signs and quotients -------------------------------------------------------------------------------------------------


def signbit(x: Array) -> Array:
    """ONNX does not read bits; one divided by a zero tells its sign. That of NaN is not found."""
    zero = oy.equal(x, 0)
    of_zero = oy.less(oy.reciprocal(oy.where(zero, x, 1)), 0)
    return oy.logical_or(oy.less(x, 0), oy.logical_and(zero, of_zero))


def copysign(x1: Array, x2: Array) -> Array:
    size = oy.abs(x1)
    return oy.where(signbit(x2), oy.negative(size), size)


@wide
def atan2(x1: Array, x2: Array) -> Array:
    """The angle in the first quadrant, mirrored."""
    a, b = oy.abs(x1), oy.abs(x2)
    both_zero = oy.logical_and(oy.equal(a, 0), oy.equal(b, 0))
    both_infinite = oy.logical_and(oy.isinf(a), oy.isinf(b))
    ratio = oy.where(both_infinite, 1, oy.where(both_zero, 0, a) / oy.where(both_zero, 1, b))
    angle = oy.atan(ratio)
    return copysign(oy.where(signbit(x2), math.pi - angle, angle), x1)


def trunc(x: Array) -> Array:
    if x.dtype.kind in "biu":
        return x
    return oy.where(oy.greater(x, 0), oy.floor(x), oy.ceil(x))


@wide
def remainder(x1: Array, x2: Array) -> Array:
    """As Python's: with the sign of the divisor. Integers have an operator."""
    rest = oy.fmod(x1, x2)
    other = oy.not_equal(oy.less(rest, 0), oy.less(x2, 0))
    signed = oy.where(oy.logical_and(oy.not_equal(rest, 0), other), rest + x2, rest)
    return oy.where(oy.equal(rest, 0), copysign(rest, x2), signed)


@wide
def floor_divide(x1: Array, x2: Array) -> Array:
    """The quotient without its remainder is whole but for rounding. Source: numpy, npy_divmod."""
    whole = oy.round((x1 - remainder(x1, x2)) / x2)
    zero = copysign(oy.zeros_like(whole), oy.divide(x1, x2))
    return oy.where(oy.equal(x2, 0), oy.divide(x1, x2), oy.where(oy.equal(whole, 0), zero, whole))


def isfinite(x: Array) -> Array:
    return oy.logical_not(oy.logical_or(oy.isnan(x), oy.isinf(x)))


# Bits ----------------------------------------------------------------------------------------------------------------


def _bits(x: Array) -> Array:
    return oy.cast(x, dtype="uint64")  # a cast keeps the low bits


def bitwise_left_shift(x1: Array, x2: Array) -> Array:
    """ONNX shifts integers without a sign alone."""
    return oy.bitwise_left_shift(_bits(x1), _bits(x2))


def bitwise_right_shift(x1: Array, x2: Array) -> Array:
    """Ones move into negative numbers: they are inverted before and after."""
    wide, negative = oy.cast(x1, dtype="int64"), oy.less(x1, 0)
    plain = oy.where(negative, oy.bitwise_invert(wide), wide)
    moved = oy.cast(oy.bitwise_right_shift(_bits(plain), _bits(x2)), dtype="int64")
    return oy.where(negative, oy.bitwise_invert(moved), moved)


# Complex numbers: ONNX has operators for real ones alone -------------------------------------------------------------


def real(x: Array) -> Array:
    return None if x.dtype.kind == "c" else x


def imag(x: Array) -> Array:
    return None if x.dtype.kind == "c" else oy.zeros_like(x)


# Reductions and orders -----------------------------------------------------------------------------------------------


def _count(x: Array, of: bool, axis: Any, keepdims: bool) -> Array:
    truth = x if x.dtype.kind == "b" else oy.not_equal(x, 0)
    counted = truth if of else oy.logical_not(truth)
    axes = normalize_axes(axis, x.ndim)
    return oy.sum(oy.cast(counted, dtype="int64"), axis=axes, keepdims=keepdims)


def any_(x: Array, *, axis: Any, keepdims: bool) -> Array:
    return oy.greater(_count(x, True, axis, keepdims), 0)


def all_(x: Array, *, axis: Any, keepdims: bool) -> Array:
    return oy.equal(_count(x, False, axis, keepdims), 0)


def sort(x: Array, *, axis: int, descending: bool) -> Array:
    return oy.top_k(x, k=x.shape[axis], axis=axis, largest=descending)[0]


def argsort(x: Array, *, axis: int, descending: bool) -> Array:
    return oy.top_k(x, k=x.shape[axis], axis=axis, largest=descending)[1]


# Movements -----------------------------------------------------------------------------------------------------------


def flip(x: Array, *, axis: Any) -> Array:
    axes = normalize_axes(axis, x.ndim)
    none = (None,) * len(axes)
    return oy.slice(x, starts=none, stops=none, axes=axes, steps=(-1,) * len(axes)) if axes else x


def roll(x: Array, *, shift: Any, axis: Any) -> Array:
    if axis is None:
        flat = oy.reshape(x, shape=(-1,))
        return oy.reshape(roll(flat, shift=shift, axis=0), shape=x.shape) if x.ndim else x
    axes = axis if isinstance(axis, tuple) else (axis,)
    shifts = shift if isinstance(shift, tuple) else (shift,) * len(axes)
    return reduce(lambda found, pair: _rolled(found, *pair), zip(shifts, axes, strict=True), x)


def _rolled(x: Array, shift: int, axis: int) -> Array:
    size = x.shape[axis]
    if not isinstance(size, int):
        raise UnsupportedModel(
            f"roll along an axis of the symbolic size {size!r} is not exported; bind it to a number."
        )
    place = -shift % size if size else 0
    if not place:
        return x
    back = oy.slice(x, starts=(0,), stops=(place,), axes=(axis,))
    return oy.concat(oy.slice(x, starts=(place,), stops=(None,), axes=(axis,)), back, axis=axis)


def repeat(x: Array, *, repeats: int, axis: int | None) -> Array:
    if axis is None:
        return repeat(oy.reshape(x, shape=(-1,)), repeats=repeats, axis=0)
    place = normalize_axis(axis, x.ndim)
    if not repeats:
        return oy.slice(x, starts=(0,), stops=(0,), axes=(place,))
    before, after = x.shape[: place + 1], x.shape[place + 1 :]
    each = oy.broadcast_to(oy.expand_dims(x, axis=place + 1), shape=(*before, repeats, *after))
    return oy.reshape(each, shape=(*before[:-1], before[-1] * repeats, *after))


def one_hot(indices: Array, *, depth: int, on_value: Any, off_value: Any, axis: int, dtype: str) -> Array:
    """Negative indices count from the end. ONNX's OneHot is known by few runtimes for all dtypes."""
    place = normalize_axis(axis, indices.ndim + 1)
    numbers = np.arange(depth).reshape(-1, *[1] * (indices.ndim - place))
    wanted = oy.expand_dims(oy.cast(indices, dtype="int64"), axis=place)
    hit = oy.logical_or(oy.equal(wanted, numbers), oy.equal(wanted, numbers - depth))
    on, off = (np.asarray(value).astype(oy.TensorSpec((), dtype).dtype) for value in (on_value, off_value))
    return oy.where(hit, on, off)


PARTS: dict[str, Parts] = {
    **{
        f.__name__: f
        for f in (
            *(log1p, expm1, log2, log10, exp2, cbrt, hypot, logaddexp),
            *(signbit, copysign, atan2, trunc, remainder, floor_divide, isfinite, real, imag),
            *(bitwise_left_shift, bitwise_right_shift),
            *(sort, argsort, flip, roll, repeat, one_hot),
        )
    },
    "any": any_,
    "all": all_,
    "conj": real,
}
"""By the name of the op; each takes what the op takes, and gives None for dtypes without such a formula."""

"""Elementwise selection and conversion: choices, limits, kinds of numbers, signs, and parts of complex numbers.

Source: Python array API standard 2024.12 unless stated otherwise.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..cases import Case, Cost, Draw, Tolerance, case
from ..errors import SpecError
from ..infer import elementwise, require_kind
from ..operation import Call
from ..opfunction import op
from ..spec import TensorSpec, as_dtype, broadcast, promote
from ._cases import binary_cases, unary_cases
from ._reference import precise
from .arithmetic import BITWISE, EXACT, Array, maximum, minimum, real_part
from .comparison import equal

__all__ = [
    "cast",
    "clip",
    "conj",
    "copysign",
    "imag",
    "isfinite",
    "isinf",
    "isnan",
    "nan_to_num",
    "real",
    "sign",
    "signbit",
    "where",
]


def _where_spec(condition: TensorSpec, x1: TensorSpec, x2: TensorSpec) -> TensorSpec:
    require_kind(condition, "bool", "the condition")
    return TensorSpec(broadcast(condition.shape, x1.shape, x2.shape), promote(x1.dtype, x2.dtype))


def _where_cases() -> list[Case]:
    pairs = [(c.inputs[0], c.inputs[1]) for c in binary_cases("int32", "uint8", "complex64", "bool")]
    equally_shaped = [case(Draw(left.shape, "bool"), left, right) for left, right in pairs if left and right]
    return [
        *equally_shaped,
        case(Draw((), "bool"), (3, 2), (2,)),
        case(Draw((3, 1), "bool"), (), Draw((4,), "float64")),
    ]


@op("where", scalar="x1 if condition else x2", infer=_where_spec, cases=_where_cases, tolerance=BITWISE)
def where(condition: Array, x1: Array, x2: Array) -> Array:
    """x1 where the condition is true, else x2, elementwise. ``bool[...], [...], [...] -> [...]``, broadcast."""
    return np.where(condition, x1, x2)


def _cast_spec(x: TensorSpec, *, dtype: Any) -> TensorSpec:
    if not isinstance(dtype, str):
        raise SpecError(f"dtype is the name of a dtype, such as 'float32'; found {dtype!r}.")
    target = as_dtype(dtype)
    if x.dtype.kind == "c" and target.kind != "c":
        raise SpecError(f"a complex number has no {dtype} value; take real(x), imag(x) or abs(x) first.")
    return x.with_dtype(target)


def _cast_cases() -> list[Case]:
    targets = ("float64", "float32", "float16", "bfloat16", "int32", "int8", "bool", "complex64")
    sources = [
        Draw((3, 4), "float64", -99, 99),
        Draw((5,), "int32", -99, 99),
        Draw((2, 3), "bfloat16", -99, 99),
    ]
    return [
        *(case(source, dtype=target) for target in targets for source in sources),
        *(case(Draw((4, 3), "bool"), dtype=target) for target in ("int32", "float32", "bfloat16")),
        case(Draw((9,), "float32", 0, 255), dtype="uint8"),
        case(Draw((), "float16"), dtype="float32"),
        case(Draw((0, 3), "int64"), dtype="float32"),
        case(Draw((257, 129), "float32"), dtype="float16"),
    ]


@op("cast", infer=_cast_spec, cases=_cast_cases, tolerance=Tolerance(1))
def cast(x: Array, *, dtype: Any) -> Array:
    """The numbers in another dtype, elementwise. ``[...] -> [...]``. The array API calls it astype, ONNX Cast.

    To a narrower floating dtype it rounds to the nearest number; from floating to integer it rounds towards zero; to bool
    it asks whether the number is not zero. A floating number that the integer dtype does not hold (too large, infinite,
    NaN) gives an unspecified integer. An integer keeps its low bits.
    """
    return np.asarray(x).astype(as_dtype(dtype))


def _clip(x: Array, min: Array | None = None, max: Array | None = None) -> Array:
    if min is not None:
        x = maximum(x, min)
    if max is not None:
        x = minimum(x, max)
    return x


def _clip_cases() -> list[Case]:
    draws = [
        Draw((3, 4)),
        Draw((0, 3)),
        Draw((7,), "float64"),
        Draw((5, 3), "bfloat16"),
        Draw((4, 5), "int32", -9, 9),
    ]
    bounds = [(Draw((), d.dtype, -1, 0), Draw((), d.dtype, 1, 2)) for d in draws]
    return [
        *(case(draw, low, high) for draw, (low, high) in zip(draws, bounds, strict=True)),
        case((257, 129), None, Draw((), "float32", 1, 2)),
        case((257, 129), Draw((129,), "float32", -1, 0)),
        case((3, 1), Draw((4,), "float32", -1, 0), Draw((3, 4), "float32", 0, 1)),
        case((2, 3)),
    ]


@op("clip", infer=elementwise("real"), decompose=_clip, cases=_clip_cases, tolerance=EXACT)
def clip(x: Array, min: Array | None = None, max: Array | None = None) -> Array:
    """x limited to [min, max], elementwise. ``[...], [...], [...] -> [...]``, broadcast.

    A bound left out does not limit. NaN in any of the three gives NaN; max wins where min is greater than max.
    """
    x = np.asarray(x)
    lower = x.copy() if min is None else np.maximum(x, min)
    return lower if max is None else np.minimum(lower, max)


def _kind_cases() -> list[Case]:
    return unary_cases(-2, 2, "int32", "complex64")


@op("isnan", scalar="isnan(x)", infer=elementwise("numeric", "bool"), cases=_kind_cases)
def isnan(x: Array) -> Array:
    """Whether it is NaN, elementwise; for complex numbers, whether one part is. ``[...] -> bool[...]``."""
    return np.isnan(x)


@op("isinf", scalar="isinf(x)", infer=elementwise("numeric", "bool"), cases=_kind_cases)
def isinf(x: Array) -> Array:
    """Whether it is infinite, elementwise; for complex numbers, whether one part is. ``[...] -> bool[...]``."""
    return np.isinf(x)


@op("isfinite", scalar="isfinite(x)", infer=elementwise("numeric", "bool"), cases=_kind_cases)
def isfinite(x: Array) -> Array:
    """Whether it is neither NaN nor infinite, elementwise. ``[...] -> bool[...]``."""
    return np.isfinite(x)


@op("sign", scalar="sign(x)", infer=elementwise("numeric"), cases=_kind_cases, tolerance=Tolerance(4))
def sign(x: Array) -> Array:
    """-1, 0 or 1 by the sign, elementwise; NaN for NaN, x / abs(x) for complex numbers. ``[...] -> [...]``."""
    return np.sign(x)


@op("signbit", scalar="signbit(x)", infer=elementwise("real floating", "bool"), cases=unary_cases)
def signbit(x: Array) -> Array:
    """Whether the sign bit is set, elementwise: also for -0.0. ``[...] -> bool[...]``."""
    return np.signbit(x)


@op(
    "copysign",
    scalar="copysign(x1, x2)",
    infer=elementwise("real floating"),
    cases=binary_cases,
    tolerance=BITWISE,
)
def copysign(x1: Array, x2: Array) -> Array:
    """The magnitude of x1 with the sign of x2, elementwise; zeros have signs. ``[...], [...] -> [...]``, broadcast."""
    return np.copysign(precise(x1), precise(x2))


def _nan_to_num_spec(x: TensorSpec, *, nan: float, posinf: float | None, neginf: float | None) -> TensorSpec:
    require_kind(x, "real floating")
    given = {"nan": nan, "posinf": 0 if posinf is None else posinf, "neginf": 0 if neginf is None else neginf}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise SpecError(f"{name} is a number; found {value!r}.")
    return x


def _infinities(dtype: Any, posinf: float | None, neginf: float | None) -> tuple[float, float]:
    """What stands for inf and for -inf: as given, else the greatest and the least finite number of the dtype."""
    import ml_dtypes  # its finfo knows bfloat16; 20 ms, only when asked for

    limits = ml_dtypes.finfo(dtype)
    return float(limits.max) if posinf is None else posinf, float(limits.min) if neginf is None else neginf


def _nan_to_num(
    x: Array, *, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Array:
    above, below = _infinities(x.dtype, posinf, neginf)
    bounded = where(equal(x, math.inf), above, where(equal(x, -math.inf), below, x))
    return where(isnan(x), nan, bounded)


def _nan_to_num_cases() -> list[Case]:
    return [
        *unary_cases(),
        case((2, 3), nan=1.5, posinf=9.0, neginf=-9.0),
        case(Draw((4,), "float16"), posinf=1.0),
    ]


@op("nan_to_num", infer=_nan_to_num_spec, decompose=_nan_to_num, cases=_nan_to_num_cases, tolerance=EXACT)
def nan_to_num(
    x: Array, *, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Array:
    """x with NaN and the infinities replaced by numbers, elementwise. ``[...] -> [...]``. Source: numpy.nan_to_num.

    ``posinf`` and ``neginf`` left out mean the greatest and the least finite number of the dtype.
    """
    x = np.asarray(x)
    above, below = _infinities(x.dtype, posinf, neginf)
    return np.nan_to_num(precise(x), nan=nan, posinf=above, neginf=below)


@op("real", scalar="real(x)", infer=real_part, cases=_kind_cases, tolerance=BITWISE)
def real(x: Array) -> Array:
    """Real part, elementwise; a real number itself. ``[...] -> [...]``."""
    return np.real(x).copy()


def _imag_cost(call: Call) -> Cost:
    """Of a real number nothing has to be read."""
    size, needed = float(int(call.output.size)), float(call.output.nbytes)
    return Cost(size, needed if call.inputs[0] == call.output else call.bytes)


@op("imag", scalar="imag(x)", infer=real_part, cost=_imag_cost, cases=_kind_cases, tolerance=EXACT)
def imag(x: Array) -> Array:
    """Imaginary part, elementwise; 0 for a real number. ``[...] -> [...]``."""
    return np.imag(x).copy()


@op("conj", scalar="conj(x)", infer=elementwise("numeric"), cases=_kind_cases, tolerance=BITWISE)
def conj(x: Array) -> Array:
    """Complex conjugate, elementwise; a real number itself. ``[...] -> [...]``."""
    return np.conj(x)

"""Edge values of arithmetic, comparison, logic, rounding, exponential, trigonometric and selection ops."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import scipy.special

from opyard.eager import using
from opyard.errors import SpecError
from opyard.ops import arithmetic, comparison, exponential, logic, rounding, selection, trigonometric
from opyard.ops._cases import binary_cases
from opyard.runtime import standard_registry
from opyard.scalar import Scalar, erf
from opyard.spec import TensorSpec

INF, NAN = math.inf, math.nan
EDGES = np.array([NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 1e-30, -3e38], np.float32)
TRIGONOMETRIC = (
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "cos",
    "cosh",
    "sin",
    "sinh",
    "tan",
    "tanh",
)
EXPONENTIAL = ("exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "sqrt", "cbrt")


def run(function: Any, *arrays: Any, **attributes: Any) -> np.ndarray[Any, Any]:
    """The reference's result; numbers and lists are float32."""
    given = [
        None if a is None else a if isinstance(a, np.ndarray) else np.asarray(a, np.float32) for a in arrays
    ]
    call = function.op.call(*(None if a is None else TensorSpec.of(a) for a in given), **attributes)
    with np.errstate(all="ignore"):
        result: np.ndarray[Any, Any] = call.reference(*given)[0]
    assert result.dtype == call.output.dtype
    assert result.shape == call.output.shape
    return result


def integers(*values: int, dtype: str = "int32") -> np.ndarray[Any, Any]:
    return np.array(values, dtype)


def assert_same(found: np.ndarray[Any, Any], expected: Any) -> None:
    """Equal, with equal signs of zeros and NaN in equal places."""
    np.testing.assert_array_equal(found, expected)
    if found.dtype.kind in "fV":
        zeros = np.asarray(found) == 0
        np.testing.assert_array_equal(
            np.signbit(found)[zeros], np.signbit(np.asarray(expected, found.dtype))[zeros]
        )


@pytest.mark.parametrize(
    ("function", "values", "expected"),
    [
        (arithmetic.add, ([INF, INF, -0.0, 1e38], [-INF, 1, -0.0, 3.4e38]), [NAN, INF, -0.0, INF]),
        (arithmetic.subtract, ([INF, 0.0, -0.0], [INF, 0.0, 0.0]), [NAN, 0.0, -0.0]),
        (arithmetic.multiply, ([INF, -0.0, -INF], [0.0, 2.0, 2.0]), [NAN, -0.0, -INF]),
        (arithmetic.divide, ([1, -1, 0, 1, INF], [0.0, 0.0, 0.0, -INF, INF]), [INF, -INF, NAN, -0.0, NAN]),
        (arithmetic.reciprocal, ([0.0, -0.0, INF, 4.0],), [INF, -INF, 0.0, 0.25]),
        (arithmetic.negative, ([0.0, -INF, 2.0],), [-0.0, INF, -2.0]),
        (arithmetic.abs, ([-0.0, -INF, -2.0, NAN],), [0.0, INF, 2.0, NAN]),
        (arithmetic.maximum, ([NAN, 1.0, 2.0, -INF], [1.0, NAN, 3.0, 5.0]), [NAN, NAN, 3.0, 5.0]),
        (arithmetic.minimum, ([NAN, 1.0, 2.0, -INF], [1.0, NAN, 3.0, 5.0]), [NAN, NAN, 2.0, -INF]),
        (
            arithmetic.remainder,
            ([5.5, -5.5, 5.5, -5.5, -1.0], [2.0, 2.0, -2.0, -2.0, INF]),
            [1.5, 0.5, -0.5, -1.5, INF],
        ),
        (
            arithmetic.fmod,
            ([5.5, -5.5, 5.5, -5.5, -1.0], [2.0, 2.0, -2.0, -2.0, INF]),
            [1.5, -1.5, 1.5, -1.5, -1.0],
        ),
        (arithmetic.floor_divide, ([5.5, -5.5, 5.5, -0.5], [2.0, 2.0, -2.0, 3.0]), [2.0, -3.0, -3.0, -1.0]),
        (
            arithmetic.nextafter,
            ([1.0, 1.0, 0.0, NAN], [2.0, 1.0, 1.0, 1.0]),
            [1 + 2.0**-23, 1.0, 2.0**-149, NAN],
        ),
        (exponential.exp, ([-INF, INF, 0.0, 100.0, NAN],), [0.0, INF, 1.0, INF, NAN]),
        (exponential.exp2, ([-1.0, 10.0, -INF],), [0.5, 1024.0, 0.0]),
        (exponential.expm1, ([-INF, -0.0, 1e-10],), [-1.0, -0.0, np.float32(1e-10)]),
        (exponential.log, ([0.0, -1.0, 1.0, INF],), [-INF, NAN, 0.0, INF]),
        (exponential.log1p, ([-1.0, -2.0, -0.0, 1e-10],), [-INF, NAN, -0.0, np.float32(1e-10)]),
        (
            exponential.logaddexp,
            ([-INF, INF, 500.0, NAN], [-INF, 1.0, 500.0, 1.0]),
            [-INF, INF, np.float32(500 + math.log(2)), NAN],
        ),
        (exponential.sqrt, ([-0.0, -1.0, INF, 9.0],), [-0.0, NAN, INF, 3.0]),
        (exponential.rsqrt, ([0.0, -0.0, -1.0, INF, 4.0],), [INF, -INF, NAN, 0.0, 0.5]),
        (exponential.cbrt, ([-8.0, -0.0, INF],), [-2.0, -0.0, INF]),
        (exponential.square, ([-3.0, -INF, 1e30],), [9.0, INF, INF]),
        (
            exponential.pow,
            ([0.0, NAN, -8.0, 2.0, -2.0, INF], [0.0, 0.0, 1 / 3, -1.0, 3.0, -1.0]),
            [1.0, 1.0, NAN, 0.5, -8.0, 0.0],
        ),
        (exponential.hypot, ([3e38, INF, 3.0], [0.0, NAN, 4.0]), [np.float32(3e38), INF, 5.0]),
        (exponential.erf, ([INF, -INF, -0.0, NAN],), [1.0, -1.0, -0.0, NAN]),
        (trigonometric.asin, ([2.0, -0.0],), [NAN, -0.0]),
        (trigonometric.acosh, ([1.0, 0.5, INF],), [0.0, NAN, INF]),
        (trigonometric.atanh, ([1.0, -1.0, 1.5, -0.0],), [INF, -INF, NAN, -0.0]),
        (trigonometric.tanh, ([INF, -INF, -0.0],), [1.0, -1.0, -0.0]),
        (
            trigonometric.atan2,
            ([0.0, -0.0, 1.0], [-0.0, -1.0, 0.0]),
            np.array([math.pi, -math.pi, math.pi / 2], np.float32),
        ),
        (rounding.round, ([0.5, 1.5, -2.5, -0.4, INF, NAN],), [0.0, 2.0, -2.0, -0.0, INF, NAN]),
        (rounding.floor, ([-0.5, 1.9, -0.0],), [-1.0, 1.0, -0.0]),
        (rounding.ceil, ([-0.5, 1.1, INF],), [-0.0, 2.0, INF]),
        (rounding.trunc, ([-1.9, 1.9, -0.9],), [-1.0, 1.0, -0.0]),
        (selection.sign, ([-3.0, -0.0, INF, NAN],), [-1.0, 0.0, 1.0, NAN]),
        (selection.copysign, ([1.0, -2.0, NAN], [-0.0, 3.0, 1.0]), [-1.0, 2.0, NAN]),
    ],
    ids=lambda value: value.__name__ if hasattr(value, "op") else "",
)
def test_edge_values(function: Any, values: tuple[Any, ...], expected: Any) -> None:
    assert_same(run(function, *values), expected)


@pytest.mark.parametrize("name", TRIGONOMETRIC)
def test_trigonometric_against_math(name: str) -> None:
    x = np.array([1.1, 1.7, 2.3]) if name == "acosh" else np.array([-0.9, -0.1, 1e-9, 0.3, 0.8])
    expected = [getattr(math, name)(v) for v in x]
    np.testing.assert_allclose(run(getattr(trigonometric, name), x), expected, rtol=1e-15)


@pytest.mark.parametrize("name", EXPONENTIAL)
def test_exponential_against_math(name: str) -> None:
    x = np.array([1e-9, 0.1, 0.9, 7.0, 123.0])
    expected = [getattr(math, name)(v) for v in x]
    np.testing.assert_allclose(run(getattr(exponential, name), x), expected, rtol=1e-15)


def test_binary_against_math() -> None:
    a, b = np.array([0.3, 2.0, 7.5]), np.array([-1.5, 0.5, 3.0])
    expected = [scipy.special.logsumexp([x, y]) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(run(exponential.logaddexp, a, b), expected, rtol=1e-15)
    for name, function in (
        ("pow", exponential.pow),
        ("hypot", exponential.hypot),
        ("atan2", trigonometric.atan2),
    ):
        expected = [getattr(math, name)(x, y) for x, y in zip(a, b, strict=True)]
        np.testing.assert_allclose(run(function, a, b), expected, rtol=1e-15)


def test_erf_against_scipy() -> None:
    x = np.linspace(-6, 6, 241)
    np.testing.assert_allclose(run(exponential.erf, x), scipy.special.erf(x), rtol=1e-15)
    np.testing.assert_array_equal(erf(np.array([0, 1])), [0.0, math.erf(1)])
    assert erf(np.array([1])).dtype == np.float64


def test_float_floor_division_is_that_of_the_exact_quotient() -> None:
    one, tenth = np.array(1.0), np.array(0.1)
    assert run(arithmetic.floor_divide, one, tenth) == 9
    assert run(arithmetic.remainder, one, tenth) == 1.0 % 0.1


def test_integer_division_rounds_down() -> None:
    numbers, divisors = integers(7, -7, 7, -7), integers(2, 2, -2, -2)
    assert_same(run(arithmetic.floor_divide, numbers, divisors), [3, -4, -4, 3])
    assert_same(run(arithmetic.remainder, numbers, divisors), [1, 1, -1, -1])
    assert_same(run(arithmetic.fmod, numbers, divisors), [1, -1, 1, -1])


def test_large_integers_are_not_rounded() -> None:
    large = integers(2**62 + 1, -(2**62) - 1, dtype="int64")
    assert_same(run(arithmetic.floor_divide, large, integers(1, 1, dtype="int64")), large)
    for function in (
        rounding.round,
        rounding.floor,
        rounding.ceil,
        rounding.trunc,
        selection.real,
        selection.conj,
    ):
        assert_same(run(function, large), large)
    assert_same(np.asarray(Scalar("round(x)", ("x",))(x=large)), large)


def test_integers_wrap_around() -> None:
    least, greatest = np.iinfo("int32").min, np.iinfo("int32").max
    assert run(arithmetic.add, integers(greatest), integers(1)) == least
    assert run(arithmetic.subtract, integers(least), integers(1)) == greatest
    assert run(arithmetic.multiply, integers(2**16), integers(2**16)) == 0
    assert run(arithmetic.negative, integers(least)) == least
    assert run(arithmetic.abs, integers(least)) == least
    assert run(arithmetic.negative, integers(1, dtype="uint8")) == 255
    assert run(exponential.square, integers(16, dtype="uint8")) == 0


def test_negative_integer_power_of_an_integer() -> None:
    with pytest.raises(ValueError, match="negative integer powers"):
        run(exponential.pow, integers(2), integers(-1))
    assert run(exponential.pow, [2.0], integers(-1)) == 0.5


def test_complex_numbers() -> None:
    z = np.array([3 + 4j, complex(0, -1), 0], np.complex64)
    assert_same(run(arithmetic.abs, z), [5, 1, 0])
    assert_same(run(selection.real, z), [3, 0, 0])
    assert_same(run(selection.conj, z), [3 - 4j, 1j, 0])
    np.testing.assert_allclose(run(selection.imag, z), [4, -1, 0])
    np.testing.assert_allclose(run(selection.sign, z), [0.6 + 0.8j, -1j, 0], rtol=1e-6)
    np.testing.assert_allclose(run(exponential.exp, np.array([1j * math.pi])), [-1], atol=1e-15)
    np.testing.assert_allclose(run(exponential.sqrt, np.array([-4 + 0j])), [2j])
    assert_same(run(selection.imag, [1.0, 2.0]), [0.0, 0.0])


def test_mixed_dtypes_take_the_common_one() -> None:
    assert run(arithmetic.add, integers(1, dtype="int8"), integers(300, dtype="int16")).dtype == np.int16
    assert run(arithmetic.multiply, [1.0], np.ones(1, ml_dtypes.bfloat16)).dtype == np.float32


def test_non_contiguous_and_zero_dimensional_operands() -> None:
    x = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::-2].T
    assert_same(run(arithmetic.add, x, np.float32(1) * np.ones(())), x + 1)
    assert_same(run(exponential.square, x), x * x)
    assert run(exponential.erf, np.ones((0, 3), np.float32)).shape == (0, 3)


def test_comparisons_with_nan_and_zeros() -> None:
    a, b = [NAN, -0.0, 1.0, INF], [NAN, 0.0, 2.0, INF]
    assert_same(run(comparison.equal, a, b), [False, True, False, True])
    assert_same(run(comparison.not_equal, a, b), [True, False, True, False])
    assert_same(run(comparison.less, a, b), [False, False, True, False])
    assert_same(run(comparison.less_equal, a, b), [False, True, True, True])
    assert_same(run(comparison.greater, a, b), [False, False, False, False])
    assert_same(run(comparison.greater_equal, a, b), [False, True, False, True])


def test_comparison_of_signed_and_unsigned_integers() -> None:
    assert run(comparison.less, integers(-1), integers(1, dtype="uint8"))
    assert not run(comparison.equal, integers(-1, dtype="int64"), integers(2**64 - 1, dtype="uint64"))


def test_truth_tables() -> None:
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert_same(run(logic.logical_and, a, b), [True, False, False, False])
    assert_same(run(logic.logical_or, a, b), [True, True, True, False])
    assert_same(run(logic.logical_xor, a, b), [False, True, True, False])
    assert_same(run(logic.logical_not, a), [False, False, True, True])
    assert_same(run(logic.bitwise_invert, a), [False, False, True, True])


def test_bits() -> None:
    assert run(logic.bitwise_and, integers(0b1100), integers(0b1010)) == 0b1000
    assert run(logic.bitwise_or, integers(0b1100), integers(0b1010)) == 0b1110
    assert run(logic.bitwise_xor, integers(0b1100), integers(0b1010)) == 0b0110
    assert_same(run(logic.bitwise_invert, integers(0, -1)), [-1, 0])
    assert_same(run(logic.bitwise_invert, integers(1, dtype="uint8")), [254])
    assert run(logic.bitwise_left_shift, integers(1), integers(31)) == np.iinfo("int32").min
    assert run(logic.bitwise_left_shift, integers(255, dtype="uint8"), integers(4, dtype="uint8")) == 240
    assert run(logic.bitwise_right_shift, integers(-5), integers(1)) == -3


def test_kinds_of_numbers() -> None:
    assert_same(run(selection.isnan, EDGES), [math.isnan(v) for v in EDGES])
    assert_same(run(selection.isinf, EDGES), [math.isinf(v) for v in EDGES])
    assert_same(run(selection.isfinite, EDGES), [math.isfinite(v) for v in EDGES])
    assert_same(run(selection.signbit, EDGES[1:]), [math.copysign(1, v) < 0 for v in EDGES[1:]])
    assert_same(run(selection.isnan, np.array([complex(0, NAN), 1j])), [True, False])
    assert_same(run(selection.isfinite, integers(1, 2)), [True, True])


def test_where_does_not_mix_in_the_other_branch() -> None:
    assert_same(run(selection.where, np.array([True, False]), [1.0, NAN], [INF, -0.0]), [1.0, -0.0])
    assert run(
        selection.where, np.ones((2, 1), bool), np.ones(3, np.int32), np.ones((), np.float64)
    ).shape == (2, 3)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (np.array([1.9, -1.9, -0.0]), "int32", [1, -1, 0]),
        (np.array([0.0, -0.0, 0.1, NAN]), "bool", [False, False, True, True]),
        (np.array([300, -1], np.int32), "uint8", [44, 255]),
        (np.array([1e39, -1e39, 1 + 2.0**-30]), "float32", [INF, -INF, 1.0]),
        (np.array([1.0, 2.0]), "complex64", [1, 2]),
        (np.array([True, False]), "bfloat16", [1, 0]),
        (np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8]), "bfloat16", [1.0, 1 + 2.0**-6]),
    ],
)
def test_cast(values: Any, dtype: str, expected: Any) -> None:
    assert_same(run(selection.cast, values, dtype=dtype), expected)


def test_clip() -> None:
    x = [-5.0, 0.5, 5.0, NAN]
    assert_same(run(selection.clip, x, -1, 1), [-1.0, 0.5, 1.0, NAN])
    assert_same(run(selection.clip, x, None, 1), [-5.0, 0.5, 1.0, NAN])
    assert_same(run(selection.clip, x, -1), [-1.0, 0.5, 5.0, NAN])
    assert_same(run(selection.clip, [1.0, 2.0], NAN, 1), [NAN, NAN])
    assert_same(run(selection.clip, [0.0], 3, 1), [1.0])
    large = integers(2**62 + 1, dtype="int64")
    assert_same(run(selection.clip, large, integers(0, dtype="int64")), large)
    assert not np.shares_memory(run(selection.clip, large), large)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_nan_to_num(dtype: str) -> None:
    x = np.array([NAN, INF, -INF, 1.5]).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    limits = ml_dtypes.finfo(x.dtype)
    assert_same(run(selection.nan_to_num, x), np.array([0, limits.max, limits.min, 1.5], x.dtype))
    assert_same(
        run(selection.nan_to_num, x, nan=2.0, posinf=3.0, neginf=4.0), np.array([2, 3, 4, 1.5], x.dtype)
    )
    decompose: Any = selection.nan_to_num.op.decompose
    with using(registry=standard_registry()), np.errstate(all="ignore"):
        assert_same(decompose(x), run(selection.nan_to_num, x))


def test_symbolic_shapes() -> None:
    x = TensorSpec(("batch", 3))
    assert arithmetic.add.op.call(x, TensorSpec((3,))).output == x
    assert selection.where.op.call(TensorSpec(("batch", 1), "bool"), x, x).output == x
    assert selection.cast.op.call(x, dtype="int32").output == TensorSpec(("batch", 3), "int32")
    assert arithmetic.abs.op.call(x.with_dtype("complex64")).output == x


def test_shared_cases_keep_their_side_of_zero() -> None:
    for case in binary_cases("int32", "uint8", second=(0.25, 4.0)):
        divisor = case.arrays()[1]
        assert divisor is not None
        assert (divisor > 0).all()


@pytest.mark.parametrize(
    ("function", "specs", "attributes", "text"),
    [
        (arithmetic.add, ("bool[2]", "bool[2]"), {}, "input 0 must be numeric, it is bool"),
        (
            arithmetic.divide,
            ("int32[2]", "int32[2]"),
            {},
            r"must be floating, it is int32\[2\]; cast it first",
        ),
        (arithmetic.maximum, ("complex64[2]", "complex64[2]"), {}, "must be real"),
        (arithmetic.abs, ("bool[2]",), {}, "must be numeric"),
        (arithmetic.add, ("float32[2]", "float32[3]"), {}, "do not broadcast"),
        (arithmetic.add, ("bfloat16[2]", "float16[2]"), {}, "no common dtype; cast one of them"),
        (exponential.exp, ("int64[2]",), {}, "must be floating"),
        (exponential.erf, ("complex64[2]",), {}, "must be real floating"),
        (logic.logical_and, ("int32[2]", "bool[2]"), {}, "must be bool"),
        (logic.bitwise_and, ("float32[2]", "float32[2]"), {}, "must be integer or bool"),
        (logic.bitwise_left_shift, ("bool[2]", "bool[2]"), {}, "must be integer"),
        (rounding.floor, ("complex64[2]",), {}, "must be real"),
        (selection.where, ("int32[2]", "int32[2]", "int32[2]"), {}, "the condition must be bool"),
        (
            selection.cast,
            ("complex64[2]",),
            {"dtype": "float32"},
            r"a complex number has no float32 value; take real\(x\)",
        ),
        (
            selection.cast,
            ("float32[2]",),
            {"dtype": 3},
            "dtype is the name of a dtype, such as 'float32'; found 3",
        ),
        (selection.cast, ("float32[2]",), {"dtype": "float31"}, "Did you mean float32"),
        (selection.nan_to_num, ("float32[2]",), {"nan": "x"}, "nan is a number; found 'x'"),
        (selection.nan_to_num, ("float32[2]",), {"nan": None}, "nan is a number; found None"),
        (selection.nan_to_num, ("float32[2]",), {"posinf": True}, "posinf is a number; found True"),
    ],
)
def test_refused(function: Any, specs: tuple[str, ...], attributes: dict[str, Any], text: str) -> None:
    parsed = [TensorSpec((int(shape[:-1]),), dtype) for dtype, shape in (spec.split("[") for spec in specs)]
    with pytest.raises(SpecError, match=text):
        function.op.call(*parsed, **attributes)


def test_scalar_expressions_know_functions_from_values() -> None:
    with pytest.raises(SpecError, match="uses 'exp', which is no input or attribute; there are x"):
        Scalar("x + exp", ("x",))
    with pytest.raises(
        SpecError, match="calls 'min', which is also the name of an input or attribute; rename that one"
    ):
        Scalar("min(x, min)", ("x", "min"))


def test_the_imaginary_part_of_a_real_number_reads_nothing() -> None:
    assert selection.imag.op.call(TensorSpec((8,))).cost == (8.0, 8 * 4)
    assert selection.imag.op.call(TensorSpec((8,), "complex64")).cost == (8.0, 8 * (8 + 4))

"""Cases, tolerances and costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opyard.cases import Case, Draw, Tolerance, case
from opyard.spec import TensorSpec, as_dtype


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "uint8", "bool", "complex64"])
def test_draws_stay_in_their_range(dtype: str) -> None:
    draw = Draw((40, 5), dtype, -3, 2)
    array = draw.array(np.random.default_rng(0))
    assert TensorSpec.of(array) == draw.spec == TensorSpec((40, 5), dtype)
    parts = [array.real, array.imag] if dtype == "complex64" else [array.astype(np.float64)]
    for part in parts:
        assert part.min() >= (-3 if dtype not in ("uint8", "bool") else 0)
        assert part.max() <= 2
    assert len(np.unique(array.astype(np.complex128))) > 1


def test_integer_ranges_include_both_ends() -> None:
    assert set(Draw((100,), "int32", -1, 1).array(np.random.default_rng(0))) == {-1, 0, 1}


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_draws_without_axes_or_elements(shape: tuple[int, ...]) -> None:
    array = Draw(shape).array(np.random.default_rng(0))
    assert isinstance(array, np.ndarray) and array.shape == shape


def test_ids_are_stable_names() -> None:
    assert case((3, 4), axis=0).id == "float32[3,4]-axis=0"
    assert Case((Draw((2,), "int8"), None), {"axis": (0, 1)}).id == "int8[2]-none-axis=(0,1)"
    assert case().id == ""


def test_arrays_depend_on_the_seed_and_the_case_alone() -> None:
    first, absent = case((3, 4), None).arrays(7)
    again, _ = case((3, 4), None).arrays(7)
    other, _ = case((3, 4), None).arrays(8)
    assert absent is None and first is not None and again is not None and other is not None
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    another = case((3, 4)).arrays(7)[0]
    assert another is not None and not np.array_equal(first, another)


def violation(tolerance: Tolerance, found: Any, expected: Any, dtype: Any = "float32") -> str | None:
    return tolerance.violation(np.asarray(found, as_dtype(dtype)), np.asarray(expected, as_dtype(dtype)))


def test_shape_and_dtype_are_compared_first() -> None:
    whatever = Tolerance(check_values=False)
    assert whatever.violation(np.zeros((2, 1)), np.zeros(2)) == "shape is (2, 1), the reference has (2,)"
    assert (
        whatever.violation(np.zeros(2, np.float32), np.zeros(2))
        == "dtype is float32, the reference has float64"
    )
    assert whatever.violation(np.zeros(2), np.ones(2)) is None


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool", "complex64"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_equal_arrays_agree(dtype: str, shape: tuple[int, ...]) -> None:
    assert violation(Tolerance(0), np.ones(shape), np.ones(shape), dtype) is None


@settings(max_examples=50, deadline=None)
@given(st.floats(1, 1.875, width=32), st.integers(0, 8), st.integers(0, 8))
def test_ulp_counts_units_of_the_reference(value: float, steps: int, allowed: int) -> None:
    expected = np.float32(value)
    found = np.float32(expected + np.float32(steps) * np.finfo(np.float32).eps)
    units = (float(found) - float(expected)) / (float(np.finfo(np.float32).eps) * float(expected))
    assert (violation(Tolerance(allowed), found, expected) is None) == (units <= allowed)


def test_a_violation_names_the_place_the_values_and_the_distance() -> None:
    sentence = violation(Tolerance(4), [[1, 1], [1.5, 1]], [[1, 1], [1, 1]])
    assert (
        sentence
        == "1 of 4 values differ; at (1, 0) it is 1.5, the reference has 1.0 (4.19e+06 ulp, allowed 4)"
    )
    assert (
        violation(Tolerance(), [1, 2, 3], [1, 3, 4], "int64")
        == "2 of 3 values differ; at (1,) it is 2, the reference has 3"
    )
    assert violation(Tolerance(), True, False, "bool") == (
        "1 of 1 values differ; at () it is True, the reference has False"
    )


def test_scaled_measures_against_the_largest_value() -> None:
    found, expected = [1000.0, 1e-5], [1000.0, 0.0]
    assert violation(Tolerance(4), found, expected) is not None
    assert violation(Tolerance(4, scaled=True), found, expected) is None


def test_sums_of_more_terms_may_be_further_off() -> None:
    epsilon = float(np.finfo(np.float32).eps)
    found, expected = np.float32(1 + 20 * epsilon), np.float32(1)
    assert violation(Tolerance(4, terms=15 * 15), found, expected) is not None
    assert violation(Tolerance(4, terms=16 * 16), found, expected) is None
    assert Tolerance(4, terms=256).units(as_dtype("float64")) == 20
    assert Tolerance(4, terms=256).units(as_dtype("bfloat16")) == 4 + 16 * 2**-16


def test_a_magnitude_takes_the_place_of_the_value() -> None:
    found, expected = np.zeros(3, np.float32), np.array([1e-5, 1e-5, 1e-5], np.float32)
    magnitude = np.array([100.0, 10.0, np.inf], np.float32)
    sentence = Tolerance(4).violation(found, expected, magnitude)
    assert sentence is not None and sentence.startswith("2 of 3 values differ; at (2,) it is 0.0")


def test_zeros_have_signs_where_it_says_so() -> None:
    assert violation(Tolerance(0), [0.0, -0.0], [-0.0, 0.0]) is None
    found = violation(Tolerance(0, signed_zeros=True), [0.0, -0.0, 1.0], [0.0, 0.0, 1.0])
    assert found == "1 of 3 values differ; at (1,) it is -0.0, the reference has 0.0"
    assert violation(Tolerance(0, signed_zeros=True), [0j], [complex(0, -0.0)], "complex64") is not None
    assert violation(Tolerance(0, signed_zeros=True), [-0.0], [-0.0], "bfloat16") is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
@pytest.mark.parametrize(
    ("found", "expected", "agree"),
    [
        (np.nan, np.nan, True),
        (np.inf, np.inf, True),
        (-np.inf, np.inf, False),
        (np.inf, np.nan, False),
        (1.0, np.nan, False),
        (np.nan, 1.0, False),
        (np.inf, 1.0, False),
        (1.0, np.inf, False),
        (1.0, 0.0, False),
        (0.0, -0.0, True),
    ],
)
def test_special_values(dtype: str, found: float, expected: float, agree: bool) -> None:
    assert (violation(Tolerance(4), [found, 0.0], [expected, 0.0], dtype) is None) == agree


def test_a_difference_that_overflows_is_a_violation() -> None:
    largest = np.finfo(np.float64).max
    assert "(inf ulp" in str(violation(Tolerance(), largest, -largest, "float64"))


def test_half_precision_counts_its_own_units() -> None:
    assert violation(Tolerance(1), 1 + 2.0**-7, 1, "bfloat16") is None
    assert violation(Tolerance(1), 1 + 2.0**-6, 1, "bfloat16") is not None
    assert violation(Tolerance(1), 1 + 2.0**-10, 1, "float16") is None

"""Reductions: values in the edge cases, dtypes, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from opyard.dim import Dim
from opyard.errors import SpecError
from opyard.ops import reduction as r
from opyard.spec import TensorSpec, as_dtype

NAN, INF = math.nan, math.inf


def run(function: Any, *arrays: Any, **attributes: Any) -> Any:
    arrays = tuple(np.asarray(a) for a in arrays)
    call = function.op.call(*map(TensorSpec.of, arrays), **attributes)
    (result,) = call.reference(*arrays)
    assert TensorSpec.of(result) == call.output
    return result


def infer(function: Any, shape: tuple[Any, ...], dtype: str = "float32", **attributes: Any) -> TensorSpec:
    output = function.op.call(TensorSpec(shape, dtype), **attributes).output
    assert isinstance(output, TensorSpec)
    return output


X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), (-1, 0), ()])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("name", ["sum", "prod", "max", "min", "mean"])
def test_axes_agree_with_numpy(name: str, axis: Any, keepdims: bool) -> None:
    expected = getattr(np, name)(X, axis=axis, keepdims=keepdims)
    np.testing.assert_allclose(run(getattr(r, name), X, axis=axis, keepdims=keepdims), expected, rtol=1e-6)


def test_transposed_memory() -> None:
    np.testing.assert_array_equal(run(r.sum, X.T[::-1], axis=0), X.T[::-1].sum(axis=0))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float16", "bfloat16", "int64", "complex64"])
def test_sum_and_product_keep_the_dtype(dtype: str) -> None:
    assert infer(r.sum, (3,), dtype).dtype == as_dtype(dtype)
    assert infer(r.prod, (3,), dtype).dtype == as_dtype(dtype)


def test_integer_sums_wrap() -> None:
    assert run(r.sum, np.array([100, 100], np.int8)) == -56


def test_narrow_sums_are_accurate() -> None:
    ones = np.ones(4097, as_dtype("bfloat16"))
    assert float(run(r.sum, ones)) == 4096  # in bfloat16 itself the sum would stick at 256
    assert run(r.mean, np.full(100_000, 3, np.float16)) == 3


def test_empty() -> None:
    empty = np.zeros((2, 0), np.float32)
    assert run(r.sum, empty) == 0
    np.testing.assert_array_equal(run(r.prod, empty, axis=1), [1, 1])
    assert not run(r.any, empty)
    assert run(r.all, empty)
    assert np.isnan(run(r.mean, empty))
    assert np.isnan(run(r.variance, empty, axis=1)).all()
    assert run(r.mean, empty, axis=0).shape == (0,)


@pytest.mark.parametrize("name", ["max", "min", "argmax", "argmin", "logsumexp"])
def test_extrema_of_nothing_are_refused(name: str) -> None:
    with pytest.raises(
        SpecError, match=r"axis 1 of float32\[2, 0\] is empty, and no element has no extremum"
    ):
        infer(getattr(r, name), (2, 0), axis=1)
    assert infer(getattr(r, name), (2, 0), axis=0).shape == (0,)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_extrema_propagate_nan(dtype: str) -> None:
    x = np.array([[1, NAN, 3], [1, 2, -INF]]).astype(as_dtype(dtype))
    np.testing.assert_array_equal(run(r.max, x, axis=1).astype(float), [NAN, 2])
    np.testing.assert_array_equal(run(r.min, x, axis=1).astype(float), [NAN, -INF])
    np.testing.assert_array_equal(run(r.argmax, x, axis=1), [1, 1])
    np.testing.assert_array_equal(run(r.argmin, x, axis=1), [1, 2])


def test_positions() -> None:
    x = np.array([[3, 7, 7], [7, 0, 0]])
    assert run(r.argmax, x) == 1
    assert run(r.argmax, x).dtype == np.int64
    np.testing.assert_array_equal(run(r.argmin, x, axis=-1, keepdims=True), [[0], [1]])
    assert run(r.argmax, x, keepdims=True).shape == (1, 1)
    assert run(r.argmax, 5.0) == 0


def test_truth() -> None:
    x = np.array([[0.0, NAN], [0.0, -0.0]])
    np.testing.assert_array_equal(run(r.any, x, axis=1), [True, False])
    np.testing.assert_array_equal(run(r.all, x, axis=0), [False, False])
    assert run(r.all, np.array([NAN]))


def test_cumulative_sum() -> None:
    x = np.array([1, 2, 3])
    np.testing.assert_array_equal(run(r.cumulative_sum, x), [1, 3, 6])
    np.testing.assert_array_equal(run(r.cumulative_sum, x, exclusive=True), [0, 1, 3])
    np.testing.assert_array_equal(run(r.cumulative_sum, x, reverse=True), [6, 5, 3])
    np.testing.assert_array_equal(run(r.cumulative_sum, x, reverse=True, exclusive=True), [5, 3, 0])
    np.testing.assert_array_equal(run(r.cumulative_sum, X, axis=-2), np.cumsum(X, axis=1))
    assert run(r.cumulative_sum, np.zeros((2, 0)), axis=1, exclusive=True).shape == (2, 0)


def test_cumulative_sum_needs_an_axis() -> None:
    with pytest.raises(
        SpecError, match="axis may be left out only for a tensor of rank 1; this one has rank 2"
    ):
        infer(r.cumulative_sum, (2, 3))


def test_variance() -> None:
    x = np.array([[1.0, 2.0, 4.0], [1e8, 1e8 + 1, 1e8 + 2]])
    np.testing.assert_allclose(run(r.variance, x, axis=1), np.var(x, axis=1))
    np.testing.assert_allclose(run(r.variance, x, axis=1, correction=1), np.var(x, axis=1, ddof=1))
    np.testing.assert_allclose(run(r.standard_deviation, x, axis=0), np.std(x, axis=0))
    assert np.isnan(run(r.variance, np.ones(1), correction=1))
    assert run(r.variance, np.array([1.0, 3.0]), correction=2) == INF
    assert run(r.variance, np.array([1.0, 3.0]), correction=5) == INF


def test_variance_refuses_a_correction_that_is_no_number() -> None:
    with pytest.raises(SpecError, match="correction is a real number; found 'one'"):
        infer(r.variance, (3,), correction="one")


def test_logsumexp() -> None:
    x = np.array([[1000.0, 1000.0], [-1000.0, -1000.0], [-INF, -INF], [INF, -INF], [INF, INF], [NAN, INF]])
    expected = [1000 + math.log(2), -1000 + math.log(2), -INF, INF, INF, NAN]
    np.testing.assert_allclose(run(r.logsumexp, x, axis=1), expected)
    assert run(r.logsumexp, x, axis=(0, 1), keepdims=True).shape == (1, 1)


@pytest.mark.parametrize(
    ("name", "dtype"), [("mean", "int32"), ("variance", "complex64"), ("logsumexp", "int64")]
)
def test_floating_reductions_refuse_other_dtypes(name: str, dtype: str) -> None:
    with pytest.raises(SpecError, match=r"must be (real )?floating, it is .*; cast it first"):
        infer(getattr(r, name), (3,), dtype)


def test_sum_refuses_bool_and_extrema_complex() -> None:
    with pytest.raises(SpecError, match=r"must be numeric, it is bool\[3\]"):
        infer(r.sum, (3,), "bool")
    with pytest.raises(SpecError, match=r"must be real, it is complex64\[3\]"):
        infer(r.max, (3,), "complex64")


def test_wrong_axes() -> None:
    with pytest.raises(SpecError, match="axis=2 is out of range for a tensor of rank 2"):
        infer(r.sum, (2, 3), axis=2)
    with pytest.raises(SpecError, match="names an axis twice"):
        infer(r.sum, (2, 3), axis=(0, -2))
    with pytest.raises(SpecError, match=r"axis is an integer; found \(0,\)"):
        infer(r.argmax, (2, 3), axis=(0,))


def test_symbolic_sizes() -> None:
    batch = Dim.symbol("batch")
    assert infer(r.sum, ("batch", 3), axis=1).shape == (batch,)
    assert infer(r.max, ("batch", 3), axis=0, keepdims=True).shape == (1, 3)
    assert infer(r.argmax, ("batch", 3), axis=1).shape == (batch,)
    assert infer(r.variance, ("batch", 3)).shape == ()
    assert infer(r.cumulative_sum, ("batch",)).shape == (batch,)


def test_cost_counts_the_input() -> None:
    assert r.sum.op.call(TensorSpec((8, 16))).cost == (128.0, 4 * 129)


def test_cost_of_what_the_first_element_may_decide() -> None:
    for op in (r.any.op, r.all.op):
        assert op.call(TensorSpec((8, 16))).cost == (128.0, 4 + 1)
        assert op.call(TensorSpec((8, 16)), axis=1).cost == (128.0, 8 * (4 + 1))
        assert op.call(TensorSpec((3, 0)), axis=1).cost == (0.0, 3), "there is nothing to read"

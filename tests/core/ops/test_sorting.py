"""Sorting: stability, NaN, directions, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from opyard.dim import Dim
from opyard.errors import SpecError
from opyard.ops.sorting import argsort, sort, top_k
from opyard.spec import TensorSpec, as_dtype

NAN = math.nan


def run(function: Any, x: Any, **attributes: Any) -> Any:
    call = function.op.call(TensorSpec.of(x), **attributes)
    results = call.reference(x)
    assert tuple(map(TensorSpec.of, results)) == call.outputs
    return results if call.is_tuple else results[0]


TIES = np.array([2, 1, 2, 1, 3])


def test_sorts_are_stable_in_both_directions() -> None:
    np.testing.assert_array_equal(run(argsort, TIES), [1, 3, 0, 2, 4])
    np.testing.assert_array_equal(run(argsort, TIES, descending=True), [4, 0, 2, 1, 3])
    np.testing.assert_array_equal(run(sort, TIES, descending=True), [3, 2, 2, 1, 1])


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("descending", [False, True])
def test_axes(axis: int, descending: bool) -> None:
    x = np.random.default_rng(1).integers(-5, 5, (6, 4)).T
    expected = np.sort(x, axis=axis)
    np.testing.assert_array_equal(
        run(sort, x, axis=axis, descending=descending), np.flip(expected, axis) if descending else expected
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_nan_is_greatest(dtype: str) -> None:
    x = np.array([NAN, 1, -math.inf, NAN, 2]).astype(as_dtype(dtype))
    np.testing.assert_array_equal(run(sort, x).astype(float), [-math.inf, 1, 2, NAN, NAN])
    np.testing.assert_array_equal(run(argsort, x, descending=True), [0, 3, 4, 1, 2])
    np.testing.assert_array_equal(run(top_k, x, k=3)[0].astype(float), [NAN, NAN, 2])


def test_extreme_integers() -> None:
    x = np.array([0, 255, 1], np.uint8)
    np.testing.assert_array_equal(run(sort, x, descending=True), [255, 1, 0])
    y = np.array([-128, 127, 0], np.int8)
    np.testing.assert_array_equal(run(sort, y, descending=True), [127, 0, -128])


def test_top_k() -> None:
    values, positions = run(top_k, TIES, k=3)
    np.testing.assert_array_equal(values, [3, 2, 2])
    np.testing.assert_array_equal(positions, [4, 0, 2])
    values, positions = run(top_k, TIES, k=3, largest=False)
    np.testing.assert_array_equal(values, [1, 1, 2])
    np.testing.assert_array_equal(positions, [1, 3, 0])
    x = np.array([[1, 5], [3, 2]])
    np.testing.assert_array_equal(run(top_k, x, k=1, axis=0)[0], [[3, 5]])
    assert run(top_k, x, k=0)[1].shape == (2, 0)
    assert run(top_k, x, k=2, sorted=False)[0].shape == (2, 2)


def test_empty_rows() -> None:
    assert run(sort, np.zeros((3, 0))).shape == (3, 0)
    assert run(argsort, np.zeros((0, 3)), axis=0, descending=True).shape == (0, 3)


def test_refusals() -> None:
    with pytest.raises(
        SpecError, match=r"k=4 elements are asked for, axis 1 of float32\[2, 3\] has 3; use a k of at most 3"
    ):
        top_k.op.call(TensorSpec((2, 3)), k=4)
    with pytest.raises(SpecError, match="k is at least 0; found -1"):
        top_k.op.call(TensorSpec((2, 3)), k=-1)
    with pytest.raises(SpecError, match=r"k is an integer; found 1\.5"):
        top_k.op.call(TensorSpec((2, 3)), k=1.5)
    with pytest.raises(SpecError, match="out of range for a tensor of rank 0"):
        sort.op.call(TensorSpec(()))
    with pytest.raises(SpecError, match=r"must be real, it is complex64\[2\]"):
        argsort.op.call(TensorSpec((2,), "complex64"))


def test_symbolic_sizes() -> None:
    batch = Dim.symbol("batch")
    assert sort.op.call(TensorSpec(("batch",))).output.shape == (batch,)
    assert top_k.op.call(TensorSpec((3, "batch")), k=5).output.shape == (3, 5)


def test_cost_is_that_of_a_comparison_sort() -> None:
    assert sort.op.call(TensorSpec((4, 8))).cost.flops == 4 * 8 * 3

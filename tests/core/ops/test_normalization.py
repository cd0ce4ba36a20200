"""Normalizations and softmax against their definitions, element by element."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax as scipy_log_softmax
from scipy.special import softmax as scipy_softmax

from opyard.errors import SpecError
from opyard.ops.channel_normalization import (
    batch_normalization,
    group_normalization,
    instance_normalization,
    local_response_normalization,
)
from opyard.ops.normalization import (
    layer_normalization,
    log_softmax,
    lp_normalization,
    rms_normalization,
    softmax,
)
from opyard.spec import TensorSpec
from opyard.testing import violation
from opyard.tracing import trace

GENERATOR = np.random.default_rng(17)


def run(op: Any, *arrays: Any, **attributes: Any) -> Any:
    """The reference's result, once the decomposition has been found equal to it."""
    call = op.op.call(*(None if a is None else TensorSpec.of(a) for a in arrays), **attributes)
    (result,) = call.reference(*arrays)
    assert result.shape == call.output.shape
    assert result.dtype == call.output.dtype
    with np.errstate(all="ignore"):
        decomposed = op.op.decompose(*arrays, **call.attrs)
    assert violation(call, arrays, [decomposed]) is None
    return result


def draw(*shape: int, dtype: str = "float64") -> Any:
    return GENERATOR.uniform(-2, 2, shape).astype(dtype)


def standardized(values: Any, epsilon: float) -> Any:
    mean = math.fsum(values.ravel()) / values.size
    variance = math.fsum((v - mean) ** 2 for v in values.ravel()) / values.size
    return (values - mean) / math.sqrt(variance + epsilon)


def test_batch_normalization() -> None:
    x, scale, bias, mean = draw(2, 3, 4, 5), draw(3), draw(3), draw(3)
    variance = np.array([0.0, 0.5, 2.0])
    found = run(batch_normalization, x, scale, bias, mean, variance, epsilon=0.01)
    for n, c, i, j in np.ndindex(x.shape):
        expected = scale[c] * (x[n, c, i, j] - mean[c]) / math.sqrt(variance[c] + 0.01) + bias[c]
        assert found[n, c, i, j] == pytest.approx(expected)


def test_batch_normalization_has_the_dtype_of_x() -> None:
    single = [draw(3, dtype="float32") for _ in range(3)]
    assert (
        run(batch_normalization, draw(2, 3, dtype="float16"), *single, np.ones(3, np.float32)).dtype
        == np.float16
    )


def test_batch_normalization_decomposes_to_one_product_and_one_sum_of_x() -> None:
    channels = [TensorSpec((3,))] * 4
    graph = trace(batch_normalization.op.decompose, TensorSpec((2, 3, 8, 8)), *channels)
    assert [node.op.name for node in graph.nodes if node.call.output.shape == (2, 3, 8, 8)] == [
        "multiply",
        "add",
    ]


@pytest.mark.parametrize(("axis", "trailing"), [(-1, (4,)), (1, (3, 4)), (-3, (2, 3, 4)), (0, (2, 3, 4))])
def test_layer_normalization(axis: int, trailing: tuple[int, ...]) -> None:
    x, scale, bias = draw(2, 3, 4), draw(*trailing), draw(*trailing)
    found = run(layer_normalization, x, scale, bias, axis=axis, epsilon=0.01)
    leading = x.shape[: 3 - len(trailing)]
    for at in np.ndindex(leading):
        np.testing.assert_allclose(found[at], standardized(x[at], 0.01) * scale + bias)


def test_layer_normalization_without_parameters() -> None:
    x, bias = draw(3, 5), draw(5)
    plain = run(layer_normalization, x)
    np.testing.assert_allclose(plain.mean(-1), 0, atol=1e-12)
    np.testing.assert_allclose(run(layer_normalization, x, None, bias), plain + bias)


def test_layer_normalization_of_equal_elements() -> None:
    np.testing.assert_array_equal(run(layer_normalization, np.full((2, 4), 3.0)), np.zeros((2, 4)))


def test_layer_normalization_far_from_zero() -> None:
    x = draw(2, 64, dtype="float32") + np.float32(1000)
    expected = [standardized(row.astype(np.float64), 1e-5) for row in x]
    (found,) = layer_normalization.op.call(TensorSpec.of(x)).reference(x)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # the mean is rounded to float32; the mean of squares less the squared mean would have lost everything
    np.testing.assert_allclose(layer_normalization.op.decompose(x), expected, atol=1e-4)


def test_rms_normalization() -> None:
    x, scale = draw(2, 3, 4), draw(4)
    found = run(rms_normalization, x, scale, epsilon=0.01)
    for at in np.ndindex(2, 3):
        root = math.sqrt(math.fsum(v * v for v in x[at]) / 4 + 0.01)
        np.testing.assert_allclose(found[at], x[at] / root * scale)
    np.testing.assert_array_equal(run(rms_normalization, np.zeros((2, 3))), np.zeros((2, 3)))


def test_group_normalization() -> None:
    x, scale, bias = draw(2, 6, 4, 3), draw(6), draw(6)
    found = run(group_normalization, x, scale, bias, groups=3, epsilon=0.01)
    for n, g in np.ndindex(2, 3):
        own = slice(2 * g, 2 * g + 2)
        expected = standardized(x[n, own], 0.01) * scale[own, None, None] + bias[own, None, None]
        np.testing.assert_allclose(found[n, own], expected)


def test_instance_normalization_is_group_normalization_of_single_channels() -> None:
    x, scale, bias = draw(2, 4, 3, 5), draw(4), draw(4)
    expected = run(group_normalization, x, scale, bias, groups=4)
    np.testing.assert_allclose(run(instance_normalization, x, scale, bias), expected)


def test_narrow_floats_are_normalized_in_float32() -> None:
    x = np.full((1, 2, 4096), 200, np.float16)  # the sum of squares is far beyond float16
    x[..., ::2] = 100
    found = run(group_normalization, x, np.ones(2, np.float16), np.zeros(2, np.float16), groups=1)
    np.testing.assert_array_equal(found[0, 0, :2], [-1, 1])


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_local_response_normalization(size: int) -> None:
    x = draw(2, 5, 3)
    found = run(local_response_normalization, x, size=size, alpha=0.3, beta=0.6, bias=1.5)
    for n, c, i in np.ndindex(x.shape):
        nearest = range(max(0, c - math.floor((size - 1) / 2)), min(5, c + math.ceil((size - 1) / 2) + 1))
        total = sum(x[n, j, i] ** 2 for j in nearest)
        assert found[n, c, i] == pytest.approx(x[n, c, i] / (1.5 + 0.3 / size * total) ** 0.6)


@pytest.mark.parametrize(("axis", "p"), [(-1, 2), (0, 1), (1, 2)])
def test_lp_normalization(axis: int, p: int) -> None:
    x = draw(3, 4, 2)
    norms = np.sum(np.abs(run(lp_normalization, x, axis=axis, p=p)) ** p, axis=axis)
    np.testing.assert_allclose(norms, 1)


def test_lp_normalization_of_zeros_and_nan() -> None:
    x = np.array([[0.0, 0.0], [3.0, 4.0], [np.nan, 1.0]])
    np.testing.assert_allclose(run(lp_normalization, x), [[0, 0], [0.6, 0.8], [np.nan, np.nan]])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_by_scipy(axis: int) -> None:
    x = draw(3, 4, 5) * 10
    np.testing.assert_allclose(run(softmax, x, axis=axis), scipy_softmax(x, axis=axis))
    np.testing.assert_allclose(run(log_softmax, x, axis=axis), scipy_log_softmax(x, axis=axis))


def test_softmax_of_large_numbers_does_not_overflow() -> None:
    x = np.array([[1e4, 1e4, -1e4]], np.float32)
    np.testing.assert_array_equal(run(softmax, x), [[0.5, 0.5, 0]])
    np.testing.assert_allclose(
        run(log_softmax, x), [[-math.log(2), -math.log(2), -2e4 - math.log(2)]], rtol=1e-6
    )


def test_softmax_of_infinities_and_nan() -> None:
    inf, nan = math.inf, math.nan
    x = np.array([[0.0, 0.0, -inf], [-inf, -inf, -inf], [inf, 0.0, 0.0], [nan, 0.0, 0.0]])
    found = run(softmax, x)
    np.testing.assert_array_equal(found[0], [0.5, 0.5, 0])
    assert np.isnan(found[1:]).all()


def test_softmax_of_nothing() -> None:
    assert run(softmax, draw(3, 0)).shape == (3, 0)
    assert run(log_softmax, draw(0, 3)).shape == (0, 3)


def test_symbolic_sizes() -> None:
    x = TensorSpec(("batch", "channels", "height"))
    parameter = TensorSpec(("channels",))
    assert softmax.op.call(x).output == x
    assert layer_normalization.op.call(x, TensorSpec(("height",))).output == x
    assert batch_normalization.op.call(x, *[parameter] * 4).output == x
    assert group_normalization.op.call(x, parameter, parameter, groups=2).output == x


X, C = TensorSpec((2, 4, 5)), TensorSpec((4,))


@pytest.mark.parametrize(
    ("op", "specs", "attributes", "text"),
    [
        (softmax, [TensorSpec((2,), "int32")], {}, r"must be real floating, it is int32\[2\]; cast it first"),
        (softmax, [X], {"axis": 3}, r"axis=3 is out of range for a tensor of rank 3"),
        (log_softmax, [TensorSpec(())], {}, r"axis=-1 is out of range for a tensor of rank 0"),
        (layer_normalization, [X, C], {}, r"scale broadcasts to the normalized axes \(5,\); it is float32\[4\]"),
        (layer_normalization, [X, None, TensorSpec((1, 5))], {}, r"bias broadcasts to the normalized axes \(5,\)"),
        (layer_normalization, [X, TensorSpec((5,), "int8")], {}, r"scale must be real floating"),
        (layer_normalization, [X], {"epsilon": -1.0}, r"epsilon is from 0 to inf; found -1.0"),
        (rms_normalization, [X, C], {}, r"scale broadcasts to the normalized axes"),
        (rms_normalization, [X], {"axis": 1.5}, r"axis is an integer; found 1.5"),
        (batch_normalization, [C, C, C, C, C], {}, r"x is \[batch, channels, ...\], it is float32\[4\]; add an axis: expand_dims"),
        (batch_normalization, [X, C, C, C, TensorSpec((5,))], {}, r"variance is \[4\], one number for each channel of x; it is float32\[5\]"),
        (batch_normalization, [X, C, C, TensorSpec((4, 1)), C], {}, r"mean is \[4\], one number for each channel of x"),
        (group_normalization, [X, C, C], {"groups": 3}, r"groups=3 does not divide the 4 channels of x; use one of their divisors"),
        (group_normalization, [X, C, C], {"groups": 0}, r"groups is at least 1; found 0"),
        (instance_normalization, [TensorSpec((2, 4)), C, C], {}, r"with at least one spatial axis; it is float32\[2, 4\]"),
        (local_response_normalization, [X], {"size": 0}, r"size is at least 1; found 0"),
        (local_response_normalization, [X], {"size": 3, "beta": "1"}, r"beta is a real number; found '1'"),
        (lp_normalization, [X], {"p": 3}, r"p is 1 or 2; found 3"),
    ],
)  # fmt: skip
def test_errors(op: Any, specs: Any, attributes: Any, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        op.op.call(*specs, **attributes)

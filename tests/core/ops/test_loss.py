"""Losses against their definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from opyard.errors import SpecError
from opyard.ops.loss import mean_squared_error, softmax_cross_entropy, softmax_cross_entropy_gradient
from opyard.spec import TensorSpec
from opyard.testing import violation

GENERATOR = np.random.default_rng(29)


def run(op: Any, *arrays: Any, **attributes: Any) -> Any:
    """The reference's result, once the decomposition has been found equal to it."""
    call = op.op.call(*map(TensorSpec.of, arrays), **attributes)
    (result,) = call.reference(*arrays)
    assert result.shape == call.output.shape
    assert result.dtype == call.output.dtype
    with np.errstate(all="ignore"):
        decomposed = op.op.decompose(*arrays, **call.attrs)
    assert violation(call, arrays, [decomposed]) is None
    return result


def test_cross_entropy() -> None:
    logits, labels = GENERATOR.uniform(-2, 2, (3, 4)), np.array([0, 3, 1])
    losses = [
        math.log(sum(math.exp(v) for v in row)) - row[label]
        for row, label in zip(logits, labels, strict=True)
    ]
    np.testing.assert_allclose(run(softmax_cross_entropy, logits, labels, reduction="none"), losses)
    assert run(softmax_cross_entropy, logits, labels) == pytest.approx(sum(losses) / 3)
    assert run(softmax_cross_entropy, logits, labels, reduction="sum") == pytest.approx(sum(losses))
    assert run(softmax_cross_entropy, logits.T.copy(), labels, axis=0) == pytest.approx(sum(losses) / 3)


def test_cross_entropy_gradient() -> None:
    logits, labels, g = GENERATOR.uniform(-2, 2, (3, 4)), np.array([0, 3, 1]), np.array([1.0, -2.0, 0.5])
    weights = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = (weights - np.eye(4)[labels]) * g[:, None]
    np.testing.assert_allclose(run(softmax_cross_entropy_gradient, logits, labels, g), expected)
    found = run(softmax_cross_entropy_gradient, logits.T.copy(), labels, g, axis=0)
    np.testing.assert_allclose(found, expected.T)
    alike = run(softmax_cross_entropy_gradient, logits, labels, np.array(0.25))
    np.testing.assert_allclose(alike, (weights - np.eye(4)[labels]) * 0.25)


def test_cross_entropy_does_not_overflow() -> None:
    assert run(softmax_cross_entropy, np.array([[1e4, -1e4]], np.float32), np.array([1])) == 2e4


def test_empty_batches() -> None:
    nothing, labels = np.zeros((0, 4)), np.zeros(0, np.int64)
    assert np.isnan(run(softmax_cross_entropy, nothing, labels))
    assert run(softmax_cross_entropy, nothing, labels, reduction="sum") == 0
    assert np.isnan(run(mean_squared_error, nothing, nothing))


def test_mean_squared_error() -> None:
    x, y = np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([1.0, 1.0])
    np.testing.assert_array_equal(run(mean_squared_error, x, y, reduction="none"), [[0, 1], [4, 16]])
    assert run(mean_squared_error, x, y) == 5.25
    assert run(mean_squared_error, x, y, reduction="sum") == 21
    assert run(mean_squared_error, np.float16(np.full(4096, 8)), np.zeros(4096, np.float16)) == 64


def test_symbolic_sizes() -> None:
    call = softmax_cross_entropy.op.call(
        TensorSpec(("batch", 4)), TensorSpec(("batch",), "int64"), reduction="none"
    )
    assert call.output == TensorSpec(("batch",))


@pytest.mark.parametrize(
    ("op", "specs", "attributes", "text"),
    [
        (softmax_cross_entropy, (TensorSpec((3, 4), "int32"), TensorSpec((3,), "int64")), {}, r"logits must be real floating"),
        (softmax_cross_entropy, (TensorSpec((3, 4)), TensorSpec((3,))), {}, r"labels must be integer.*cast\(x, dtype='int32'\)"),
        (softmax_cross_entropy, (TensorSpec((3, 4)), TensorSpec((4,), "int64")), {}, r"labels has the shape of logits without axis -1, \(3,\); it is int64\[4\]"),
        (softmax_cross_entropy, (TensorSpec((3, 0)), TensorSpec((3,), "int64")), {}, r"logits has no classes along axis -1"),
        (softmax_cross_entropy, (TensorSpec((3, 4)), TensorSpec((3,), "int64")), {"reduction": "max"}, r"reduction is one of 'mean', 'sum', 'none'; found 'max'"),
        (softmax_cross_entropy_gradient, (TensorSpec((3, "classes")), TensorSpec((3,), "int64"), TensorSpec(())), {}, r"the number of classes, along axis -1, must be a number; logits is float32\[3, classes\]"),
        (softmax_cross_entropy_gradient, (TensorSpec((3, 4)), TensorSpec((3,), "int64"), TensorSpec((4,))), {}, r"g has the shape of the losses, \(3,\), or none; it is float32\[4\]"),
        (softmax_cross_entropy_gradient, (TensorSpec((3, 4)), TensorSpec((3,), "int64"), TensorSpec((), "int32")), {}, r"g must be real floating"),
        (mean_squared_error, (TensorSpec((3,), "int32"), TensorSpec((3,))), {}, r"prediction must be real floating"),
        (mean_squared_error, (TensorSpec((3,)), TensorSpec((3,), "bool")), {}, r"target must be real floating"),
        (mean_squared_error, (TensorSpec((3,)), TensorSpec((4,))), {}, r"do not broadcast"),
    ],
)  # fmt: skip
def test_errors(op: Any, specs: Any, attributes: Any, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        op.op.call(*specs, **attributes)

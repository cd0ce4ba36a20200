"""Right gradients pass, wrong ones are found, with the place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opyard.errors import KernelError
from opyard.ops import STANDARD
from opyard_conformance import check_gradient

GENERATOR = np.random.default_rng(3)
X, W = GENERATOR.uniform(-2, 2, (3, 4)), GENERATOR.uniform(-2, 2, (4, 2))


def softmax(x: Any) -> Any:
    return STANDARD["softmax"].op.reference(x, axis=-1)


def softmax_vjp(arrays: Any, cotangents: Any) -> Any:
    y, (c,) = softmax(arrays[0]), cotangents
    return [y * (c - np.sum(c * y, axis=-1, keepdims=True))]


def product_vjp(arrays: Any, cotangents: Any) -> Any:
    (x, w), (c,) = arrays, cotangents
    return [c @ w.T, x.T @ c]


def both(x: Any, y: Any) -> Any:
    return np.sin(x) * y, np.sum(x * y)


def both_vjp(arrays: Any, cotangents: Any) -> Any:
    (x, y), (c, d) = arrays, cotangents
    return [c * np.cos(x) * y + d * y, c * np.sin(x) + d * x]


RIGHT: list[tuple[Callable[..., Any], Callable[..., Any], list[Any], int]] = [
    (np.exp, lambda arrays, c: [np.exp(arrays[0]) * c[0]], [X], 4 + 4 + 12),
    (softmax, softmax_vjp, [X], 4 + 4 + 12),
    (np.matmul, product_vjp, [X, W], 4 + 2 * 4 + 12 + 8),
    (both, both_vjp, [X, X[::-1]], 4 + 2 * 4 + 24),
    (lambda x, i: x[i], lambda a, c: [np.bincount(a[1], c[0], 4), None], [X[0], np.array([0, 2, 2])], 12),
    (lambda x, y: 2 * x, lambda a, c: [2 * c[0], None], [np.ones(40), None], 8),
    (np.exp, lambda arrays, c: [np.exp(arrays[0]) * c[0]], [np.zeros((0, 3))], 0),
    (lambda x: 1e6 * x**3, lambda a, c: [3e6 * a[0] ** 2 * c[0]], [X], 20),
]


@pytest.mark.parametrize(("function", "vjp", "arrays", "count"), RIGHT)
def test_right_gradients_pass(function: Any, vjp: Any, arrays: Any, count: int) -> None:
    assert check_gradient(function, vjp, arrays) == count
    assert check_gradient(function, vjp, arrays, seed=5) == count


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5), st.floats(-3, 3), st.integers(0, 100))
def test_polynomials_of_any_degree(degree: int, factor: float, seed: int) -> None:
    def vjp(arrays: Any, cotangents: Any) -> Any:
        return [factor * degree * arrays[0] ** max(degree - 1, 0) * cotangents[0]]

    check_gradient(lambda x: factor * x**degree, vjp, [X], seed=seed)


WRONG: list[tuple[Callable[..., Any], Callable[..., Any], list[Any], str]] = [
    (np.exp, lambda a, c: [np.exp(a[0])], [X], "along a direction in all inputs: it gives "),
    (np.exp, lambda a, c: [np.exp(a[0]) * c[0] * (1 + 1e-4)], [X], "finite differences"),
    (softmax, lambda a, c: [softmax(a[0]) * c[0]], [X], "the gradient is wrong"),
    (np.matmul, lambda a, c: [c[0] @ a[1].T, 0 * a[1]], [X, W], "the gradient is wrong"),
    (np.tanh, lambda a, c: [(1 - a[0] ** 2) * c[0]], [X], "the gradient is wrong"),
    (np.square, lambda a, c: [np.where(a[0] > 0.9, 0, 2 * a[0] * c[0])], [X], "the gradient is wrong"),
    (np.exp, lambda a, c: [np.full(a[0].shape, np.nan)], [X], "it gives nan"),
]


@pytest.mark.parametrize(("function", "vjp", "arrays", "text"), WRONG)
def test_wrong_gradients_are_found(function: Any, vjp: Any, arrays: Any, text: str) -> None:
    with pytest.raises(KernelError, match=text):
        check_gradient(function, vjp, arrays)


def test_the_place_of_a_single_wrong_element_is_named() -> None:
    def vjp(arrays: Any, cotangents: Any) -> Any:
        gradient = 2 * arrays[0] * cotangents[0]
        gradient[1, 2] = gradient[1, 2] + 1e-7
        return [gradient]

    x = np.ones((3, 4))
    x[1, 2] = 1e-4
    with pytest.raises(KernelError, match=r"the gradient is wrong for input 0 at \(1, 2\): it gives "):
        check_gradient(np.square, vjp, [x], tolerance=1e-6)


def test_shapes_of_gradients() -> None:
    with pytest.raises(KernelError, match=r"the gradient has 1 arrays, there are 2 inputs\."):
        check_gradient(np.matmul, lambda a, c: [a[0]], [X, W])
    with pytest.raises(
        KernelError, match=r"the gradient of input 1 has shape \(3, 4\), the input \(4, 2\)\."
    ):
        check_gradient(np.matmul, lambda a, c: [a[0], a[0]], [X, W])
    with pytest.raises(KernelError, match=r"the gradient of input 1 has shape \(\), the input None\."):
        check_gradient(lambda x, y: x, lambda a, c: [c[0], np.zeros(())], [X, None])


def test_float32_inputs_are_widened() -> None:
    seen = []

    def function(x: Any) -> Any:
        seen.append(x.dtype.name)
        return np.exp(x)

    check_gradient(function, lambda a, c: [np.exp(a[0]) * c[0]], [X.astype(np.float32)])
    assert set(seen) == {"float64"}

"""Gradients of random graphs agree with those of torch.autograd, where PyTorch is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from differences import evaluate

torch: Any = pytest.importorskip("torch", reason="PyTorch is compared with where it is installed")

SPEC = oy.TensorSpec((2, 3), "float64")
ROWS = np.array([1, 0, -1])
PLACES = np.array([[2, 0, 0], [1, 1, 2]])
FILTER = np.linspace(-1, 1, 8).reshape(2, 2, 2)


def torch_function() -> Any:
    return torch.nn.functional


# each step takes two values [2, 3] and gives one
STEPS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    "add": (lambda a, b: a + b * 0.5, lambda a, b: a + b * 0.5),
    "multiply": (lambda a, b: a * b, lambda a, b: a * b),
    "divide": (lambda a, b: a / (b * b + 1.0), lambda a, b: a / (b * b + 1.0)),
    "power": (lambda a, b: oy.abs(a) ** 2.5 * 0.1, lambda a, b: torch.abs(a) ** 2.5 * 0.1),
    "tanh": (lambda a, b: oy.tanh(a), lambda a, b: torch.tanh(a)),
    "exponential": (lambda a, b: oy.exp(oy.sin(a)), lambda a, b: torch.exp(torch.sin(a))),
    "logarithm": (lambda a, b: oy.log(a * a + 1.0), lambda a, b: torch.log(a * a + 1.0)),
    "root": (lambda a, b: oy.sqrt(a * a + 0.5), lambda a, b: torch.sqrt(a * a + 0.5)),
    "relu": (lambda a, b: oy.relu(a), lambda a, b: torch.relu(a)),
    "gelu": (lambda a, b: oy.gelu(a), lambda a, b: torch_function().gelu(a)),
    "silu": (lambda a, b: oy.silu(a) + oy.softplus(b), lambda a, b: torch_function().silu(a) + torch_function().softplus(b)),
    "erf": (lambda a, b: oy.erf(a) - oy.atan2(a, b * b + 1.0), lambda a, b: torch.erf(a) - torch.atan2(a, b * b + 1.0)),
    "maximum": (lambda a, b: oy.maximum(a, b), lambda a, b: torch.maximum(a, b)),
    "where": (lambda a, b: oy.where(a < b, a, b * 2.0), lambda a, b: torch.where(a < b, a, b * 2.0)),
    "matmul": (
        lambda a, b: a @ oy.matrix_transpose(b) @ b * 0.2,
        lambda a, b: a @ b.transpose(0, 1) @ b * 0.2,
    ),
    "einsum": (
        lambda a, b: oy.einsum(a, b, b, equation="ij,kj,kl->ij") * 0.3,
        lambda a, b: torch.einsum("ij,kj,kl->ij", a, b, b) * 0.3,
    ),
    "broadcast": (
        lambda a, b: a * oy.sum(b, axis=0) - oy.mean(b, axis=1, keepdims=True),
        lambda a, b: a * b.sum(0) - b.mean(1, keepdim=True),
    ),
    "extrema": (
        lambda a, b: a - oy.max(b, axis=1, keepdims=True) * oy.min(a, axis=0),
        lambda a, b: a - b.amax(1, keepdim=True) * a.amin(0),
    ),
    "product": (lambda a, b: oy.prod(a, axis=0) * b * 0.3, lambda a, b: a.prod(0) * b * 0.3),
    "deviation": (
        lambda a, b: a * oy.standard_deviation(b + [[0.0, 1.0, 3.0]], axis=1, keepdims=True, correction=1),
        lambda a, b: a * (b + torch.tensor([[0.0, 1.0, 3.0]])).std(1, keepdim=True),
    ),
    "sums": (
        lambda a, b: oy.cumulative_sum(a, axis=1) * 0.5 + oy.logsumexp(b, axis=0),
        lambda a, b: a.cumsum(1) * 0.5 + b.logsumexp(0),
    ),
    "softmax": (
        lambda a, b: oy.softmax(a, axis=0) + oy.log_softmax(b, axis=1) * 0.2,
        lambda a, b: a.softmax(0) + b.log_softmax(1) * 0.2,
    ),
    "normalization": (
        lambda a, b: oy.layer_normalization(a, b[0], b[1], epsilon=0.1),
        lambda a, b: torch_function().layer_norm(a, (3,), b[0], b[1], eps=0.1),
    ),
    "gather": (
        lambda a, b: oy.gather(a, ROWS, axis=1) + oy.take_along_axis(b, PLACES, axis=1),
        lambda a, b: a[:, torch.tensor(ROWS)] + b.gather(1, torch.tensor(PLACES)),
    ),
    "scatter": (
        lambda a, b: oy.scatter(a, PLACES, b, axis=1, reduction="add"),
        lambda a, b: a.scatter_add(1, torch.tensor(PLACES), b),
    ),
    "slices": (
        lambda a, b: oy.concat(a[:, 1:], b[:, ::-2][:, :1], axis=1),
        lambda a, b: torch.cat([a[:, 1:], b[:, 2:]], 1),
    ),
    "movement": (
        lambda a, b: oy.flip(oy.roll(a, shift=1, axis=1), axis=0) + oy.reshape(oy.tile(b, repetitions=(1, 2))[:, 2:5], shape=(2, 3)),
        lambda a, b: a.roll(1, 1).flip(0) + b.tile(1, 2)[:, 2:5],
    ),
    "sort": (
        lambda a, b: oy.sort(a, axis=1) + oy.top_k(b, k=1)[0],
        lambda a, b: torch.sort(a, dim=1, stable=True)[0] + torch.topk(b, 1)[0],
    ),
    "conv": (
        lambda a, b: oy.reshape(oy.conv(a[None], FILTER, b[0, :2], padding=((0, 1),)), shape=(2, 3)),
        lambda a, b: torch_function().conv1d(torch_function().pad(a[None], (0, 1)), torch.tensor(FILTER), b[0, :2])[0],
    ),
    "pooling": (
        lambda a, b: oy.reshape(
            oy.max_pool(a[None], kernel=2, strides=1, padding=((0, 1),)) + oy.average_pool(b[None], kernel=3, strides=1, padding=1, count_include_pad=True), shape=(2, 3)
        ),
        lambda a, b: (
            torch_function().max_pool1d(torch_function().pad(a[None], (0, 1), value=-torch.inf), 2, 1) + torch_function().avg_pool1d(b[None], 3, 1, 1)
        )[0],
    ),
    "cross entropy": (
        lambda a, b: a * oy.softmax_cross_entropy(b, np.array([2, 0])),
        lambda a, b: a * torch_function().cross_entropy(b, torch.tensor([2, 0])),
    ),
}  # fmt: skip

programs = st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=8)  # fmt: skip


def run(program: list[tuple[str, int, int]], which: int, x: Any, y: Any) -> Any:
    """The sum of what a program of steps makes of two values; each step takes two of those before it."""
    values = [x, y]
    for name, left, right in program:
        values.append(STEPS[name][which](values[left % len(values)], values[right % len(values)]))
    return values[-1]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(programs, st.integers(0, 2**32 - 1))
def test_random_graphs_have_the_gradients_of_torch(program: list[tuple[str, int, int]], seed: int) -> None:
    arrays = np.random.default_rng(seed).uniform(-2, 2, (2, 2, 3))

    def gradients(x: oy.Value, y: oy.Value) -> Any:
        result = run(program, 0, x, y)
        return result, oy.gradients(oy.sum(result * result), (x, y))

    result, *found = evaluate(oy.trace(gradients, SPEC, SPEC), list(arrays))
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    expected = run(program, 1, *tensors)
    np.testing.assert_allclose(result, expected.detach().numpy(), rtol=1e-7, atol=1e-9)
    (expected * expected).sum().backward()
    for gradient, tensor in zip(found, tensors, strict=True):
        wanted = np.zeros((2, 3)) if tensor.grad is None else tensor.grad.numpy()
        scale = max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(gradient / scale, wanted / scale, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", STEPS)
def test_each_step_alone(name: str) -> None:
    test_random_graphs_have_the_gradients_of_torch.hypothesis.inner_test([(name, 0, 1)], 5)  # type: ignore[attr-defined]

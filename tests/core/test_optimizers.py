"""Optimizers: against their formulas, against PyTorch where it is installed, as one graph, and from checkpoints."""

from __future__ import annotations

import numpy as np
import pytest

import opyard as oy
from opyard import optimizers
from opyard.errors import GraphError, SpecError

GENERATOR = np.random.default_rng(0)
MATRIX, START = GENERATOR.random((4, 4)), GENERATOR.random(4)


def loss_of(w):
    difference = oy.matmul(MATRIX, w) - 1.0
    return oy.sum(difference * difference)


def gradient(w):
    return 2 * MATRIX.T @ (MATRIX @ w - 1)


def run(optimizer, steps, dtype="float64"):
    w = oy.Variable(START, dtype=dtype, name="w")

    @oy.compile
    def step():
        loss = loss_of(oy.cast(w, dtype="float64"))
        optimizer.minimize(loss, [w])
        return loss

    losses = [float(step()) for _ in range(steps)]
    return w, losses


def momentum(w, steps, nesterov):
    v = np.zeros(4)
    for _ in range(steps):
        g = gradient(w)
        v = 0.9 * v + g
        w = w - 0.01 * (g + 0.9 * v if nesterov else v)
    return w


def adam(w, steps, decay=0.0):
    m, v = np.zeros(4), np.zeros(4)
    for t in range(1, steps + 1):
        g = gradient(w)
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        w = w - 0.01 * decay * w - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
    return w


def rmsprop(w, steps):
    s = np.zeros(4)
    for _ in range(steps):
        g = gradient(w)
        s = 0.9 * s + 0.1 * g * g
        w = w - 0.01 * g / (np.sqrt(s) + 1e-8)
    return w


def plain(w, steps):
    for _ in range(steps):
        w = w - 0.01 * gradient(w)
    return w


FORMULAS = {
    "sgd": (lambda: optimizers.sgd(0.01), plain),
    "momentum": (lambda: optimizers.sgd(0.01, momentum=0.9), lambda w, n: momentum(w, n, False)),
    "nesterov": (
        lambda: optimizers.sgd(0.01, momentum=0.9, nesterov=True),
        lambda w, n: momentum(w, n, True),
    ),
    "adam": (lambda: optimizers.adam(0.01, beta2=0.99), adam),
    "adamw": (
        lambda: optimizers.adamw(0.01, beta2=0.99, weight_decay=0.1),
        lambda w, n: adam(w, n, 0.1),
    ),
    "rmsprop": (lambda: optimizers.rmsprop(0.01), rmsprop),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_rule_is_its_formula(name):
    make, formula = FORMULAS[name]
    optimizer = make()
    w, losses = run(optimizer, 5)
    np.testing.assert_allclose(w.numpy(), formula(START, 5), rtol=1e-6)  # the number of the step is a float32
    assert losses[-1] < losses[0]
    assert int(optimizer.step.numpy()) == 5


@pytest.mark.parametrize("name", FORMULAS)
def test_pytorch_takes_the_same_steps(name):
    torch = pytest.importorskip("torch")
    w = torch.tensor(START, requires_grad=True)
    made = {
        "sgd": lambda: torch.optim.SGD([w], 0.01),
        "momentum": lambda: torch.optim.SGD([w], 0.01, momentum=0.9),
        "nesterov": lambda: torch.optim.SGD([w], 0.01, momentum=0.9, nesterov=True),
        "adam": lambda: torch.optim.Adam([w], 0.01, betas=(0.9, 0.99)),
        "adamw": lambda: torch.optim.AdamW([w], 0.01, betas=(0.9, 0.99), weight_decay=0.1),
        "rmsprop": lambda: torch.optim.RMSprop([w], 0.01, alpha=0.9),
    }[name]()
    for _ in range(5):
        made.zero_grad()
        ((torch.tensor(MATRIX) @ w - 1) ** 2).sum().backward()
        made.step()
    found, _ = run(FORMULAS[name][0](), 5)
    np.testing.assert_allclose(found.numpy(), w.detach().numpy(), rtol=1e-6)


def test_a_step_is_one_graph():
    optimizer, w = optimizers.adam(), oy.Variable(START, name="w")

    def step(x):
        loss = oy.sum(oy.matmul(x, w) ** 2)
        optimizer.minimize(loss, [w])
        return loss

    graph = oy.trace(step, oy.TensorSpec((4, 4), "float64"))
    assert {variable.name for _, variable in graph.state.writes} == {
        "adam/step",
        "w",
        "adam/w/sums",
        "adam/w/squares",
    }


def test_learning_rates_that_change():
    rate = oy.Variable(0.0)
    w, _ = run(optimizers.sgd(rate), 1)
    assert w.numpy().tolist() == START.tolist()
    halved, _ = run(optimizers.sgd(lambda step: 0.01 / step), 2)
    first = START - 0.01 * gradient(START)
    np.testing.assert_allclose(halved.numpy(), first - 0.005 * gradient(first), rtol=1e-6)


def test_small_floats_are_updated_in_float32():
    optimizer = optimizers.sgd(1e-4, momentum=0.9)
    w, _ = run(optimizer, 3, dtype="bfloat16")
    assert w.dtype.name == "bfloat16"
    assert [variable.dtype.name for variable in optimizer.variables] == ["int64", "float32"]


def test_gradients_are_applied_to_arrays_too():
    w = oy.Variable(START)
    optimizers.sgd(0.5).apply([np.ones(4)], [w])
    np.testing.assert_allclose(w.numpy(), START - 0.5)


def test_training_goes_on_from_a_checkpoint(tmp_path):
    def make():
        w, optimizer = oy.Variable(START, name="w"), optimizers.adam(0.01)
        optimizer.prepare([w])

        @oy.compile
        def step():
            optimizer.minimize(loss_of(w * 1.0), [w])
            return w

        return w, optimizer, step

    w, optimizer, step = make()
    for _ in range(3):
        step()
    oy.save(tmp_path / "c", [w, *optimizer.variables])
    step()
    again, other, resumed = make()
    oy.restore(tmp_path / "c", [again, *other.variables])
    resumed()
    assert again.numpy().tobytes() == w.numpy().tobytes()


def test_clipping():
    found = [np.full(4, 3.0, np.float32), np.full(4, 4.0, np.float32)]
    np.testing.assert_allclose(optimizers.clip_by_global_norm(found, 5.0)[0], 1.5, rtol=1e-6)
    np.testing.assert_allclose(optimizers.clip_by_global_norm(found, 50.0)[1], 4.0, rtol=1e-6)
    with pytest.raises(GraphError, match="clip_by_global_norm was given no gradients"):
        optimizers.clip_by_global_norm([], 1.0)


def test_what_cannot_be_optimized():
    w = oy.Variable(START)
    with pytest.raises(SpecError, match="sgd: the learning rate is at least 0; found -1"):
        optimizers.sgd(-1)
    with pytest.raises(SpecError, match=r"rmsprop: decay is at least 0 and less than 1; found 1\.0"):
        optimizers.rmsprop(decay=1.0, learning_rate=0.1)
    with pytest.raises(SpecError, match=r"adamw: beta2 is at least 0 and less than 1; found -0\.5"):
        optimizers.adamw(beta2=-0.5)
    with pytest.raises(SpecError, match="sgd: nesterov=True needs a momentum"):
        optimizers.sgd(0.1, nesterov=True)
    with pytest.raises(SpecError, match="adam: 2 gradients were given for 1 variables; give one for each"):
        optimizers.adam().apply([START, START], [w])
    with pytest.raises(SpecError, match="adam: variables are optimized; found ndarray"):
        optimizers.adam().apply([START], [START])

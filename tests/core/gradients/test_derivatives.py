"""Derivatives of functions over arrays: eager, compiled, in sessions, on OpenCL, nested, stopped, replaced and recomputed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import opyard as oy
from differences import check
from opyard.errors import GraphError, SpecError

X = np.array([[-1.5, 0.5, 3.0], [0.25, -0.75, 1.0]])
W = np.linspace(-1, 1, 12).reshape(3, 4)
DEVICES = [device.name for device in oy.devices()]


def loss(x: Any, w: Any) -> Any:
    return oy.sum(oy.tanh(x @ w) * 2.0)


def expected() -> tuple[Any, Any, Any]:
    slope = 2 * (1 - np.tanh(X @ W) ** 2)
    return np.sum(2 * np.tanh(X @ W)), slope @ W.T, X.T @ slope


def test_eager_and_compiled_and_in_a_graph() -> None:
    value, of_x, of_w = expected()
    np.testing.assert_allclose(oy.grad(loss)(X, W), of_x)
    np.testing.assert_allclose(oy.grad(loss, 1)(X, W), of_w)
    np.testing.assert_allclose(oy.grad(loss, -1)(X, W), of_w)
    found = oy.value_and_grad(loss, (0, 1))(X, W)
    np.testing.assert_allclose(found[0], value)
    np.testing.assert_allclose(found[1][0], of_x)
    np.testing.assert_allclose(found[1][1], of_w)
    np.testing.assert_allclose(oy.compile(oy.grad(loss))(X, W), of_x)
    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec(("n", 3), "float64"))
        graph.output("gradient", oy.grad(loss)(x, W))
    with oy.Session(graph) as session:
        np.testing.assert_allclose(session.run("gradient", {"x": X}), of_x)


def test_parameters_in_any_nesting() -> None:
    def model(parameters: Any, x: Any, power: Any = None) -> Any:
        hidden = x
        for layer in parameters["layers"]:
            hidden = oy.tanh(hidden @ layer["weight"] + layer["bias"])
        return oy.mean(hidden * parameters["scale"][0])

    layers = [{"weight": W, "bias": np.zeros(4)}, {"weight": W.T, "bias": np.zeros(3)}]
    parameters = {"layers": layers, "scale": (np.float64(2.0), X)}
    found = oy.grad(model)(parameters, X)
    assert found["layers"][0]["weight"].shape == (3, 4) and not found["scale"][1].any()
    moved = {"layers": layers, "scale": (np.float64(2.5), X)}
    compiled = oy.compile(model)
    assert (compiled(moved, X) - compiled(parameters, X)) / 0.5 == pytest.approx(found["scale"][0])


def test_higher_order() -> None:
    def curve(x: Any) -> Any:
        return oy.exp(2.0 * x)

    twice = oy.grad(oy.grad(curve))
    assert twice(0.5) == pytest.approx(4 * np.e)
    assert oy.compile(oy.grad(twice))(0.0) == pytest.approx(8.0)

    def hessian(x: Any) -> Any:
        gradient = oy.grad(lambda v: oy.prod(v))(x)
        return (
            oy.stack(*(oy.grad(lambda v, i=i: oy.grad(oy.prod)(v)[i])(x) for i in range(3))) + gradient * 0.0
        )

    np.testing.assert_allclose(oy.compile(hessian)(X[0]), [[0, 3, 0.5], [3, 0, -1.5], [0.5, -1.5, 0]])


def test_each_argument_is_a_variable_of_its_own() -> None:
    def product(a: Any, b: Any) -> Any:
        return oy.sum(a * b)

    np.testing.assert_allclose(oy.grad(product)(X, X), X)

    def closed(x: Any) -> Any:
        return oy.grad(lambda a: oy.sum(a * x))(x)

    np.testing.assert_allclose(oy.compile(closed)(X), X)
    graph = oy.simplify(oy.trace(closed, oy.TensorSpec.of(X)))
    assert all(node.op.name in oy.ops.STANDARD for node in graph.nodes)


def test_aux() -> None:
    def with_metrics(x: Any) -> Any:
        return oy.sum(x * x), {"norm": oy.sqrt(oy.sum(x * x)), "first": x[0]}

    gradient, aux = oy.grad(with_metrics, has_aux=True)(X)
    np.testing.assert_allclose(gradient, 2 * X)
    np.testing.assert_allclose(aux["first"], X[0])
    (value, again), gradient = oy.value_and_grad(with_metrics, has_aux=True)(X)
    assert value == pytest.approx(np.sum(X * X)) == again["norm"] ** 2
    np.testing.assert_allclose(gradient, 2 * X)


def test_static_arguments_and_keywords() -> None:
    def powered(x: Any, mode: str, *, factor: float) -> Any:
        return oy.sum(x**2 if mode == "square" else x) * factor

    np.testing.assert_allclose(oy.grad(powered)(X, "square", factor=3.0), 6 * X)
    np.testing.assert_allclose(oy.grad(powered)(X, "sum", factor=3.0), np.full_like(X, 3.0))


def test_vjp() -> None:
    def pair(a: Any, b: Any) -> Any:
        return {"product": a * b, "sum": oy.sum(a)}

    y, pull = oy.vjp(pair, X, X + 1)
    np.testing.assert_allclose(y["product"], X * (X + 1))
    of_a, of_b = pull({"product": np.ones_like(X), "sum": 2.0})
    np.testing.assert_allclose(of_a, X + 3)
    np.testing.assert_allclose(of_b, X)
    assert not np.any(pull({"product": None, "sum": 2.0})[1])

    def inside(a: Any) -> Any:
        y, pull = oy.vjp(lambda v: (oy.sin(v), X), a)
        return pull((y[0], None))[0]

    np.testing.assert_allclose(oy.compile(inside)(X), np.sin(X) * np.cos(X))


def test_jvp() -> None:
    y, tangent = oy.jvp(lambda x, w: [oy.sin(x) @ w], (X, W), (np.ones_like(X), 2 * W))
    np.testing.assert_allclose(y[0], np.sin(X) @ W)
    np.testing.assert_allclose(tangent[0], np.cos(X) @ W + np.sin(X) @ (2 * W))
    again = oy.compile(lambda x, d: oy.jvp(oy.exp, (x,), (d,))[1])
    np.testing.assert_allclose(again(X, X), X * np.exp(X))


def test_stop_gradient() -> None:
    np.testing.assert_allclose(oy.grad(lambda x: oy.sum(oy.stop_gradient(x) * x))(X), X)
    nested = oy.grad(lambda x: oy.sum(oy.stop_gradient({"a": (x * 2.0,)})["a"][0] + x))(X)
    np.testing.assert_allclose(nested, np.ones_like(X))
    assert oy.stop_gradient(X) is X
    graph = oy.simplify(oy.trace(lambda x: oy.stop_gradient(x) + 1.0, oy.TensorSpec.of(X)))
    assert [node.op.name for node in graph.nodes] == ["add"]


def test_custom_gradient() -> None:
    @oy.custom_gradient
    def clipped(x: Any) -> Any:
        return x, lambda g: oy.clip(g, np.float64(-0.5), np.float64(0.5))

    np.testing.assert_allclose(oy.grad(lambda x: oy.sum(clipped(x) * X))(X), np.clip(X, -0.5, 0.5))
    assert clipped(X) is X

    @oy.custom_gradient
    def two(parameters: Any, x: Any) -> Any:
        root = oy.sqrt(x)

        def pull(cotangent: Any) -> Any:
            return {"scale": oy.sum(cotangent["a"] * root), "unused": None}, cotangent["b"] * root

        return {"a": root * parameters["scale"], "b": root}, pull

    def of_two(scale: Any, x: Any) -> Any:
        return oy.sum(two({"scale": scale, "unused": scale}, x)["a"])

    of_scale, of_x = oy.grad(of_two, (0, 1))(np.float64(3.0), np.abs(X))
    assert of_scale == pytest.approx(np.sum(np.sqrt(np.abs(X))))
    assert not np.any(of_x)  # the rule says so

    @oy.custom_gradient
    def swish(x: Any) -> Any:
        y = oy.sigmoid(x)
        return x * y, lambda g: (g * (y + x * y * (1.0 - y)),)

    assert check(lambda x: swish(x), X)
    assert check(lambda x: oy.gradients(swish(x), x), X)

    @oy.custom_gradient
    def constant(x: Any) -> Any:
        return np.ones(2), lambda g: None

    assert not np.any(oy.grad(lambda x: oy.sum(constant(x)))(X))


def block(x: Any) -> Any:
    return oy.tanh(oy.exp(x) * oy.sin(x))


def deep(around: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def function(x: Any) -> Any:
        for _ in range(3):
            x = around(block)(x)
        return oy.sum(x * x)

    return function


def count(graph: oy.Graph, name: str) -> int:
    return sum(node.op.name == name for node in graph.nodes)


def test_checkpoint_computes_again_and_no_pass_undoes_it() -> None:
    plain, again = oy.grad(deep(lambda f: f)), oy.grad(deep(oy.checkpoint))
    np.testing.assert_array_equal(plain(X), again(X))
    kept, computed = oy.simplify(plain.graph(X)), oy.simplify(again.graph(X))
    assert count(kept, "exp") == 3
    assert count(computed, "exp") == 6
    np.testing.assert_allclose(deep(oy.checkpoint)(X), deep(lambda f: f)(X))
    large = oy.TensorSpec((100, 100))
    with oy.using(block=["cpu/blocks", "cpu/jit"]):  # inside of a fused chain nothing is kept anyway
        of_plain, of_again = (oy.compile(f, devices="cpu:0").explain(large).memory[0] for f in (plain, again))
    assert of_again.peak_bytes < of_plain.peak_bytes


def test_checkpoints_within_each_other_and_of_gradients() -> None:
    def outer(x: Any) -> Any:
        inner = oy.checkpoint(block)
        return inner(inner(x)) + x

    def function(x: Any) -> Any:
        return oy.sum(oy.checkpoint(outer)(x))

    def plain(x: Any) -> Any:
        return oy.sum(block(block(x)) + x)

    graph = oy.simplify(oy.grad(function).graph(X))
    assert (
        count(graph, "exp") == 1 + 2
    )  # outer again, up to the inner block that is last; both inner ones once more
    np.testing.assert_allclose(oy.grad(function)(X), oy.grad(plain)(X))
    assert check(lambda x: oy.gradients(function(x), x), X * 0.5)
    inside = oy.checkpoint(lambda x: oy.grad(plain)(x))
    np.testing.assert_allclose(
        oy.grad(lambda x: oy.sum(inside(x)))(X), oy.grad(lambda x: oy.sum(oy.grad(plain)(x)))(X)
    )


def test_values_inside_a_checkpoint_have_gradients() -> None:
    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec.of(X))
        inner = []

        def function(value: Any) -> Any:
            inner.append(oy.sin(value))
            return inner[0] * inner[0]

        y = oy.checkpoint(function)(x)
        of_inner, of_x = oy.gradients(y, [inner[0], x])
        stopped = oy.checkpoint(oy.exp)(x)
        unrelated = oy.gradients(y, x)
        graph.output("stopped", stopped)
    with oy.Session(graph) as session:
        a, b, c = session.run([of_inner, of_x, unrelated], {"x": X})
    np.testing.assert_allclose(a, 2 * np.sin(X))
    np.testing.assert_allclose(b, 2 * np.sin(X) * np.cos(X))
    np.testing.assert_allclose(c, b)


def network(parameters: Any, images: Any, labels: Any) -> Any:
    hidden = oy.relu(oy.conv(images, parameters["filters"], parameters["shift"], padding=1))
    pooled = oy.flatten(oy.average_pool(hidden, kernel=2))
    logits = oy.linear(pooled, parameters["weight"], parameters["bias"])
    return oy.softmax_cross_entropy(logits, labels)


def training_arrays() -> tuple[dict[str, Any], Any, Any]:
    generator = np.random.default_rng(3)

    def normal(*shape: int) -> Any:
        return generator.normal(size=shape).astype(np.float32)

    parameters = {
        "filters": normal(4, 1, 3, 3),
        "shift": normal(4),
        "weight": normal(36, 5),
        "bias": normal(5),
    }
    return parameters, normal(8, 1, 6, 6), generator.integers(0, 5, 8)


def test_a_small_network_learns() -> None:
    parameters, images, labels = training_arrays()
    step = oy.value_and_grad(network)
    losses = []
    for _ in range(20):
        value, gradients = step(parameters, images, labels)
        losses.append(float(value))
        parameters = {name: p - np.float32(0.1) * gradients[name] for name, p in parameters.items()}
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.skipif("opencl:0" not in DEVICES, reason="no OpenCL device here")
def test_gradients_on_opencl() -> None:
    def mlp(parameters: Any, x: Any) -> Any:
        hidden = oy.gelu(x @ parameters["w"] + parameters["b"])
        return oy.mean(oy.square(oy.layer_normalization(hidden) @ parameters["v"]))

    generator = np.random.default_rng(1)
    parameters = {
        name: generator.normal(size=shape).astype(np.float32)
        for name, shape in {"w": (6, 8), "b": (8,), "v": (8, 2)}.items()
    }
    x = generator.normal(size=(5, 6)).astype(np.float32)
    expected = oy.grad(mlp)(parameters, x)
    step = oy.compile(oy.grad(mlp), devices="opencl:0")
    assert {decision.chosen.device.name for decision in step.explain(parameters, x).decisions} == {"opencl:0"}
    for name, found in step(parameters, x).items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif("opencl:0" not in DEVICES, reason="no OpenCL device here")
def test_gradients_of_convolutions_on_opencl() -> None:
    def features(parameters: Any, images: Any) -> Any:
        hidden = oy.relu(oy.conv(images, parameters["filters"], parameters["shift"], padding=1, strides=2))
        return oy.sum(oy.square(oy.max_pool(hidden, kernel=3, strides=2, padding=1)))

    parameters, images, _ = training_arrays()
    arrays = {name: parameters[name] for name in ("filters", "shift")}, images
    step = oy.compile(oy.grad(features, (0, 1)), devices=["opencl:0", "cpu:0"])
    placed = {d.node.op.name: d.chosen.device.name for d in step.explain(*arrays).decisions}
    assert placed["conv_transpose"] == "cpu:0"  # OpenCL has no kernel for it
    mixed = step(*arrays)
    of_parameters, of_images = oy.grad(features, (0, 1))(*arrays)
    np.testing.assert_allclose(mixed[1], of_images, rtol=1e-4, atol=1e-4)
    for name, found in of_parameters.items():
        np.testing.assert_allclose(mixed[0][name], found, rtol=1e-4, atol=1e-4)
    both = oy.compile(oy.grad(network), devices=["opencl:0", "cpu:0"])(*training_arrays())
    for name, found in oy.grad(network)(*training_arrays()).items():
        np.testing.assert_allclose(both[name], found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: oy.grad(3), "grad takes a function over arrays; found 3"),
        (lambda: oy.grad(oy.exp)(X), "takes a function that gives one number, exp gives float64[2, 3]; reduce it with"),
        (lambda: oy.grad(lambda x: (x, x))(X), "gives a tuple; give (value, rest) and write has_aux=True, or use vjp"),
        (lambda: oy.grad(oy.sum, has_aux=True)(X), "with has_aux=True sum gives a pair, what is differentiated and the rest; found float64[]"),
        (lambda: oy.grad(oy.sum)(X.astype(int)), "argument 0 of sum holds int64[2, 3]; gradients are taken with respect to real"),
        (lambda: oy.grad(lambda x, y: oy.sum(x), 1)(X, "a"), "argument 1 of <lambda> holds 'a', which has no gradient; leave it out of argnums"),
        (lambda: oy.grad(lambda p: oy.sum(p["w"]))({"w": X, "b": None}), "argument 0 of <lambda> holds None, which has no gradient"),
        (lambda: oy.grad(oy.sum, 2)(X), "argnums=2 names positional arguments of sum, which was given 1; count from 0"),
        (lambda: oy.grad(oy.sum, "x")(X), "argnums='x' names positional arguments"),
        (lambda: oy.grad(lambda mode: 1.0)("a"), "the gradient of <lambda> was given no array"),
        (lambda: oy.jvp(oy.sin, (X,), ()), "jvp takes a tangent for each of 1 primals, 0 were given"),
        (lambda: oy.custom_gradient(lambda x: x)(X), "gives its result and a function from its cotangent to those of the arguments, as a pair; found a ndarray"),
        (
            lambda: oy.grad(lambda x: oy.custom_gradient(lambda a, b: (oy.sum(a), lambda g: g))(x, x))(X),
            "have the nesting of its arguments, here 2 entries; found float64[]",
        ),
        (
            lambda: oy.grad(lambda x: oy.custom_gradient(lambda p: (oy.sum(p["a"]), lambda g: {"b": g}))({"a": x}))(X),
            "have the nesting of its arguments, here 1 entries; found a dict",
        ),
    ],
)  # fmt: skip
def test_errors(call: Callable[[], Any], text: str) -> None:
    with pytest.raises((GraphError, SpecError)) as error:
        call()
    assert text in str(error.value)

"""``gradients`` in graphs: which values get what, and the errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import opyard as oy
from differences import check, evaluate
from opyard.errors import GraphError

VECTOR = oy.TensorSpec((3,), "float64")


@oy.op("test.swish", scalar="x / (1 + exp(-x))")
def swish(x: Any) -> Any: ...


@oy.op("test.ramp", scalar="(1 if x > low else 0.1) * x * (x < 2) + (0 if not (x < 2) else min(x, 1) // 8)")
def ramp(x: Any, *, low: float = 0.0) -> Any: ...


@oy.op("test.opaque", infer=oy.infer.same_as_first("floating"))
def opaque(x: Any) -> Any:
    """The same numbers, without a gradient."""
    return np.array(x)


def cube_gradient(g: Any, y: Any, x: Any, *, factor: float) -> Any:
    return g * (3.0 * factor) * x * x


@oy.op("test.cube", infer=oy.infer.same_as_first("floating"), grad=cube_gradient)
def cube(x: Any, *, factor: float = 1.0) -> Any:
    """factor * x**3, with a rule of its own."""
    return np.float64(factor) * x**3


def halves_gradient(cotangents: Any, outputs: Any, x: Any, bias: Any) -> Any:
    first, second = cotangents
    whole = first if second is None else second if first is None else first + second
    return lambda: whole * 0.5, None


@oy.op("test.halves", infer=lambda x, bias: (x, x), grad=halves_gradient)
def halves(x: Any, bias: Any = None) -> Any:
    """Twice the half of x."""
    return x / 2, x / 2


def of(function: Callable[..., Any], *arrays: Any) -> list[np.ndarray[Any, Any]]:
    """The gradients of the sum of a function's values."""
    specs = [oy.TensorSpec.of(np.asarray(a)) for a in arrays]
    return evaluate(oy.trace(lambda *v: oy.gradients(function(*v), list(v)), *specs).check(), arrays)


X = np.array([-1.5, 0.5, 3.0])


def test_scalar_expressions_are_differentiated_by_their_parts() -> None:
    assert check(lambda x: swish(x), X)
    assert check(lambda x: ramp(x, low=-1.0), X)
    graph = oy.trace(lambda x: oy.gradients(swish(x), x), VECTOR)
    assert {node.op.name for node in graph.nodes} <= set(oy.ops.STANDARD) | {"test.swish"}


def test_rules_of_custom_ops() -> None:
    assert check(lambda x: cube(x, factor=2.0), X)
    assert check(lambda x: oy.gradients(cube(x) * x, x), X)
    np.testing.assert_array_equal(of(lambda x: halves(x)[1], X)[0], [0.5] * 3)
    np.testing.assert_array_equal(of(lambda x: list(halves(x)), X)[0], [1.0] * 3)


def test_cotangents_are_summed_once_for_each_value() -> None:
    def gradient(x: Any) -> Any:
        y = oy.sin(x)
        return oy.gradients(y * y + y * 2.0 + oy.exp(y), x)

    graph = oy.trace(gradient, VECTOR)
    assert sum(node.op.name == "cos" for node in graph.nodes) == 1
    np.testing.assert_allclose(evaluate(graph, [X])[0], np.cos(X) * (2 * np.sin(X) + 2 + np.exp(np.sin(X))))


def test_broadcasting_is_undone() -> None:
    row, column, number = np.ones(4), np.ones((3, 1)), np.float64(2.0)
    found = of(lambda a, b, c: a * b * c, row, column, number)
    assert [g.tolist() for g in found] == [[6.0] * 4, [[8.0]] * 3, 12.0]


def test_values_that_nothing_depends_on_have_zero_gradient() -> None:
    found = of(lambda x, y, z: [oy.sum(x), oy.floor(y)], X, X, np.ones((2, 2)))
    assert [g.tolist() for g in found] == [[1.0] * 3, [0.0] * 3, [[0.0] * 2] * 2]


def test_intermediate_values_and_nesting() -> None:
    with oy.Graph() as graph:
        x = graph.input("x", VECTOR)
        h = oy.square(x)
        y = oy.sum(h * x)
        found = oy.gradients([y, (x,)], {"x": x, "rest": (h, y)}, [None, (np.array([1.0, 0.0, 2.0]),)])
        both = oy.gradients(y, [h, x])
    with oy.Session(graph) as session:
        run = session.run(found, {"x": X})
        np.testing.assert_array_equal(run["x"], [1.0, 0.0, 2.0])
        assert not np.any(run["rest"][0]) and run["rest"][1] == 0
        np.testing.assert_allclose(session.run(both, {"x": X}), [X, 3 * X * X])


def test_only_what_is_wanted_is_differentiated() -> None:
    with oy.Graph() as graph:
        x, w = graph.input("x", VECTOR), graph.input("w", VECTOR)
        y = opaque(w) * x
        before = len(graph.nodes)
        oy.gradients(y, x)
    assert [node.op.name for node in graph.nodes[before:]] == ["broadcast_to", "multiply"]


def test_gradients_cite_the_line_of_the_op_and_follow_its_device() -> None:
    with oy.Graph() as graph:
        x = graph.input("x", VECTOR)
        with oy.device("cpu:0"):
            y = oy.sin(x)
        line = graph.nodes[-1].source
        before = len(graph.nodes)
        oy.gradients(y, x)
    made = [node for node in graph.nodes[before:] if node.op.name in ("cos", "multiply")]
    assert len(made) == 2
    for node in made:
        assert node.source == line
        assert node.mark.scope is not None and node.mark.scope.device == "cpu:0" and node.mark.scope.soft


def test_expanded_axes_are_summed_when_they_are_bound() -> None:
    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec(("n", 3), "float64"))
        w = graph.input("w", oy.TensorSpec((3,), "float64"))
        graph.output("g", oy.gradients(oy.mean(x * w), w))
    with oy.Session(graph) as session:
        np.testing.assert_allclose(session.run("g", {"x": np.ones((5, 3)), "w": X}), [1 / 3] * 3)


def wrong_count(g: Any, y: Any, x: Any) -> Any:
    return g, g


def wrong_shape(g: Any, y: Any, x: Any) -> Any:
    return oy.concat(g, g)


def wrong_use(g: Any, y: Any, x: Any) -> Any:
    return oy.concat(g, oy.sum(g))


def with_rule(rule: Callable[..., Any]) -> Any:
    @oy.op("test.ruled", infer=oy.infer.same_as_first("floating"), grad=rule)
    def ruled(x: Any) -> Any:
        return x

    return ruled


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda x: opaque(x), "test.opaque (test_reverse.py:"),
        (lambda x: opaque(x), "give it a rule: op(..., grad=...), keep it off the way with stop_gradient"),
        (lambda x: oy.nextafter(x, 0.0), "has no gradient: it steps from one float to the next"),
        (with_rule(wrong_count), "its rule gives 2 cotangents for 1 inputs; give one for each"),
        (with_rule(wrong_shape), "its rule gives float64[6] as the cotangent of 'x', which is float64[3]"),
        (with_rule(wrong_use), "the gradient of test.ruled (test_reverse.py:"),
        (lambda x: oy.argmax(x), "no gradient of 'argmax', int64[]: only real floating numbers have one"),
        (
            lambda x: oy.abs(oy.cast(x, dtype="complex128")),
            "no gradient through abs (test_reverse.py:",
        ),
    ],
)
def test_errors_name_the_op_and_the_line(function: Callable[[Any], Any], text: str) -> None:
    with pytest.raises(GraphError) as error:
        oy.trace(lambda x: oy.gradients(function(x), x), VECTOR)
    assert text in str(error.value)


def test_errors_of_arguments() -> None:
    with oy.Graph() as other:
        stranger = other.input("stranger", VECTOR)
    with oy.Graph() as graph:
        x, labels = graph.input("x", VECTOR), graph.input("labels", VECTOR.with_dtype("int64"))
        z = graph.input("z", VECTOR.with_dtype("complex128"))
        y = oy.sum(x)
        for call, text in (
            (lambda: oy.gradients(y, stranger), "'sum' and 'stranger' belong to different graphs"),
            (lambda: oy.gradients([], []), "ys is empty; name at least one value"),
            (lambda: oy.gradients(y, X), "xs are values of a graph; found ndarray. For functions of arrays use opyard.grad"),
            (lambda: oy.gradients(y, [x, labels]), "no gradient with respect to 'labels', int64[3]: only real floating"),
            (lambda: oy.gradients(y, z), "take real(x) and imag(x) apart"),
            (lambda: oy.gradients(y, x, [1.0, 2.0]), "grad_ys has 2 entries for 1 ys"),
            (lambda: oy.gradients(x, x, 1.0), "the cotangent of 'x', float64[3], has its shape; found float64[]"),
        ):  # fmt: skip
            with pytest.raises(GraphError) as error:
                call()
            assert text in str(error.value)

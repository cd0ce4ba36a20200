"""Graphs: building by hand and by tracing, the checker, the printer, operators and symbolic dimensions."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest

import opyard as oy
from opyard.errors import GraphError, SpecError
from opyard.graph import weak_scalar
from opyard.nest import leaves, map_leaves
from opyard.scope import Mark
from opyard.spec import TensorSpec

VECTOR = TensorSpec((3,))


class Pair(NamedTuple):
    first: Any
    second: Any


def evaluate(graph: oy.Graph, **feeds: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs, computed node by node with the references."""
    known = {graph.inputs[name]: np.asarray(array) for name, array in feeds.items()} | graph.constants
    for node in graph.nodes:
        arrays = (None if value is None else known[value] for value in node.inputs)
        known.update(zip(node.outputs, node.call.reference(*arrays), strict=True))
    return {name: known[value] for name, value in graph.outputs.items()}


def line() -> int:
    """The line of the caller."""
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return frame.f_back.f_lineno


# Building ------------------------------------------------------------------------------------------------------------


def test_by_hand() -> None:
    with oy.Graph() as graph:
        x = graph.input("x", VECTOR)
        scale = graph.constant(np.array([1, 2, 3], np.float32), "scale")
        y = graph.output("y", oy.multiply(x, scale))
    assert (y.shape, y.dtype.name, y.ndim, y.name) == ((3,), "float32", 1, "multiply")
    assert repr(y) == "<Value multiply: float32[3]>"
    assert list(graph.values()) == [x, scale, y]
    assert y.node is graph.nodes[0] and y.node.op is oy.multiply.op
    assert repr(y.node) == "<Node multiply: multiply(float32[3], float32[3]) -> float32[3]>"
    np.testing.assert_array_equal(evaluate(graph, x=np.ones(3, np.float32))["y"], [1, 2, 3])


def test_tracing_is_the_same_as_building_by_hand() -> None:
    weights = np.ones((4, 2), np.float32)

    def layer(x: Any) -> Any:
        return oy.softmax(oy.matmul(x, weights) + 1, axis=-1)

    with oy.Graph() as graph:
        graph.output("output_0", layer(graph.input("x", TensorSpec(("batch", 4)))))
    traced = oy.trace(layer, TensorSpec(("batch", 4)))
    assert str(traced) == str(graph)
    assert traced.check() is traced


def test_text() -> None:
    def function(x: Any, bias: Any) -> Any:
        first, second = oy.split(x + 1, sections=2, axis=0)
        return first * bias, oy.sum(second), x

    graph = oy.trace(function, TensorSpec(("batch", 2)), VECTOR.with_shape((2,)))
    graph_text = str(graph)
    split = graph.nodes[1]
    assert graph_text.splitlines()[:3] == [
        "graph(x: float32[batch, 2], bias: float32[2]):",
        "  constant = constant  # float32[]",
        "  add = add(x, constant)  # float32[batch, 2]",
    ]
    assert f"  {split.outputs[0].name}, {split.outputs[1].name} = split(add, " in graph_text
    assert graph_text.splitlines()[-1] == "  return output_0: multiply, output_1: sum, output_2: x"


def test_text_of_an_optional_input_and_of_an_output_named_like_its_value() -> None:
    graph = oy.trace(lambda x: oy.clip(x, None, 1.0), VECTOR)
    assert "clip(x, none, constant)" in str(graph)
    assert graph.nodes[0].inputs[1] is None
    hand = oy.Graph()
    hand.output("x", hand.input("x", VECTOR))
    assert str(hand) == "graph(x: float32[3]):\n  return x"


def test_names_are_unique() -> None:
    graph = oy.trace(lambda add: oy.add(add, add) + add + np.zeros(3) + np.ones(3), VECTOR)
    names = [value.name for value in graph.values()]
    assert len(set(names)) == len(names)
    assert names[0] == "add"


def test_constants_are_kept_once_for_each_array() -> None:
    array = np.zeros(3, np.float32)
    graph = oy.trace(lambda x: x + array + array + np.zeros(3, np.float32), VECTOR)
    assert len(graph.constants) == 2
    assert any(kept is array for kept in graph.constants.values())


def test_finding_values() -> None:
    graph = oy.Graph()
    x = graph.input("x", VECTOR)
    y = oy.exp(x)
    graph.output("result", y)
    assert graph.value("result") is graph.value("exp") is y and graph.value("x") is x
    with pytest.raises(
        GraphError, match=r"the graph has no value 'resul'. Did you mean result.* Outputs: result"
    ):
        graph.value("resul")
    with pytest.raises(GraphError, match=r"no value 'x'. Outputs: none"):
        oy.Graph().value("x")


def test_wrong_inputs() -> None:
    graph = oy.Graph()
    graph.input("x", VECTOR)
    with pytest.raises(GraphError, match="a graph's input needs a name of its own; 'x' is taken"):
        graph.input("x", VECTOR)
    for name in ("", 3, None):
        with pytest.raises(
            GraphError, match=f"a graph's input needs a name, a string that is not empty; found {name!r}"
        ):
            graph.input(name, VECTOR)  # type: ignore[arg-type]
    with pytest.raises(
        GraphError, match=r"graph.input\('y', ...\) takes a TensorSpec such as .*; found \(3,\)"
    ):
        graph.input("y", (3,))  # type: ignore[arg-type]


def test_wrong_outputs() -> None:
    graph, other = oy.Graph(), oy.Graph()
    x = graph.output("x", graph.input("x", VECTOR))
    with pytest.raises(GraphError, match="the graph has an output 'x' already"):
        graph.output("x", x)
    with pytest.raises(GraphError, match="output 'y' must be a value of this graph; found <Value z: float32"):
        graph.output("y", other.input("z", VECTOR))
    for name in ("", 3):
        with pytest.raises(
            GraphError, match=f"a graph's output needs a name, a string that is not empty; found {name!r}"
        ):
            graph.output(name, x)  # type: ignore[arg-type]
    with pytest.raises(GraphError, match="output 'y' must be a value of this graph; found 3"):
        graph.output("y", 3)  # type: ignore[arg-type]


def test_values_of_two_graphs_do_not_mix() -> None:
    one, two = oy.Graph().input("one", VECTOR), oy.Graph().input("two", VECTOR)
    with pytest.raises(
        GraphError, match="add: the value 'two' belongs to another graph; build both in one graph, or feed"
    ):
        oy.add(one, two)


def test_tracing_inside_tracing_does_not_capture() -> None:
    def outer(x: Any) -> Any:
        return oy.trace(lambda y: x + y, VECTOR)

    with pytest.raises(GraphError, match="belongs to another graph"):
        oy.trace(outer, VECTOR)
    with pytest.raises(GraphError, match="output 'output_0' must be a value of this graph"):
        oy.trace(lambda _: oy.Graph().input("z", VECTOR), VECTOR)


def test_an_attribute_cannot_be_a_value() -> None:
    with pytest.raises(SpecError, match=r"found Value. Arrays are positional inputs"):
        oy.trace(lambda x, axis: oy.sum(x, axis=axis), VECTOR, TensorSpec((), "int64"))


# The checker ---------------------------------------------------------------------------------------------------------


def test_checker_wants_topological_order() -> None:
    graph = oy.trace(lambda x: oy.exp(oy.sin(x)), VECTOR)
    graph.nodes.reverse()
    with pytest.raises(
        GraphError, match=r"node 'exp' \(test_graph.py:\d+\) uses 'sin', which is not made before it"
    ):
        graph.check()


def test_checker_infers_again() -> None:
    graph = oy.Graph()
    x = graph.input("x", VECTOR)
    call = replace(oy.exp.op.call(VECTOR), outputs=(TensorSpec((4,)),))
    graph.append(call, (x,), Mark("somewhere.py:7"))
    with pytest.raises(
        GraphError, match=r"node 'exp' \(somewhere.py:7\) claims \(float32\[4\],\), its op infers"
    ):
        graph.check()


def test_checker_wants_outputs_of_this_graph() -> None:
    with pytest.raises(GraphError, match="output 'y' is not made in this graph"), oy.Graph() as graph:
        graph.outputs["y"] = oy.Graph().input("x", VECTOR)


def test_leaving_by_an_error_shows_that_error() -> None:
    with pytest.raises(ZeroDivisionError), oy.Graph() as graph:
        graph.outputs["y"] = oy.Graph().input("x", VECTOR)
        raise ZeroDivisionError


# Where it was written ------------------------------------------------------------------------------------------------


def test_nodes_know_the_users_line() -> None:
    graph = oy.Graph()
    x = graph.input("x", VECTOR)
    y, written = oy.exp(x), line()
    z, below = -y, line()
    assert y.node.source == f"test_graph.py:{written}"
    assert z.node.source == f"test_graph.py:{below}"


def test_errors_name_the_users_line() -> None:
    graph = oy.Graph()
    x, y = graph.input("x", VECTOR), graph.input("y", TensorSpec((4,)))
    written = line() + 2
    with pytest.raises(SpecError) as caught:
        oy.exp(x) + y
    assert str(caught.value).startswith("add(float32[3], float32[4]): shapes (3,) and (4,) do not broadcast")
    assert str(caught.value).endswith(f"(at test_graph.py:{written})")
    assert len(graph.nodes) == 1


# Operators -----------------------------------------------------------------------------------------------------------

FLOATS = np.array([[-2.5, 1.5], [0.5, 4.0]], np.float32), np.array([[1.5, -0.5], [2.0, 4.0]], np.float32)
INTEGERS = np.array([[6, 3], [5, 1]], np.int32), np.array([[1, 2], [3, 4]], np.int32)


@pytest.mark.parametrize(
    ("function", "arrays"),
    [
        *(
            (f, FLOATS)
            for f in (operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv)
        ),
        *(
            (f, FLOATS)
            for f in (operator.mod, operator.matmul, operator.lt, operator.le, operator.gt, operator.ge)
        ),
        *(
            (f, INTEGERS)
            for f in (operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift)
        ),
        (operator.pow, INTEGERS),
    ],
    ids=lambda f: getattr(f, "__name__", ""),
)
def test_operators(function: Callable[[Any, Any], Any], arrays: tuple[Any, Any]) -> None:
    a, b = arrays
    spec = TensorSpec.of(a)
    expected = function(a, b)
    for graph in (
        oy.trace(function, spec, spec),
        oy.trace(lambda x, y: function(x, b), spec, spec),
        oy.trace(lambda x, y: function(a, y), spec, spec),  # NumPy on the left
    ):
        x, y = graph.inputs
        found = evaluate(graph, **{x: a, y: b})["output_0"]
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("function", [operator.neg, operator.pos, operator.invert, operator.abs])
def test_unary_operators(function: Callable[[Any], Any]) -> None:
    x = np.array([-3, 0, 4], np.int32)
    graph = oy.trace(lambda x: function(x), TensorSpec.of(x))
    np.testing.assert_array_equal(evaluate(graph, x=x)["output_0"], function(x))


def test_numbers_take_the_dtype_of_the_other_side() -> None:
    graph = oy.trace(lambda x: (2 * x + 0.5, 1 - x, x**2), VECTOR.with_dtype("float16"))
    assert {spec.dtype.name for spec in (v.spec for v in graph.outputs.values())} == {"float16"}


@pytest.mark.parametrize(
    ("number", "beside", "dtype"),
    [
        (2, "float32", "float32"),
        (2.5, "float16", "float16"),
        (2.5, "int32", "float64"),
        (True, "int8", "int8"),
        (1j, "float32", "complex64"),
        (2.5, "bfloat16", "bfloat16"),
    ],
)
def test_weak_scalars(number: complex, beside: str, dtype: str) -> None:
    array = weak_scalar(number, [number, TensorSpec((3,), beside)])
    assert array.dtype.name == dtype and array.shape == () and array == number


def test_weak_scalars_alone() -> None:
    assert weak_scalar(2, [2, None]).dtype == np.int64
    assert weak_scalar(2.0, []).dtype == np.float64


def test_values_have_no_truth() -> None:
    graph = oy.Graph()
    x = graph.input("x", VECTOR)
    with pytest.raises(
        GraphError, match="value 'less' has no truth value while the graph is built; choose with where"
    ):
        bool(x < 1)
    with pytest.raises(
        GraphError, match="value 'x' cannot be iterated over while the graph is built; use split"
    ):
        list(x)


# Tracing -------------------------------------------------------------------------------------------------------------


def test_input_names_are_those_of_the_function() -> None:
    class Model:
        def forward(self, image: Any, *more: Any) -> Any:
            return image

    def names(function: Any, count: int) -> list[str]:
        return list(oy.trace(function, *[VECTOR] * count).inputs)

    assert names(lambda x, y: x, 2) == ["x", "y"]
    assert names(lambda *xs: xs, 2) == ["input_0", "input_1"]
    assert names(partial(oy.add, np.ones(3, np.float32)), 1) == ["input_0"]
    assert names(Model().forward, 2) == ["image", "input_1"]
    assert names(oy.add, 2) == ["x1", "x2"]


def test_nested_results() -> None:
    graph = oy.trace(lambda x: {"a": [x, (oy.exp(x),)], "b": Pair(1.5, x)}, VECTOR)
    assert [value.name for value in graph.outputs.values()] == ["x", "exp", "constant", "x"]
    assert list(graph.outputs) == ["output_0", "output_1", "output_2", "output_3"]
    x, exp, constant, _ = graph.outputs.values()
    assert graph.result == {"a": [x, (exp,)], "b": Pair(constant, x)}
    assert isinstance(graph.result["b"], Pair)


def test_nothing_returned() -> None:
    assert oy.trace(lambda x: (), VECTOR).outputs == {}

    def forgot(x: Any) -> Any: ...

    text = "forgot returns None as output 0; return arrays, numbers or values of the graph, in tuples, lists or dicts"
    with pytest.raises(GraphError, match=text):
        oy.trace(forgot, VECTOR)
    with pytest.raises(GraphError, match="returns 'x' as output 1"):
        oy.trace(lambda x: (x, "x"), VECTOR)
    with pytest.raises(GraphError, match="returns generator as output 0"):
        oy.trace(lambda x: (item for item in (x, x)), VECTOR)


def test_arrays_that_no_tensor_can_be() -> None:
    graph = oy.Graph()
    x, array = graph.input("x", VECTOR), np.ones(3, ">f4")
    with pytest.raises(SpecError) as caught:
        x + array
    written = line() - 1
    assert str(caught.value) == (
        "add: input 'x2': tensors hold numbers and booleans in native byte order, not '>f4'; convert it: "
        f"x.astype('float32'). (at test_graph.py:{written})"
    )
    with pytest.raises(SpecError, match=r"concat: input 'arrays': .* not 'object'; convert it"):
        oy.concat(x, x, [None, 1])


def test_map_leaves_keeps_the_nesting() -> None:
    structure = {"a": [1, (2,)], "b": Pair(3, ()), "c": []}
    assert list(leaves(structure)) == [1, 2, 3]
    assert map_leaves(lambda n: n * 10, structure) == {"a": [10, (20,)], "b": Pair(30, ()), "c": []}
    assert type(map_leaves(str, structure)["b"]) is Pair
    assert list(leaves(5)) == [5] and map_leaves(str, 5) == "5"

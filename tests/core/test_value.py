"""Values of a graph: what Python and NumPy do with them is recorded or refused, and nothing is recorded by accident."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.dim import Dim
from opyard.errors import GraphError, RegistryError, SpecError
from opyard.kernels import Kernel
from opyard.operators import Operators
from opyard.placement.matching import find_matches
from opyard.placement.patterns import Pattern
from opyard.testing import NullDevice, add_null_backend

SPEC = oy.TensorSpec((2, 3))
X = np.arange(6, dtype="float32").reshape(2, 3)


@pytest.fixture(autouse=True)
def registry() -> Iterator[oy.Registry]:
    made = oy.standard_registry()
    add_null_backend(made, NullDevice("null:0"), ops=("add", "exp", "matmul", "softmax"))
    with oy.using(registry=made, strict=True):
        yield made


def value() -> oy.Value:
    return oy.Graph().input("x", SPEC)


# Equality ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compare", [operator.eq, operator.ne])
@pytest.mark.parametrize("other", [2, np.float32(2), X[::-1].copy(), np.arange(3, dtype="float32")])
def test_equality_is_an_op(compare: Callable[[Any, Any], Any], other: Any) -> None:
    for function in (lambda x: compare(x, other), lambda x: compare(other, x)):
        found = oy.compile(function)(X)
        assert found.dtype == bool
        np.testing.assert_array_equal(found, compare(X, other))


def test_a_mask_by_equality_chooses() -> None:
    found = oy.compile(lambda x: oy.where(x == 2, 10.0, x))(X)
    np.testing.assert_array_equal(found, np.where(X == 2, 10, X))


def test_an_equality_has_no_truth_and_is_in_no_tuple() -> None:
    with oy.Graph() as graph:
        x, y = graph.input("x", SPEC), graph.input("y", SPEC)
        with pytest.raises(GraphError, match="value 'equal' has no truth value"):
            bool(x == y)
        with pytest.raises(GraphError, match="has no truth value"):
            y in (x,)  # noqa: B015
    assert x in {x} and y not in {x} and {x: 1, y: 2}[y] == 2 and hash(x) != hash(y)


def test_equality_in_a_pattern_is_an_op() -> None:
    kernel = Kernel("", "toy", "fused", prepare=np.add, pattern=lambda x, y: oy.where(x == y, x, y))
    pattern = Pattern(kernel)
    assert [step.op.name for step in pattern.steps] == ["equal", "where"]
    program = oy.trace(lambda x, y: (oy.where(y == x, x, y), oy.where(x != y, x, y)), SPEC, SPEC)
    assert [[node.op.name for node in match.nodes] for match in find_matches(pattern, program)] == [
        ["equal", "where"]
    ]


# Nothing by accident -------------------------------------------------------------------------------------------------


def rich(x: Any, w: Any, mask: Any) -> Any:
    """Composites in composites, several outputs, constants, doubled operands, equal calls, slices and joins."""
    first, second = oy.split(oy.softmax(x @ w), sections=2, axis=1)
    normal = oy.layer_normalization(oy.concat(second, first, axis=1), oy.ones(shape=(4,)))
    both = oy.relu(normal + normal) + oy.relu(normal + normal)
    chosen = oy.where(mask, both[:, ::-1], oy.gelu(both) * 2.0)
    return {"chosen": (chosen, chosen), "sum": oy.sum(chosen[-1] + oy.exp(both[-1])), "mask": mask}


def test_the_core_never_records_an_equality(monkeypatch: pytest.MonkeyPatch, registry: oy.Registry) -> None:
    def accident(self: Any, other: Any) -> Any:
        raise AssertionError(f"{self!r} was compared with {other!r}")

    registry.pattern(
        lambda a, b: oy.relu(a + b), backend="null", name="fused", prepare=lambda *_: None, efficiency=1e-9
    )
    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec(("n", 3)))
        w, mask = (
            graph.input("w", oy.TensorSpec((3, 4))),
            graph.input("mask", oy.TensorSpec(("n", 4), "bool")),
        )
        result = rich(x, w, mask)
        graph.output("y", result["sum"])
    feeds = {x: X, w: np.ones((3, 4), "float32"), "mask": np.array([[True, False] * 2] * 2)}
    monkeypatch.setattr(Operators, "__eq__", accident)
    monkeypatch.setattr(Operators, "__ne__", accident)
    monkeypatch.setattr(Operators, "__hash__", object.__hash__)
    session = oy.Session(graph)
    found = session.run(result, feeds)
    assert found["chosen"][0].shape == (2, 4) and found["mask"].dtype == bool
    assert np.isfinite(session.run("y", feeds))
    assert len(session.callable(result, list(feeds))(*feeds.values())) == 3
    placement = session.explain(result, feeds)
    assert placement.to_json() and str(placement) and oy.make_plan(placement).to_json()
    with oy.using(pin={"add": "null/null"}):
        session.run(result, feeds)
    small = oy.simplify(graph.check())
    whole = oy.decompose(small, keep=lambda call: False)
    assert len(whole.nodes) > len(small.nodes) and str(whole)
    np.testing.assert_array_equal(oy.compile(rich)(*feeds.values())["sum"], found["sum"])


# What Python asks of a value -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [float, int, complex, operator.index, math.sqrt, range])
def test_a_value_is_no_number(ask: Callable[[Any], Any]) -> None:
    with pytest.raises(GraphError, match="value 'x' is no Python number while the graph is built; call ops"):
        ask(value())


def test_a_value_has_no_length_and_cannot_be_written_to() -> None:
    with pytest.raises(GraphError, match=r"value 'x' has no len\(\); write x.shape\[0\]"):
        len(value())
    with pytest.raises(GraphError, match=r"value 'x' cannot be written to; make a new one: where"):
        value()[0] = 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("T", r"call opyard.matrix_transpose\(...\)"),
        ("reshape", r"call opyard.reshape\(...\)"),
        ("sum", r"call opyard.sum\(...\)"),
        ("astype", r"call opyard.cast\(...\)"),
        ("nonsense", "what is computed from it is written as ops"),
        ("_private", "what is computed from it is written as ops"),
    ],
)
def test_attributes_of_arrays_name_the_op(name: str, hint: str) -> None:
    with pytest.raises(AttributeError, match=f"a graph's value has no attribute '{name}'; {hint}"):
        getattr(value(), name)
    assert not hasattr(value(), name)


# What NumPy asks of a value ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (np.exp, r"numpy.exp cannot compute with <Value x: .*>; call opyard.exp\(...\)\."),
        (np.arctan2, r"numpy.arctan2 .* call opyard.atan2\(...\)"),
        (np.absolute, r"call opyard.abs\(...\)"),
        (np.sum, r"numpy.add.reduce .* call opyard.sum\(...\)"),
        (np.frexp, r"numpy.frexp .* call an op of opyard instead \(docs/ops.md lists them\)"),
        (np.array, "has no contents while the graph is built, so NumPy cannot make an array of it"),
        (np.asarray, "has no contents while the graph is built"),
        (np.sort, "has no contents while the graph is built"),
        (lambda x: np.concatenate([x, x]), "has no contents while the graph is built"),
        (lambda x: np.array([x, x]), "has no contents while the graph is built"),
    ],
)
def test_numpy_functions_name_the_op(function: Callable[..., Any], text: str) -> None:
    x = value()
    with pytest.raises(GraphError, match=text):
        function(x, x) if function is np.arctan2 else function(x)
    assert x.graph.nodes == []


def test_an_array_cannot_hold_what_is_not_computed() -> None:
    total = np.zeros((2, 3), "float32")
    with pytest.raises(GraphError, match=r"call opyard.add\(...\) and use its result: an array cannot hold"):
        total += value()


def test_arrays_on_the_left_of_a_pattern_value_are_refused_as_others() -> None:
    kernel = Kernel("", "toy", "fused", prepare=np.add, pattern=lambda x: X + x)
    with pytest.raises(RegistryError, match="add takes ndarray in a pattern, where only parameters"):
        Pattern(kernel)


# Ops that know the graph only by a size ------------------------------------------------------------------------------


def test_ops_with_a_symbolic_size_are_recorded_where_the_graph_is_built() -> None:
    graph = oy.trace(lambda x: x + oy.iota(size=x.shape[0], dtype="float32"), oy.TensorSpec(("n",)))
    assert [node.op.name for node in graph.nodes] == ["iota", "add"]
    with oy.Graph() as built:
        x = built.input("x", oy.TensorSpec(("n", 3)))
        ones = oy.broadcast_to(np.ones((1, 3), "float32"), shape=[x.shape[0] * 2, 3])
        built.output("y", oy.concat(oy.full(shape=(x.shape[0], 3), value=2.0), ones))
    for length in (1, 2):
        found = oy.Session(graph).run("output_0", {"x": np.zeros(length, "float32")})
        np.testing.assert_array_equal(found, np.arange(length))
        joined = oy.Session(built).run("y", {"x": X[:length]})
        np.testing.assert_array_equal(joined, np.repeat([[2.0] * 3, [1.0] * 3], [length, 2 * length], axis=0))


def test_the_innermost_graph_records() -> None:
    with oy.Graph() as outer:
        n = outer.input("x", oy.TensorSpec(("n",))).shape[0]
        inner = oy.trace(lambda x: oy.zeros(shape=x.shape), oy.TensorSpec(("m",)))
        made = oy.zeros(shape=(n,))
    assert made.graph is outer and [node.op.name for node in inner.nodes] == ["zeros"]
    assert isinstance(oy.zeros(shape=(2,)), np.ndarray)


def test_a_symbolic_size_without_a_graph() -> None:
    text = r"^iota\(size=n, dtype='int64'\) has a symbolic size and no value of a graph; call it where the graph is built: inside `with graph:`, or in the function that is traced\.$"
    for build in (lambda: None, lambda: oy.trace(lambda x: x, SPEC)):
        build()
        with pytest.raises(SpecError, match=text):
            oy.iota(size=Dim.symbol("n"))
    with pytest.raises(ZeroDivisionError), oy.Graph():
        raise ZeroDivisionError
    with pytest.raises(SpecError, match=text):
        oy.iota(size=Dim.symbol("n"))


def test_composites_of_a_symbolic_graph_may_make_arrays_of_its_sizes() -> None:
    @oy.op(
        "test.plus_places",
        infer=lambda x: x,
        decompose=lambda x: x + oy.iota(size=x.shape[0], dtype="float32"),
    )
    def plus_places(x: Any) -> Any: ...

    graph = oy.decompose(oy.trace(lambda x: plus_places(x), oy.TensorSpec(("n",))), keep=lambda call: False)
    assert [node.op.name for node in graph.nodes] == ["iota", "add"]

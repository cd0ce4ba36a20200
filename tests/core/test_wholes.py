"""Composite ops become their parts; a Whole says which parts, and can stand for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.infer import same_as_first
from opyard.ops import STANDARD
from opyard.placement.wholes import Whole, expand
from opyard.scope import Mark
from opyard.spec import TensorSpec

SPEC = TensorSpec((2, 3))


def values(graph: oy.Graph, feeds: dict[str, Any]) -> dict[Any, Any]:
    known: dict[Any, Any] = {graph.inputs[name]: array for name, array in feeds.items()} | graph.constants
    for node in graph.nodes:
        inputs = (None if value is None else known[value] for value in node.inputs)
        known.update(zip(node.outputs, node.call.reference(*inputs), strict=True))
    return known


def check(graph: oy.Graph, wholes: list[Whole], feeds: dict[str, Any]) -> None:
    """The graph is well-formed, wholes nest, nothing inside escapes, and each whole computes what its parts do."""
    graph.check()
    known, order = values(graph, feeds), {node: number for number, node in enumerate(graph.nodes)}
    fetched = set(graph.outputs.values())
    for whole in wholes:
        numbers = [order[node] for node in whole.nodes]
        assert numbers == list(range(numbers[0], numbers[-1] + 1)), "adjacent and in order"
        arrays = (None if value is None else known[value] for value in whole.inputs)
        results = whole.call.reference(*arrays)
        made = {value for node in whole.nodes for value in node.outputs}
        assert not made.intersection(v for v in whole.inputs if v is not None)
        for value, result, spec in zip(whole.outputs, results, whole.call.outputs, strict=True):
            assert value.spec == spec
            if value in made:
                np.testing.assert_allclose(known[value], result, rtol=1e-4, atol=1e-5)
            else:
                assert value not in fetched and all(value not in set(node.inputs) for node in graph.nodes)
        inside = set(whole.nodes)
        for value in made.difference(whole.outputs):
            assert value not in fetched
            assert all(node in inside for node in graph.nodes if value in set(node.inputs))


def ones(graph: oy.Graph) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {name: rng.uniform(-1, 1, value.shape).astype(value.dtype) for name, value in graph.inputs.items()}


def expanded(program: Any, *specs: TensorSpec) -> tuple[oy.Graph, list[Whole]]:
    source = oy.trace(program, *specs)
    graph, wholes = expand(source)
    assert all(node.op.decompose is None for node in graph.nodes)
    feeds = ones(source)
    check(graph, wholes, feeds)
    before, after = values(source, feeds), values(graph, feeds)
    assert list(graph.inputs) == list(source.inputs) and list(graph.outputs) == list(source.outputs)
    for name, value in source.outputs.items():
        np.testing.assert_allclose(after[graph.outputs[name]], before[value], rtol=1e-4, atol=1e-5)
    return graph, wholes


def test_a_graph_without_composites_is_copied() -> None:
    graph, wholes = expanded(lambda x: oy.exp(x) + 1, SPEC)
    assert [node.op.name for node in graph.nodes] == ["exp", "add"] and wholes == []


def test_a_composite_becomes_its_parts_with_the_line_of_the_user() -> None:
    source = oy.trace(lambda x: oy.relu(oy.softmax(x, axis=0)), SPEC)
    graph, wholes = expand(source)
    whole = wholes[-1]
    assert whole.call is source.nodes[0].call
    assert whole.nodes == tuple(graph.nodes[:-1]) and graph.nodes[-1].op is oy.relu.op
    assert {node.source for node in whole.nodes} == {source.nodes[0].source} == {whole.node.source}
    assert whole.inputs == (graph.inputs["x"],) and whole.outputs == (graph.nodes[-1].inputs[0],)


def test_composites_within_composites_nest() -> None:
    @oy.op("test.outer", infer=same_as_first("floating"), decompose=lambda x: oy.softmax(oy.softmax(x) * 2.0))
    def outer(x: Any) -> Any: ...

    graph, wholes = expanded(lambda x: outer(outer(x)), SPEC)
    titles = [whole.call.op.name for whole in wholes]
    assert titles.count("test.outer") == 2 and titles.count("softmax") == 4
    assert titles[-1] == "test.outer", "inner ones come first"
    first, second = (whole for whole in wholes if whole.call.op.name == "test.outer")
    assert first.nodes + second.nodes == tuple(graph.nodes)
    for inner in wholes[: titles.index("test.outer")]:
        assert set(inner.nodes) <= set(first.nodes)


def test_equal_composites_stay_apart() -> None:
    graph, wholes = expanded(lambda x: (oy.softmax(x), oy.softmax(x)), SPEC)
    outermost = [whole for whole in wholes if whole.call.op.name == "softmax"]
    assert len(outermost) == 2 and not set(outermost[0].nodes) & set(outermost[1].nodes)
    assert sum(len(whole.nodes) for whole in outermost) == len(graph.nodes)


def test_outputs_that_nothing_needs_are_not_computed() -> None:
    @oy.op(
        "test.parts",
        infer=lambda x: (x, x, x, x),
        decompose=lambda x: (oy.exp(x), oy.sin(oy.log(x)), x, oy.exp(x)),
    )
    def parts(x: Any) -> Any: ...

    graph, (whole,) = expanded(lambda x: parts(x)[0], SPEC)
    assert [node.op.name for node in graph.nodes] == ["exp"]
    assert whole.outputs[0] is graph.outputs["output_0"] and len(set(whole.outputs)) == 4
    graph, (whole,) = expanded(lambda x: parts(x), SPEC)
    assert [node.op.name for node in graph.nodes] == ["exp", "log", "sin"]
    assert graph.outputs["output_2"] is graph.inputs["x"] is not whole.outputs[2]
    assert graph.outputs["output_3"] is graph.outputs["output_0"] is not whole.outputs[3]


def test_a_composite_without_nodes_has_no_whole() -> None:
    @oy.op("test.same", infer=same_as_first("any"), decompose=lambda x: x)
    def same(x: Any) -> Any: ...

    graph, wholes = expanded(lambda x: oy.exp(same(same(x))), SPEC)
    assert [node.op.name for node in graph.nodes] == ["exp"] and wholes == []
    graph, wholes = expanded(lambda x: x + oy.zeros_like(x), SPEC)
    assert len(graph.nodes) <= 2
    unused, wholes = expand(oy.trace(lambda x: (oy.softmax(x), x)[1], SPEC))
    assert unused.nodes == [] and wholes == []


def test_constants_are_folded_within_a_composite() -> None:
    weights = np.full((3, 4), 2.0, np.float32)

    @oy.op("test.by_exp", infer=lambda x, w: x, decompose=lambda x, w: x * oy.sum(oy.exp(w)))
    def by_exp(x: Any, w: Any) -> Any: ...

    graph, (whole,) = expanded(lambda x: by_exp(x, weights), SPEC)
    assert [node.op.name for node in graph.nodes] == ["multiply"]
    assert graph.constants[whole.inputs[1]] is weights  # type: ignore[index]
    graph, wholes = expanded(lambda x, w: by_exp(x, w) + by_exp(x, np.ones(3, np.float32)), SPEC, SPEC)
    assert [len(whole.nodes) for whole in wholes] == [3, 1]


def test_attributes_that_only_look_equal_are_kept_apart() -> None:
    @oy.op(
        "test.scaled",
        infer=lambda x, *, by: x,
        decompose=lambda x, *, by: oy.exp(x) if by is True else x + by,
    )
    def scaled(x: Any, *, by: Any) -> Any:
        return np.exp(x) if by is True else x + by

    graph, _ = expanded(lambda x: scaled(x, by=1.0) + scaled(x, by=True), SPEC)
    assert [node.op.name for node in graph.nodes] == ["add", "exp", "add"]  # fmt: skip


@pytest.mark.parametrize(
    "name", [name for name, function in STANDARD.items() if function.op.decompose and function.op.cases()]
)
def test_every_standard_composite(name: str) -> None:
    op: oy.Op = STANDARD[name].op
    case = next(iter(op.cases()))
    call = op.call(
        *(None if d is None else TensorSpec(d.shape, d.dtype) for d in case.inputs), **case.attributes
    )
    with oy.Graph() as source:
        inputs = [None if s is None else source.input(f"i{n}", s) for n, s in enumerate(call.inputs)]
        for number, value in enumerate(source.append(call, tuple(inputs), Mark("here"))):
            source.output(f"o{number}", value)
    graph, wholes = expand(source)
    graph.check()
    assert all(node.op.decompose is None for node in graph.nodes)
    assert [value.spec for value in graph.outputs.values()] == list(call.outputs)
    if graph.nodes:
        assert wholes[-1].call is call and wholes[-1].nodes == tuple(graph.nodes)


PIECES = (
    lambda a, b: oy.softmax(a, axis=0),
    lambda a, b: oy.layer_normalization(a),
    lambda a, b: oy.mean(a, axis=1, keepdims=True) + b,
    lambda a, b: a * b,
    lambda a, b: oy.clip(a, b, None),
    lambda a, b: oy.concat(*oy.unstack(oy.expand_dims(a, axis=(1,)))[:2], axis=0),
)


@given(
    st.lists(st.tuples(st.sampled_from(PIECES), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=6)
)
@settings(max_examples=25, deadline=None)
def test_random_programs_mean_the_same(program: list[tuple[Any, int, int]]) -> None:
    def build(x: Any, y: Any) -> Any:
        known = [x, y]
        for piece, left, right in program:
            known.append(piece(known[left % len(known)], known[right % len(known)]))
        return known[2:]

    expanded(build, SPEC, SPEC)

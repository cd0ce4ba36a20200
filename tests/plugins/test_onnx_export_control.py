"""Branches and loops as If, Loop and Scan: checked, run by ONNX Runtime, and imported again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard_onnx import UnsupportedModel, export, load

W = np.linspace(-1, 1, 16, dtype="float32").reshape(4, 4)
X = np.linspace(-2, 2, 12, dtype="float32").reshape(3, 4)
CONTROL = ("cond", "scan", "while_loop")


def agree(function: Callable[..., Any], *arrays: Any, types: set[str]) -> Any:
    """The exported model, after ONNX Runtime and the import of it have given what the graph gives."""
    import onnxruntime

    graph = oy.trace(function, *map(oy.TensorSpec.of, arrays))
    feeds = dict(zip(graph.inputs, map(np.asarray, arrays), strict=True))
    expected = oy.Session(graph, devices="reference").run(list(graph.outputs), feeds)
    proto = export(graph)
    onnx.checker.check_model(proto, full_check=True)
    assert types <= {node.op_type for node in proto.graph.node}
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    back = load(proto)
    assert any(node.op.name in CONTROL for node in oy.simplify(back).nodes)
    again = oy.Session(back, devices="reference").run(list(back.outputs), feeds)
    for ours, theirs, returned in zip(expected, session.run(None, feeds), again, strict=True):
        assert ours.shape == theirs.shape == returned.shape and ours.dtype == theirs.dtype == returned.dtype
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(returned, ours, rtol=1e-5, atol=1e-5)
    return proto


@pytest.mark.parametrize("positive", [True, False])
def test_branches(positive: bool):
    def chosen(x: Any, p: Any) -> Any:
        def then(y: Any) -> Any:
            return oy.matmul(y, W), x

        return oy.cond(p, then, lambda y: (oy.gelu(y), oy.silu(x)), oy.multiply(x, 2.0))

    agree(chosen, X, np.array(positive), types={"If"})


@pytest.mark.parametrize("most", [None, 0, 3])
@pytest.mark.parametrize("limit", [0.5, 1e3])
def test_loops_with_a_condition(limit: float, most: int | None):
    def doubled(x: Any) -> Any:
        return oy.while_loop(
            lambda s: oy.less(oy.max(s["x"]), np.float32(limit)),
            lambda s: {
                "x": oy.add(oy.multiply(s["x"], 2.0), oy.mean(x)),
                "n": oy.add(s["n"], 1),
                "w": s["w"],
            },
            {"x": x, "n": 0, "w": oy.negative(x)},
            most_steps=most,
        )

    agree(doubled, X, types={"Loop"})


@pytest.mark.parametrize("reverse", [False, True])
def test_scans(reverse: bool):
    def recurrent(x: Any, h: Any) -> Any:
        def step(carry: Any, item: Any) -> Any:
            after = oy.tanh(oy.add(oy.matmul(carry, W), item))
            return after, (oy.sum(after), item)

        return oy.scan(step, h, x, reverse=reverse)

    proto = agree(recurrent, X, X[0], types={"Scan"})
    assert [list(t.dims) for t in proto.graph.initializer].count(
        [4, 4]
    ) == 1  # the weight lies around the body


@pytest.mark.parametrize("reverse", [False, True])
def test_scans_without_sequences_are_loops(reverse: bool):
    def repeated(x: Any) -> Any:
        return oy.scan(lambda c, _: (oy.multiply(c, 1.5), c), x, length=4, reverse=reverse)

    agree(repeated, X, types={"Loop"})


def test_maps_and_carries_alone():
    agree(lambda x: oy.map(lambda row: oy.softmax(row), x), X, types={"Scan"})
    agree(lambda x: oy.scan(lambda c, row: (oy.add(c, row), None), x[0], x)[0], X, types={"Scan"})


def test_loops_in_branches_in_loops():
    def nested(x: Any) -> Any:
        def step(carry: Any, row: Any) -> Any:
            grown = oy.cond(
                oy.greater(oy.sum(row), np.float32(0)),
                lambda c: oy.while_loop(
                    lambda s: oy.less(oy.max(s), np.float32(9)), lambda s: oy.add(oy.abs(s), oy.abs(row)), c
                ),
                lambda c: oy.subtract(c, row),
                carry,
            )
            return grown, oy.mean(grown)

        return oy.scan(step, x[0], x)

    agree(nested, X, types={"Scan"})


def test_a_batch_that_is_open():
    import onnxruntime

    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec(("n", 4)))
        last, ys = oy.scan(
            lambda c, row: (oy.add(c, row), oy.broadcast_to(oy.sum(c), shape=x.shape)), oy.mean(x, axis=0), x
        )
        graph.output("last", last)
        graph.output("ys", ys)
    session = onnxruntime.InferenceSession(
        export(graph).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for rows in (1, 3):
        expected = oy.Session(graph, devices="reference").run(["last", "ys"], {"x": X[:rows]})
        for ours, theirs in zip(expected, session.run(None, {"x": X[:rows]}), strict=True):
            np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)


UNARY = (oy.tanh, oy.relu, oy.abs, oy.sigmoid, oy.gelu, oy.softmax)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.booleans()), min_size=1, max_size=3))
def test_random_nests_agree(choices: list[tuple[int, int, bool]]):
    """Each choice wraps what follows in a branch, a scan, a loop or nothing."""

    def built(x: Any, rest: list[tuple[int, int, bool]]) -> Any:
        if not rest:
            return oy.add(x, 1.0)
        (kind, which, flag), *others = rest

        def inner(y: Any) -> Any:
            return built(UNARY[which](y), others)

        if kind == 0:
            return oy.cond(oy.greater(oy.sum(x), np.float32(0)), inner, oy.negative, x)
        if kind == 1:
            return oy.scan(
                lambda c, row: (oy.clip(inner(oy.add(c, row)), np.float32(-5), np.float32(5)), None),
                x,
                X,
                reverse=flag,
            )[0]
        if kind == 2:
            state = oy.while_loop(
                lambda s: oy.less(s[0], 3), lambda s: (oy.add(s[0], 1), oy.tanh(inner(s[1]))), (0, x)
            )
            return state[1]
        return inner(x)

    if any(kind != 3 for kind, _, _ in choices):
        agree(lambda x: built(x, choices), X[1], types=set())


def test_an_op_without_a_form_inside_of_a_body():
    graph = oy.trace(
        lambda x: oy.map(lambda row: oy.nextafter(row, 0.0), x), oy.TensorSpec((3, 4), "float32")
    )
    with pytest.raises(UnsupportedModel, match=r"nextafter"):
        export(graph)

"""Symbolic dimensions of graphs, and binding them to numbers."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.dim import Dim
from opyard.errors import GraphError, SpecError
from opyard.rewrite import bind
from opyard.spec import TensorSpec

VECTOR = TensorSpec((3,))


def line() -> int:
    """The line of the caller."""
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return frame.f_back.f_lineno


def flatten(x: Any) -> Any:
    return oy.reshape(x, shape=(x.shape[0] * x.shape[1], 4))


def test_symbolic_sizes_run_through_and_are_bound() -> None:
    graph = oy.trace(flatten, TensorSpec(("batch", "length", 4)))
    assert str(graph.outputs["output_0"].spec) == "float32[batch*length, 4]"
    bound = bind(graph, {"x": TensorSpec((2, 3, 4))})
    assert bound.outputs["output_0"].spec == TensorSpec((6, 4))
    assert bound.nodes[0].call.attrs["shape"] == (6, 4)
    assert bound.check() is bound
    assert bound.nodes[0].source == graph.nodes[0].source


def test_binding_a_concrete_graph_gives_the_graph() -> None:
    graph = oy.trace(oy.exp, VECTOR)
    assert bind(graph, {"x": VECTOR}) is graph


def test_one_name_has_one_size() -> None:
    graph = oy.trace(oy.add, TensorSpec(("n", 1)), TensorSpec(("n",)))
    assert bind(graph, {"x1": TensorSpec((3, 1)), "x2": TensorSpec((3,))}).outputs["output_0"].shape == (3, 3)
    with pytest.raises(
        GraphError, match=r"feed 'x2' is float32\[4\], the graph's input is float32\[n\] with n=3"
    ):
        bind(graph, {"x1": TensorSpec((3, 1)), "x2": TensorSpec((4,))})
    with pytest.raises(SpecError, match="'m' is not bound by any feed; known: n"):
        bind(oy.trace(oy.matmul, TensorSpec((2, "n")), TensorSpec(("m", 3))), {"x1": TensorSpec((2, 3))})


def test_derived_sizes_are_checked() -> None:
    n = Dim.symbol("n")
    graph = oy.trace(oy.concat, TensorSpec((n,)), TensorSpec((n * 2 + 1,)))
    first, second = graph.inputs
    good = bind(graph, {first: TensorSpec((3,)), second: TensorSpec((7,))})
    assert good.outputs["output_0"].shape == (10,)
    with pytest.raises(
        GraphError, match=r"is float32\[6\], the graph's input is float32\[2\*n \+ 1\] with n=3"
    ):
        bind(graph, {first: TensorSpec((3,)), second: TensorSpec((6,))})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            TensorSpec((2,), "float64"),
            r"feed 'x' is float64\[2\], .* is float32\[n\]; convert it: x.astype\('float32'\)",
        ),
        (TensorSpec((2, 1)), r"feed 'x' is float32\[2, 1\], the graph's input is float32\[n\]\."),
    ],
)
def test_feeds_that_do_not_fit(spec: TensorSpec, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        bind(oy.trace(oy.exp, TensorSpec(("n",))), {"x": spec})


def test_a_size_that_turns_out_wrong_names_the_users_line() -> None:
    written = line() + 1
    graph = oy.trace(lambda x: x + np.ones(3, np.float32), TensorSpec(("n",)))
    with pytest.raises(SpecError, match=rf"do not broadcast: .*\(at test_bind.py:{written}\)$"):
        bind(graph, {"x": TensorSpec((4,))})
    assert bind(graph, {"x": TensorSpec((1,))}).outputs["output_0"].shape == (3,)

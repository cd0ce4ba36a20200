"""Device scopes: hard and soft pins of the ops recorded inside."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.errors import SpecError
from opyard.testing import NullDevice, ScriptedCosts, add_null_backend

X = np.ones((2, 3), np.float32)
COSTS = ScriptedCosts({"null/null": 1.0, "other/null": 2.0, "reference/reference": 1e-6})


def registry() -> oy.Registry:
    made = oy.standard_registry()
    add_null_backend(made, NullDevice("null:0"), NullDevice("null:1"), ops=["exp", "add", "softmax"])
    add_null_backend(made, NullDevice("other:0"), ops=["exp"])
    return made


def where(function: Callable[..., Any], **options: Any) -> list[tuple[str, str]]:
    made = registry()
    graph = oy.trace(function, oy.TensorSpec.of(X))
    placement = oy.Session(graph, registry=made, costs=COSTS, **options).explain(graph.result, {"x": X})
    return [(d.match.title, d.chosen.device.name) for d in placement.decisions]


def test_a_pin_holds_at_any_price_and_for_its_ops_alone() -> None:
    def function(x: Any) -> Any:
        with oy.device("null:1"):
            y = oy.exp(x)
        return oy.exp(y)

    assert where(function) == [("exp", "null:1"), ("exp", "reference")]


def test_a_backend_names_all_its_devices_and_the_innermost_scope_counts() -> None:
    def function(x: Any) -> Any:
        with oy.device("other"):
            y = oy.exp(x)
            with oy.device("null"):
                y = oy.exp(y)
            return oy.exp(y)

    assert where(function) == [("exp", "other:0"), ("exp", "null:0"), ("exp", "other:0")]


def test_a_soft_pin_gives_way_where_no_kernel_is() -> None:
    def function(x: Any) -> Any:
        with oy.device("other:0", soft=True):
            return oy.add(oy.exp(x), x)

    assert where(function) == [("exp", "other:0"), ("add", "reference")]
    assert where(lambda x: _soft_nowhere(x)) == [("exp", "reference")]


def _soft_nowhere(x: Any) -> Any:
    with oy.device("cuda:7", soft=True):
        return oy.exp(x)


def test_composites_and_their_parts_are_pinned() -> None:
    def function(x: Any) -> Any:
        with oy.device("null:0"):
            return oy.softmax(x)

    assert where(function) == [("softmax", "null:0")]


def test_equal_ops_in_different_scopes_are_not_merged() -> None:
    def function(x: Any) -> Any:
        with oy.device("null:0"):
            a = oy.exp(x)
        with oy.device("null:1"):
            b = oy.exp(x)
        return a, b

    assert where(function) == [("exp", "null:0"), ("exp", "null:1")]


def test_refusals_name_the_pin() -> None:
    def function(x: Any) -> Any:
        with oy.device("null:1"):
            return oy.exp(x)

    made = registry()
    graph = oy.trace(function, oy.TensorSpec.of(X))
    (decision,) = oy.Session(graph, registry=made, costs=COSTS).explain(graph.result, {"x": X}).decisions
    assert len(decision.alternatives) == 3
    for alternative in decision.alternatives:
        assert str(alternative.refusal).startswith("exp is pinned to null:1 (test_scope.py:")


def test_sessions_run_pinned_graphs() -> None:
    def function(x: Any) -> Any:
        with oy.device("null:1"):
            return oy.exp(x)

    found = oy.compile(function, registry=registry(), costs=COSTS)(X)
    np.testing.assert_allclose(found, np.exp(X), rtol=1e-6)


def test_impossible_pins_are_explained() -> None:
    def missing(x: Any) -> Any:
        with oy.device("cuda:7"):
            return oy.exp(x)

    def unable(x: Any) -> Any:
        with oy.device("other:0"):
            return oy.add(x, x)

    text = r"exp \(test_scope.py:\d+\) is pinned to 'cuda:7', which is not among the devices to place on: .*null:0.*soft=True"
    with pytest.raises(oy.errors.PlacementError, match=text):
        where(missing)
    with pytest.raises(oy.errors.PlacementError, match=r"no kernel can run add.*add is pinned to other:0"):
        where(unable)
    with (
        pytest.raises(oy.errors.GraphError, match=r"takes a device's name, such as 'cpu:0'; found 3"),
        oy.device(3),
    ):  # type: ignore[arg-type]
        pass


def test_a_scope_can_be_opened_again_and_within_itself() -> None:
    null, other = oy.device("null:1"), oy.device("other")

    def function(x: Any) -> Any:
        with null:
            y = oy.exp(x)
            with other, null:
                y = oy.exp(y)
                with other:
                    y = oy.exp(y)
            y = oy.exp(y)
        with null:
            y = oy.exp(y)
        return oy.exp(y)

    places = ["null:1", "null:1", "other:0", "null:1", "null:1", "reference"]
    for _ in range(2):
        assert [device for _, device in where(function)] == places


def test_a_scope_is_left_when_the_block_raises() -> None:
    null = oy.device("null:0")

    def function(x: Any) -> Any:
        with suppress(ZeroDivisionError), null:
            raise ZeroDivisionError
        return oy.exp(x)

    assert where(function) == [("exp", "reference")]


def test_a_scope_decorates_functions() -> None:
    @oy.device("null:1")
    def inner(x: Any, depth: int = 1) -> Any:
        """Inner."""
        return oy.exp(inner(x, depth - 1) if depth else x)

    assert where(lambda x: oy.exp(inner(x))) == [("exp", "null:1"), ("exp", "null:1"), ("exp", "reference")]
    assert inner.__name__ == "inner" and inner.__doc__ == "Inner."


def test_threads_and_tasks_share_a_scope_object_but_not_what_is_open() -> None:
    null = oy.device("null:1")
    met = threading.Barrier(2)

    def inside(x: Any) -> Any:
        met.wait(10)
        with null:
            met.wait(10)
            y = oy.exp(x)
            met.wait(10)
        return y

    def outside(x: Any) -> Any:
        met.wait(10)
        met.wait(10)
        y = oy.exp(x)
        met.wait(10)
        return y

    spec = oy.TensorSpec.of(X)
    with ThreadPoolExecutor(2) as pool:
        graphs = list(pool.map(lambda function: oy.trace(function, spec), (inside, outside)))
    assert [graph.nodes[0].mark.scope for graph in graphs] == [null, None]

    async def task(turns: int) -> list[Any]:
        found = []
        for _ in range(turns):
            with null:
                await asyncio.sleep(0)
                found.append(oy.trace(oy.exp, spec).nodes[0].mark.scope)
            await asyncio.sleep(0)
            found.append(oy.trace(oy.exp, spec).nodes[0].mark.scope)
        return found

    async def both() -> list[list[Any]]:
        return list(await asyncio.gather(task(2), task(3)))

    assert asyncio.run(both()) == [[null, None] * 2, [null, None] * 3]


def test_eager_calls_do_not_mind() -> None:
    with oy.device("null:1"):
        np.testing.assert_allclose(oy.exp(X), np.exp(X), rtol=1e-6)


def test_a_source_stands_in_the_place_of_the_line() -> None:
    spec = oy.TensorSpec((2,), "float32")
    with oy.Graph() as graph:
        x = graph.input("x", spec)
        with oy.source("net.onnx: Exp a"):
            oy.exp(x)
            with oy.source("net.onnx: Abs b"):
                oy.abs(x)
            with pytest.raises(SpecError, match=r"\(at net.onnx: Exp a\)"):
                oy.reshape(x, shape=(3,))
        oy.negative(x)
    assert [node.source for node in graph.nodes][:2] == ["net.onnx: Exp a", "net.onnx: Abs b"]
    assert graph.nodes[2].source.startswith("test_scope.py:")

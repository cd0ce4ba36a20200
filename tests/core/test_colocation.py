"""Colocation: ops that run where a value is made, wherever that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.errors import GraphError, PlacementError
from opyard.testing import NullDevice, ScriptedCosts, add_null_backend

X = np.ones((2, 3), np.float32)
COSTS = ScriptedCosts(
    {
        "exp null/null": 1e-6,
        "exp reference/reference": 1.0,
        "abs reference/reference": 1e-3,
        "null/null": 2e-3,
    },
    {("reference", "null:0"): 0.0, ("null:0", "reference"): 0.0},
)


def placed(function: Callable[..., Any], **options: Any) -> oy.Placement:
    registry = oy.standard_registry()
    add_null_backend(registry, NullDevice("null:0"), ops=["exp", "abs", "softmax"])
    graph = oy.trace(function, oy.TensorSpec.of(X))
    return oy.Session(graph, registry=registry, costs=COSTS, **options).explain(graph.result, {"x": X})


def where(function: Callable[..., Any]) -> list[str]:
    return [f"{d.match.title} {d.chosen.device.name}" for d in placed(function).decisions]


def alone(x: Any) -> Any:
    return oy.abs(oy.exp(x))


def together(x: Any) -> Any:
    y = oy.exp(x)
    with oy.colocate_with(y):
        return oy.abs(y)


def test_what_is_colocated_runs_on_one_device() -> None:
    assert where(alone) == ["exp null:0", "abs reference"]
    assert where(together) == ["exp null:0", "abs null:0"]


def test_all_of_a_group_are_weighed_together() -> None:
    def function(x: Any) -> Any:
        y = oy.abs(x)
        with oy.colocate_with(y):
            return oy.sin(y)  # the reference alone has it

    assert where(function) == ["abs reference", "sin reference"]


def test_a_group_grows_and_the_innermost_counts() -> None:
    def function(x: Any) -> Any:
        first, other = oy.exp(x), oy.sin(x)
        with oy.colocate_with(first):
            second = oy.abs(first)
            with oy.colocate_with(other):
                inner = oy.abs(second)
        with oy.colocate_with(second):
            return oy.abs(inner)

    rows = [
        row for row in where(function) if not row.startswith("sin")
    ]  # which is free to come sooner or later
    assert rows == ["exp null:0", "abs null:0", "abs reference", "abs null:0"]


def test_composites_are_colocated_with_all_their_parts() -> None:
    def function(x: Any) -> Any:
        y = oy.sin(x)
        with oy.colocate_with(y):
            return oy.softmax(y)

    assert {row.split()[-1] for row in where(function)} == {"reference"}


def test_equal_ops_of_different_groups_are_not_merged() -> None:
    def function(x: Any) -> Any:
        a, b = oy.exp(x), oy.sin(x)
        with oy.colocate_with(a):
            left = oy.abs(x)
        with oy.colocate_with(b):
            right = oy.abs(x)
        return a, b, left, right

    assert sorted(row for row in where(function) if row.startswith("abs")) == ["abs null:0", "abs reference"]


def test_the_explanation_says_what_colocation_costs() -> None:
    found = placed(together)
    assert [binding.constraint for binding in found.bindings] == ["colocation"]
    assert found.bindings[0].seconds == pytest.approx(found.seconds - placed(alone).seconds)
    assert "\nthe colocation cost 1 ms\n" in str(found)
    assert found.to_json()["bindings"] == [{"constraint": "colocation", "seconds": pytest.approx(1e-3)}]


def test_what_cannot_be_together_is_explained() -> None:
    def function(x: Any) -> Any:
        y = oy.sin(x)
        with oy.colocate_with(y), oy.device("null:0"):
            return oy.abs(y)

    text = (
        r"abs \(test_colocation.py:\d+\) is colocated with sin \(test_colocation.py:\d+\), but no device runs both: "
        r"sin can run on reference, abs on null:0. Loosen the pins or the colocation, or add a device."
    )
    with pytest.raises(PlacementError, match=text):
        placed(function)


@pytest.mark.parametrize(
    ("value", "found"),
    [("x", "'x' is an input or a constant"), (3, "found 3"), (X, "found array")],
)
def test_only_what_an_op_makes_can_be_named(value: Any, found: str) -> None:
    graph = oy.Graph()
    given = graph.input("x", oy.TensorSpec.of(X)) if isinstance(value, str) else value
    with (
        pytest.raises(GraphError, match=f"colocate_with takes a value that an op of a graph makes; {found}"),
        oy.colocate_with(given),
    ):
        pass

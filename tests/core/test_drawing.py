"""Drawings of placements: every step, device and arrow is there, and the text is well formed."""

from __future__ import annotations

import re

import numpy as np
import pytest

import opyard as oy
from opyard.placement import drawing
from opyard.testing import ScriptedCosts, add_null_backend

X = np.ones((2, 3), np.float32)


@pytest.fixture
def placement() -> oy.Placement:
    registry = oy.standard_registry()
    add_null_backend(registry, ops=["exp"])
    graph = oy.trace(lambda x: (oy.negative(oy.exp(x)), x), oy.TensorSpec.of(X))
    costs = ScriptedCosts({"null/null": 1e-6, "exp reference/reference": 1.0, "reference/reference": 2e-6})
    return oy.place(graph, registry.devices(), registry, costs, home=registry.device("reference"))


def test_mermaid(placement: oy.Placement) -> None:
    text = drawing.mermaid(placement)
    assert text.splitlines()[0] == "flowchart TD"
    assert 'n0["exp<br/>null/null on null:0<br/>1 us"]' in text
    assert 'in0(["x: float32[2, 3]"])' in text
    assert {"    in0 -.-> n0", "    n0 -.-> n1", "    n1 --> out0", "    in0 --> out1"} <= set(
        text.splitlines()
    )
    colours = dict(re.findall(r"classDef (\w+) fill:(#\w+)", text))
    assert set(colours) == {"null_0", "reference"}
    assert len(set(colours.values())) == 2


def test_dot(placement: oy.Placement) -> None:
    text = drawing.dot(placement)
    assert text.startswith("digraph placement {")
    assert text.rstrip().endswith("}")
    assert r'n0 [label="exp\nnull/null on null:0\n1 us", fillcolor="#8ecae6"];' in text
    assert {"    in0 -> n0 [style=dashed];", "    n1 -> out0;", "    in0 -> out1;"} <= set(text.splitlines())
    assert text.count("{") == text.count("}") == 1

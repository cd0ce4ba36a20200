"""Kernels of patterns and regions that are given the constants among their inputs when they are prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opyard as oy
from hosts import add_host
from opyard.errors import RegistryError
from opyard.placement import CostStore, MeasuredCosts

WEIGHTS = np.arange(32, dtype=np.float32).reshape(4, 8)


def registry(seen: list[Any], **facts: Any) -> oy.Registry:
    """One device whose only kernel is a region compiler that notes the constants that it is given."""

    def prepare(region: Any, device: oy.Device, constants: tuple[Any, ...]) -> Any:
        seen.append(constants)

        def run(*arrays: Any) -> Any:
            for array, constant in zip(arrays, constants, strict=True):
                assert constant is None or array is constant
            return region.reference(*arrays)[0]

        return run

    made = oy.standard_registry()
    add_host(made, "mine")
    made.region_compiler(
        backend="mine",
        name="whole",
        claims=lambda call, device: None,
        prepare=prepare,
        constants=True,
        **facts,
    )
    return made


def product() -> oy.Graph:
    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec((2, 4), "float32"))
        graph.output("y", oy.relu(oy.matmul(x, graph.constant(WEIGHTS))))
    return graph


def test_a_plan_gives_constants_and_nothing_that_changes() -> None:
    seen: list[Any] = []
    with oy.Session(product(), devices="mine:0", registry=registry(seen)) as session:
        x = np.ones((2, 4), np.float32)
        np.testing.assert_array_equal(session.run("y", {"x": x}), x @ WEIGHTS)
        np.testing.assert_array_equal(session.run("y", {"x": 2 * x}), 2 * x @ WEIGHTS)
    ((first, second),) = seen
    assert first is None
    np.testing.assert_array_equal(second, WEIGHTS)


def test_tuning_measures_with_constants(tmp_path: Path) -> None:
    seen: list[Any] = []
    made = registry(seen)
    add_host(made, "other")
    made.kernel("matmul", backend="other", name="slow", load=np.matmul)
    made.kernel("relu", backend="other", name="slow", load=lambda x: np.maximum(x, 0))
    costs = MeasuredCosts(CostStore(tmp_path / "costs.sqlite"))
    session = oy.Session(product(), devices=["mine:0", "other:0"], registry=made, costs=costs)
    report = session.tune("y", {"x": oy.TensorSpec((2, 4), "float32")}, budget_seconds=1.0, calibrate=False)
    assert any(row.kernel == "mine/whole" for row in report.measured)
    whole = [constants for constants in seen if len(constants) == 2]
    assert whole
    for constants in whole:
        assert constants[0] is None
        np.testing.assert_array_equal(constants[1], WEIGHTS)


def test_by_itself_a_kernel_knows_no_constants() -> None:
    seen: list[Any] = []
    made = registry(seen)
    (kernel,) = made.region_compilers
    placement = oy.Session(product(), devices="mine:0", registry=made).placement(
        "y", {"x": oy.TensorSpec((2, 4), "float32")}
    )
    kernel.bind(placement.decisions[0].match.work, made.device("mine:0"))
    assert seen == [(None, None)]


def test_the_fact_is_true_or_false() -> None:
    with pytest.raises(RegistryError, match="constants is True or False; found 1"):
        oy.standard_registry().region_compiler(
            backend="mine", name="k", claims=lambda c, d: None, prepare=lambda r, d: None, constants=1
        )

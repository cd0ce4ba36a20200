"""What lives elsewhere than feeds and fetches, together with limits, schedules, tuning, failures and loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.placement import Resident
from opyard.testing import NullArray, ScriptedCosts, prepare_null
from rigs import rig_registry

F32 = np.float32
DEVICES = ("vector:0", "null:0")


def counting_step(
    wrap: Callable[[Any], Any] = lambda prepare: prepare, **options: Any
) -> tuple[oy.Session, oy.Variable, Any]:
    """A session that adds a fed array to a variable that is best on null:0, where ``abs`` is as good."""
    registry = rig_registry(null_devices=1, inplace=True)
    registry.kernel("abs", backend="null", name="first", prepare=wrap(prepare_null))
    costs = ScriptedCosts({"null/out": 1e-7, "null/first": 1e-9, "vector/out": 1e-3, "null/null": 1e-2})
    w = oy.Variable(np.zeros((2, 3), F32), name="w")
    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec((2, 3)))
        w.assign_add(oy.abs(x) * x)
        graph.output("size", oy.negative(w))
    session = oy.Session(graph, devices=DEVICES, registry=registry, costs=costs, **options)
    return session, w, registry.device("null:0")


X = np.full((2, 3), 2, F32)


def test_a_memory_limit_counts_variables_where_they_live() -> None:
    session, w, _ = counting_step(memory={"null:0": 2000})
    for number in range(1, 4):
        assert session.run("size", {"x": X}, updates=True).tolist() == [[-4 * number] * 3] * 2
    assert isinstance(w._array, NullArray)
    (use,) = [use for use in session.explain("size", {"x": X}, updates=True).memory if use.device == "null:0"]
    assert 2 * 24 <= use.peak_bytes <= 2000


def test_a_variable_counts_against_the_limit_of_its_device() -> None:
    registry = rig_registry(null_devices=1)
    null = registry.device("null:0")
    graph = oy.trace(lambda w: oy.negative(w), oy.TensorSpec((2, 3)))
    where = (graph, [registry.device(name) for name in DEVICES], registry, ScriptedCosts())
    resident = Resident("w", "w", "", null)
    limits = {"null:0": 23}
    assert oy.place(*where, memory=limits)
    with pytest.raises(oy.errors.PlacementError, match="null:0"):
        oy.place(*where, residents=[resident], memory=limits)


def test_the_earliest_end_begins_where_variables_live() -> None:
    session, w, _ = counting_step(objective="makespan")
    for number in range(1, 4):
        assert session.run("size", {"x": X}, updates=True).tolist() == [[-4 * number] * 3] * 2
    placement = session.explain("size", {"x": X}, updates=True)
    assert placement.makespan_bound <= placement.makespan
    assert placement.schedule is not None
    assert w.where(session.registry).name == "null:0"


def test_a_kernel_that_fails_leaves_variables_at_home() -> None:
    calls: list[int] = []

    def wrap(prepare: Any) -> Any:
        def failing(call: Any, device: Any) -> Any:
            run = prepare(call, device)

            def other(*arrays: Any) -> Any:
                calls.append(1)
                if len(calls) == 3:
                    raise RuntimeError("the third time")
                return run(*arrays)

            return other

        return failing

    session, w, null = counting_step(wrap)
    call = session.callable("size", ["x"], updates=True)
    call(X)
    call(X)
    with pytest.warns(oy.KernelWarning, match="null/first of abs raised RuntimeError: the third time"):
        assert call(X).tolist() == [[-12] * 3] * 2
    assert null.download(w._array).tolist() == [[12] * 3] * 2
    for number in range(4, 7):
        assert call(X).tolist() == [[-4 * number] * 3] * 2


def test_tuning_a_training_step_changes_no_variable() -> None:
    w = oy.Variable(np.ones(8, F32), name="w")
    step = oy.compile(lambda x: w.assign_add(oy.abs(x)), devices=["cpu:0", "opencl:0"])
    before = w.numpy()
    step.tune(np.ones(8, F32), budget_seconds=0.2)
    assert w.numpy().tolist() == before.tolist()
    assert step(np.ones(8, F32)).tolist() == [2] * 8


def test_loops_read_variables_where_they_live() -> None:
    w = oy.Variable(np.full(3, 2, F32), device="opencl:0")

    @oy.compile(devices="opencl:0")
    def power(x):
        found = oy.scan(lambda c, _: (c * w, None), x, length=4)[0]
        w.assign_add(oy.zeros_like(w))
        return found

    for _ in range(3):
        assert power(np.ones(3, F32)).tolist() == [16, 16, 16]
    assert w.device == "opencl:0"

"""Measured costs: a row where there is one, else the roofline; and kernels that are wrong on this machine are refused."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import opyard as oy
from environments import run_python
from hosts import add_host, constant
from opyard.kernels import Kernel
from opyard.placement import CostStore, MeasuredCosts, default_costs, measured
from opyard.placement.identity import describe_kernel, describe_work
from opyard.placement.measured import transfer_key
from opyard.placement.store import Measurement
from opyard.region import Region
from opyard.testing import NullDevice, add_null_backend, prepare_null

SPEC = oy.TensorSpec((4,), "float32")
CALL = oy.add.op.call(SPEC, SPEC)


@pytest.fixture
def costs(tmp_path: Path) -> MeasuredCosts:
    return MeasuredCosts(CostStore(tmp_path / "costs.sqlite"))


def null_registry() -> tuple[oy.Registry, NullDevice]:
    registry = oy.standard_registry()
    (device,) = add_null_backend(registry, ops=["add", "exp"])
    return registry, device


def record(costs: MeasuredCosts, kernel: Kernel, device: oy.Device, measured: Measurement) -> None:
    costs.store.put(describe_work(CALL), describe_kernel(kernel), device, measured)


def test_a_row_is_preferred_to_the_prior(costs: MeasuredCosts) -> None:
    registry, device = null_registry()
    (kernel,) = registry.kernels("add")
    assert costs.kernel_seconds(kernel, CALL, device) == oy.Roofline().kernel_seconds(kernel, CALL, device)
    record(costs, kernel, device, Measurement(0.25))
    assert costs.kernel_seconds(kernel, CALL, device) == oy.Estimate(0.25, "measured")
    other = oy.exp.op.call(SPEC)
    (exp,) = registry.kernels("exp")
    assert costs.kernel_seconds(exp, other, device).source == "roofline"


def test_the_prior_uses_calibrated_capabilities(costs: MeasuredCosts) -> None:
    registry, device = null_registry()
    (kernel,) = registry.kernels("add")
    before = costs.kernel_seconds(kernel, CALL, device)
    costs.store.put_capabilities(
        device, replace(device.capabilities, launch_seconds=3.0, transfer_seconds=5.0)
    )
    assert costs.kernel_seconds(kernel, CALL, device).seconds == pytest.approx(before.seconds + 3.0, abs=1e-4)
    assert costs.transfer_seconds(registry.device("reference"), device, 0) == 5.0


def test_a_kernels_own_estimate_is_the_prior_where_it_has_one(costs: MeasuredCosts) -> None:
    registry = oy.standard_registry()
    (device,) = add_null_backend(registry, ops=["add"], cost=lambda call, device: 7.0)
    (kernel,) = registry.kernels("add")
    assert costs.kernel_seconds(kernel, CALL, device) == (7.0, "kernel", "")


def test_transfers_go_by_a_line_through_two_measurements(costs: MeasuredCosts) -> None:
    registry, device = null_registry()
    home = registry.device("reference")
    prior = oy.Roofline().transfer_seconds(home, device, 1 << 20)
    for size, seconds in ((1 << 12, 1.0), (1 << 24, 3.0)):
        assert costs.transfer_seconds(home, device, 1 << 20) == prior
        costs.store.put(*transfer_key(device, size), home, Measurement(seconds))
    assert costs.transfer_seconds(home, device, 0) == 1.0
    assert costs.transfer_seconds(home, device, 1 << 24) == 3.0
    assert costs.transfer_seconds(home, device, 1 << 25) == pytest.approx(5.0, abs=1e-2)
    assert costs.transfer_seconds(device, home, 1 << 20) == prior  # each direction for itself
    assert costs.transfer_seconds(home, home, 1 << 24) == 0.0


def test_a_region_has_a_row_of_its_own(costs: MeasuredCosts) -> None:
    kernel = Kernel("", "null", "fused", prepare=prepare_null, pattern=lambda a, b: oy.exp(oy.add(a, b)))
    device = NullDevice("null:0")
    one, other = (
        Region(oy.trace(f, SPEC, SPEC)) for f in (lambda a, b: oy.exp(a + b), lambda a, b: oy.sin(a + b))
    )
    costs.store.put(describe_work(one), describe_kernel(kernel), device, Measurement(0.5))
    assert costs.kernel_seconds(kernel, one, device) == oy.Estimate(0.5, "measured")
    assert costs.kernel_seconds(kernel, other, device).source == "roofline"


# Wrong kernels ---------------------------------------------------------------------------------------------------

SENTENCE = "wrong on this machine: all are zeros; after a repair raise the kernel's version, or forget it: opyard costs --clear"


def test_a_wrong_kernel_is_refused_with_the_reason(costs: MeasuredCosts) -> None:
    registry, device = null_registry()
    (kernel,) = registry.kernels("add")
    record(costs, kernel, device, Measurement(0.0, verdict="wrong", reason="all are zeros"))
    assert costs.kernel_seconds(kernel, CALL, device) == (float("inf"), "measured", SENTENCE)
    rows = oy.candidates(CALL, registry.devices(), registry, costs=costs)
    assert [(row.kernel.id, row.refusal) for row in rows] == [
        ("reference/reference", None),
        ("null/null", SENTENCE),
    ]
    placement = oy.place(oy.trace(oy.add, SPEC, SPEC), registry.devices(), registry, costs)
    assert placement.decisions[0].chosen.kernel.id == "reference/reference"
    assert [row.refusal for row in placement.decisions[0].alternatives] == [SENTENCE]


def test_a_session_never_runs_a_wrong_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, costs: MeasuredCosts
) -> None:
    monkeypatch.setenv("OPYARD_CACHE_DIR", str(tmp_path))
    registry = oy.standard_registry()
    device = add_host(registry, "toy", oy.Capabilities(flops=1e15, bandwidth=1e15, launch_seconds=0.0))
    registry.kernel("add", backend="toy", name="zeros", load=lambda a, b: np.zeros_like(a))
    x = np.ones(4, "float32")
    first = oy.compile(lambda a, b: oy.add(a, b), registry=registry)
    assert first(x, x).tolist() == [0.0] * 4
    (kernel,) = registry.kernels("add")
    record(costs, kernel, device, Measurement(0.0, verdict="wrong", reason="all are zeros"))
    second = oy.compile(lambda a, b: oy.add(a, b), registry=registry)
    assert second(x, x).tolist() == [2.0] * 4


# The default -----------------------------------------------------------------------------------------------------


def test_sessions_use_the_store_of_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPYARD_CACHE_DIR", str(tmp_path))
    assert default_costs() is default_costs()
    assert default_costs().store.path == tmp_path / "costs.sqlite"
    graph = oy.trace(oy.exp, SPEC)
    assert oy.Session(graph, registry=oy.standard_registry()).costs is default_costs()
    given = oy.Roofline()
    assert oy.Session(graph, registry=oy.standard_registry(), costs=given).costs is given
    assert not (tmp_path / "costs.sqlite").exists()
    monkeypatch.setenv("OPYARD_CACHE_DIR", str(tmp_path / "other"))
    assert default_costs().store.path == tmp_path / "other" / "costs.sqlite"


def test_sqlite_is_not_imported_without_a_file(tmp_path: Path) -> None:
    done = run_python(
        "import sys, numpy as np, opyard as oy\n"
        "x = np.ones(4)\n"
        "oy.compile(lambda a: oy.exp(a), registry=oy.standard_registry())(x)\n"
        "assert 'sqlite3' not in sys.modules",
        OPYARD_CACHE_DIR=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr


# Eager calls ---------------------------------------------------------------------------------------------------------

ARRAY = np.ones(4, np.float32)


@pytest.fixture
def default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MeasuredCosts:
    """The costs that sessions and eager calls use by default, empty."""
    monkeypatch.setenv("OPYARD_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(measured, "_default", {})
    return default_costs()


def rivals(**efficiencies: float) -> tuple[oy.Registry, oy.Device, dict[str, Kernel]]:
    """A host backend with kernels for add that give their number, in this order."""
    registry = oy.standard_registry()
    device = add_host(registry)
    for number, (name, efficiency) in enumerate(efficiencies.items()):
        registry.kernel("add", backend="toy", name=name, load=constant(number), efficiency=efficiency)
    return registry, device, {kernel.name: kernel for kernel in registry.kernels("add")}


def test_eager_calls_go_by_what_was_measured(default: MeasuredCosts) -> None:
    registry, device, kernels = rivals(believed=0.9, measured=0.1)
    with oy.using(registry=registry):
        assert oy.add(ARRAY, ARRAY).max() == 0
        record(default, kernels["believed"], device, Measurement(1.0))
        record(default, kernels["measured"], device, Measurement(1e-9))
        registry.changed()  # as tuning does
        assert oy.add(ARRAY, ARRAY).max() == 1
        assert oy.add.resolve(ARRAY, ARRAY)(ARRAY, ARRAY).max() == 1
        best = oy.add.explain(ARRAY, ARRAY)[0]
        assert (best.kernel.name, best.estimate and best.estimate.source) == ("measured", "measured")
        assert oy.add(ARRAY[:2], ARRAY[:2]).max() == 0, "of other sizes nothing is known"


def test_tuning_changes_what_eager_calls_use(default: MeasuredCosts) -> None:
    registry = oy.standard_registry()
    add_host(registry)
    used: list[str] = []

    def kernel(name: str, seconds: float) -> None:
        def add(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            used.append(name)
            time.sleep(seconds)
            return np.add(x, y)

        registry.kernel("add", backend="toy", name=name, load=add, efficiency=0.9 if seconds else 0.5)

    kernel("slow", 0.002)
    kernel("fast", 0.0)
    graph = oy.trace(oy.add, SPEC, SPEC)
    with oy.using(registry=registry):
        oy.add(ARRAY, ARRAY)
        assert used[-1] == "slow"
        session = oy.Session(graph, registry=registry)
        feeds = dict.fromkeys(graph.inputs, SPEC)
        session.tune(graph.result, feeds, calibrate=False, budget_seconds=20.0)
        oy.add(ARRAY, ARRAY)
        assert used[-1] == "fast"


@pytest.mark.parametrize("alone", [True, False])
def test_eager_calls_leave_out_kernels_that_are_wrong_here(default: MeasuredCosts, alone: bool) -> None:
    registry, device, kernels = rivals(bad=0.9) if alone else rivals(bad=0.9, good=0.5)
    record(default, kernels["bad"], device, Measurement(1e-9, verdict="wrong", reason="off by 3"))
    with oy.using(registry=registry):
        assert oy.add(ARRAY, ARRAY).max() == (2 if alone else 1)
        assert "wrong on this machine: off by 3" in str(oy.add.explain(ARRAY, ARRAY)[-1].refusal)
        assert oy.add(ARRAY[:2], ARRAY[:2]).max() == 0, "it is wrong for that size alone"


def test_a_kernel_of_the_same_name_for_another_op_is_not_doubted(default: MeasuredCosts) -> None:
    registry, device, kernels = rivals(k=1.0)
    registry.kernel("multiply", backend="toy", name="k", load="numpy:multiply")
    assert not default.doubts(kernels["k"])
    record(default, kernels["k"], device, Measurement(1e-9, verdict="wrong", reason="off by 3"))
    assert default.doubts(kernels["k"]) and not default.doubts(registry.kernels("multiply")[0])


def test_eager_calls_open_no_file_that_is_not_there(tmp_path: Path) -> None:
    code = """
import sys, numpy, opyard
with opyard.using(registry=opyard.standard_registry()):
    opyard.add(numpy.ones(3), numpy.ones(3))
assert "sqlite3" not in sys.modules
"""
    done = run_python(code, OPYARD_CACHE_DIR=str(tmp_path / "none"))
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "none" / "costs.sqlite").exists()

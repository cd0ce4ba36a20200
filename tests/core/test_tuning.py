"""Tuning: finds the fastest kernels although the estimates lie, measures little, and keeps wrong kernels out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opyard as oy
from hosts import add_host
from opyard.errors import KernelError, PlacementError
from opyard.kernels import Kernel
from opyard.placement import CostStore, MeasuredCosts, calibration, tuning
from opyard.placement.measuring import convert, disagreement, expect, make_start
from opyard.placement.store import Measurement
from opyard.region import Region
from opyard.testing import NullDevice, add_null_backend, prepare_null

SPEC = oy.TensorSpec((4,), "float32")
FAST, SLOW = 2e-4, 4e-3
"""Seconds that scripted kernels sleep: far enough apart for any machine."""


def sleeper(seconds: float, log: list[str] | None = None, name: str = "") -> Callable[..., Any]:
    """Prepares a kernel that takes this long."""

    def prepare(call: Any, device: oy.Device) -> Any:
        run = prepare_null(call, device) if isinstance(call, oy.Call) else None

        def wait(*arrays: Any) -> Any:
            time.sleep(seconds)
            if log is not None:
                log.append(name)
            return run(*arrays) if run else arrays[0]

        return wait

    return prepare


def zeros(call: oy.Call, device: oy.Device) -> Any:
    """Prepares a kernel that is fast and wrong."""
    return lambda *arrays: device.upload(np.zeros(call.output.shape, call.output.dtype))


@pytest.fixture
def costs(tmp_path: Path) -> MeasuredCosts:
    return MeasuredCosts(CostStore(tmp_path / "costs.sqlite"))


def null_registry(*devices: NullDevice) -> oy.Registry:
    registry = oy.standard_registry()
    add_null_backend(registry, *devices)
    return registry


def session(function: Any, registry: oy.Registry, costs: oy.Costs, inputs: int = 1) -> oy.Session:
    graph = oy.trace(function, *[SPEC] * inputs)
    return oy.Session(graph, devices="null:0", registry=registry, costs=costs)


def tune(made: oy.Session, **options: Any) -> oy.TuneReport:
    feeds = {name: value.spec for name, value in made.graph.inputs.items()}
    return made.tune(made.graph.result, feeds, **{"calibrate": False, "budget_seconds": 20.0, **options})


def kernels(placement: oy.Placement) -> list[str]:
    return [decision.chosen.kernel.name for decision in placement.decisions]


def test_the_truly_fastest_kernel_is_found(costs: MeasuredCosts) -> None:
    registry = null_registry()
    for name, seconds, claim in (("a", SLOW, 1e-4), ("b", FAST, 2e-4), ("c", SLOW, 3e-4)):
        registry.kernel(
            "exp", backend="null", name=name, prepare=sleeper(seconds), cost=lambda c, d, claim=claim: claim
        )
    made = session(oy.exp, registry, costs)
    report = tune(made)
    assert kernels(report.before) == ["a"] and kernels(report.after) == ["b"]
    assert report.stable and not report.interrupted
    assert [str(change) for change in report.changes] == ["exp: null/a on null:0 -> null/b on null:0"]
    assert report.seconds_unchanged is not None and report.seconds_unchanged > 5 * report.after.seconds
    assert {(row.kernel, row.device) for row in report.measured} >= {
        ("null/a", "null:0"),
        ("null/b", "null:0"),
    }
    chosen = made.placement(
        made.graph.result, {"input_0": SPEC} if "input_0" in made.graph.inputs else {"x": SPEC}
    )
    assert kernels(chosen) == ["b"]
    assert chosen.decisions[0].chosen.estimate is not None
    assert chosen.decisions[0].chosen.estimate.source == "measured"


def test_another_process_may_find_a_kernel_wrong_meanwhile(
    costs: MeasuredCosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = null_registry()
    for name, seconds, claim in (("a", FAST, 1e-4), ("b", FAST, 2e-4)):
        registry.kernel(
            "exp", backend="null", name=name, prepare=sleeper(seconds), cost=lambda c, d, claim=claim: claim
        )
    other, bounds = CostStore(costs.store.path), tuning.Bounds

    def bounds_later(*arguments: Any, slow: Any = None, **options: Any) -> Any:
        if slow and not other.is_there:
            wrong = Measurement(0.0, verdict="wrong", reason="it is zero")
            for work, kernel, *_ in slow:
                other.put(work, kernel, registry.device("null:0"), wrong)
        return bounds(*arguments, slow=slow, **options)

    monkeypatch.setattr(tuning, "Bounds", bounds_later)
    report = tune(session(oy.exp, registry, costs))
    assert kernels(report.after) == ["b"]


def test_what_cannot_change_the_plan_is_not_measured(costs: MeasuredCosts) -> None:
    registry, log = null_registry(), list[str]()
    for name, claim in (("good", 1e-4), ("hopeless", 1.0)):
        registry.kernel(
            "exp",
            backend="null",
            name=name,
            prepare=sleeper(0.0, log, name),
            cost=lambda c, d, claim=claim: claim,
        )
    report = tune(session(oy.exp, registry, costs))
    assert report.stable and report.measured == () and report.changes == ()
    assert "good" in log  # as part of the plan
    assert "hopeless" not in log


def test_a_second_tuning_measures_less(costs: MeasuredCosts) -> None:
    registry = null_registry()
    for name, seconds in (("a", SLOW), ("b", FAST)):
        registry.kernel("exp", backend="null", name=name, prepare=sleeper(seconds), cost=lambda c, d: 1e-4)
    first = tune(session(oy.exp, registry, costs))
    assert [row.kernel for row in first.measured if row.work.startswith("exp")] == ["null/a", "null/b"]
    again = tune(session(oy.exp, registry, costs))
    assert again.stable and again.measured == ()
    assert kernels(again.after) == ["b"]


class FarDevice(NullDevice):
    """Bringing an array here takes longer than any one kernel elsewhere."""

    def copy_from(self, array: Any, source: oy.Device) -> Any:
        time.sleep(5e-3)
        return super().copy_from(array, source)


def test_a_chain_moves_as_a_whole(costs: MeasuredCosts) -> None:
    """No single op is worth the copy, and the estimates are in favour of the slow device: only all of them together move."""
    registry = null_registry(FarDevice("null:0", capabilities=oy.Capabilities(transfer_seconds=5e-3)))
    add_host(registry, "slow")

    def slow(call: oy.Call, device: oy.Device) -> Any:
        def run(x: Any) -> Any:
            time.sleep(SLOW)
            return call.reference(x)[0]

        return run

    for op in ("exp", "sin", "negative", "abs"):
        registry.kernel(op, backend="null", name="k", prepare=sleeper(FAST), cost=lambda c, d: 2e-3)
        registry.kernel(op, backend="slow", name="k", prepare=slow, cost=lambda c, d: 1e-3)
    graph = oy.trace(lambda x: oy.abs(oy.negative(oy.sin(oy.exp(x)))), SPEC)
    report = tune(oy.Session(graph, devices=["slow:0", "null:0"], registry=registry, costs=costs))
    assert {d.chosen.device.name for d in report.before.decisions} == {"slow:0"}
    assert {d.chosen.device.name for d in report.after.decisions} == {"null:0"}
    assert report.stable and report.wrong == ()
    transfers = {(row.kernel, row.device) for row in report.measured if row.work.startswith("transfer")}
    assert transfers == {("slow:0", "null:0"), ("null:0", "slow:0")}


# Wrong and failing kernels ---------------------------------------------------------------------------------------


def test_wrong_kernels_are_recorded_and_avoided(costs: MeasuredCosts) -> None:
    registry = null_registry()
    registry.kernel("exp", backend="null", name="wrong", prepare=zeros, cost=lambda c, d: 1e-4)
    registry.kernel("exp", backend="null", name="right", prepare=sleeper(FAST), cost=lambda c, d: 3e-4)
    made = session(oy.exp, registry, costs)
    report = tune(made)
    assert kernels(report.after) == ["right"]
    assert report.seconds_unchanged is None
    (sentence,) = report.wrong
    assert sentence.startswith(
        "null/wrong on null:0 is wrong on exp(float32[4]) -> float32[4]: 4 of 4 values differ"
    )
    assert "that plan cannot be used any more" in str(report)
    (row,) = costs.store.wrong()
    assert row[0].startswith("null/wrong v1")
    refused = [row.refusal or "" for row in report.after.decisions[0].alternatives]
    assert any(text.startswith("wrong on this machine: 4 of 4 values differ") for text in refused)
    x = np.ones(4, "float32")
    name = next(iter(made.graph.inputs))
    np.testing.assert_allclose(made.run(made.graph.result, {name: x}), np.exp(x), rtol=1e-6)


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (
            lambda call, device: lambda x: device.upload(np.zeros(3, "float32")),
            "shape is (3,), the reference has (4,)",
        ),
        (
            lambda call, device: lambda x: device.upload(np.zeros(4)),
            "dtype is float64, the reference has float32",
        ),
    ],
)
def test_a_wrong_shape_or_dtype_is_wrong(costs: MeasuredCosts, result: Any, reason: str) -> None:
    registry = null_registry()
    registry.kernel("exp", backend="null", name="wrong", prepare=result, cost=lambda c, d: 1e-4)
    registry.kernel("exp", backend="null", name="right", prepare=sleeper(FAST), cost=lambda c, d: 1e-4)
    (sentence,) = tune(session(oy.exp, registry, costs)).wrong
    assert reason in sentence


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (lambda call, device: lambda x: (x,), "it gives 1, not 2 outputs"),
        (lambda call, device: lambda x: x, "it gives no tuple, not 2 outputs"),
        (lambda call, device: lambda x: (x, x), "output 0: shape is (4,), the reference has (2,)"),
    ],
)
def test_a_wrong_number_of_outputs_is_wrong(costs: MeasuredCosts, result: Any, reason: str) -> None:
    registry = null_registry()
    registry.kernel("split", backend="null", name="wrong", prepare=result, cost=lambda c, d: 1e-4)
    registry.kernel("split", backend="null", name="right", prepare=prepare_null, cost=lambda c, d: 1e-4)
    (sentence,) = tune(session(lambda x: oy.split(x, sections=2), registry, costs)).wrong
    assert reason in sentence


def test_failing_kernels_are_reported_and_not_recorded(costs: MeasuredCosts) -> None:
    def prepare(call: oy.Call, device: oy.Device) -> Any:
        raise RuntimeError("out of order")

    registry = null_registry()
    registry.kernel("exp", backend="null", name="broken", prepare=prepare, cost=lambda c, d: 1e-4)
    registry.kernel("exp", backend="null", name="right", prepare=sleeper(FAST), cost=lambda c, d: 2e-4)
    report = tune(session(oy.exp, registry, costs))
    assert kernels(report.after) == ["right"]
    assert report.failed == (
        "null/broken on null:0 failed on exp(float32[4]) -> float32[4]: RuntimeError: out of order",
    )
    assert costs.store.wrong() == []


def test_work_whose_reference_fails_is_passed_over(costs: MeasuredCosts) -> None:
    def reference(x: Any) -> Any:
        raise ValueError("not for this array")

    registry = null_registry()
    odd = oy.op("test.odd", infer=lambda x: x)(reference)
    registry.op(odd)
    for name in "ab":
        registry.kernel("test.odd", backend="null", name=name, prepare=prepare_null, cost=lambda c, d: 1e-4)
    report = tune(session(odd, registry, costs))
    assert report.failed == (
        "nothing of test.odd(float32[4]) -> float32[4] was measured: its reference fails on drawn arrays (ValueError: not for this array)",
        "a plan could not be run: StepFailed: null/a: ValueError: not for this array",
    )
    assert report.plans == ()


# Patterns and layouts --------------------------------------------------------------------------------------------


def test_a_region_is_checked_against_the_references_of_its_ops() -> None:
    def subtract_exp(a: Any, b: Any) -> Any:
        return oy.exp(oy.subtract(a, b))

    registry = null_registry()
    device = registry.device("null:0")
    region = Region(oy.trace(subtract_exp, SPEC, SPEC))
    expected = expect(region, [None, None], seed=0)
    np.testing.assert_allclose(
        expected.outputs[0], np.exp(expected.arrays[0] - expected.arrays[1]), rtol=1e-6
    )  # type: ignore[operator]
    for sign, verdict in ((1, None), (-1, "values differ")):

        def prepare(work: Region, device: oy.Device, sign: int = sign) -> Any:
            return lambda a, b: device.upload(np.exp(sign * (device.download(a) - device.download(b))))

        kernel = Kernel("", "null", "fused", prepare=prepare, pattern=subtract_exp)
        start = make_start(kernel, region, device, expected.arrays, registry)
        found = disagreement(expected, kernel, region, device, start(), registry)
        assert found is None if verdict is None else verdict in (found or "")


def test_a_layout_that_nothing_converts_to_is_reported(costs: MeasuredCosts) -> None:
    registry = null_registry()
    with pytest.raises(
        KernelError,
        match=r"no kernel of the op 'identity' on null:0 brings float32\[4\] from layout '' to 'odd'",
    ):
        convert(None, SPEC, "", "odd", registry.device("null:0"), registry)


def test_a_kernel_with_a_layout_gets_its_arrays_in_it(costs: MeasuredCosts) -> None:
    registry = null_registry()

    def turned(call: oy.Call, device: oy.Device) -> Any:
        """Turns an array around, there and back."""
        return lambda x: device.upload(device.download(x)[::-1])

    def cumulative(call: oy.Call, device: oy.Device) -> Any:
        """Right only on arrays that are turned around."""
        return lambda x: device.upload(np.cumsum(device.download(x)[::-1])[::-1].astype("float32"))

    for source, target in (("", "back"), ("back", "")):
        registry.kernel(
            *("identity",),
            backend="null",
            name=f"to_{target or 'plain'}",
            prepare=turned,
            layouts={"x": source, "output": target},
        )
    registry.kernel(
        *("cumulative_sum",),
        backend="null",
        name="back",
        prepare=cumulative,
        cost=lambda c, d: 1e-5,
        layouts={"x": "back", "output": "back"},
    )
    registry.kernel(
        "cumulative_sum", backend="null", name="plain", prepare=sleeper(SLOW), cost=lambda c, d: 1e-4
    )
    report = tune(session(lambda x: oy.cumulative_sum(x, axis=0), registry, costs))
    assert report.wrong == () and report.failed == ()
    assert kernels(report.after) == ["back"]
    assert {"null/back", "null/to_back", "null/to_plain"} <= {row.kernel for row in report.measured}


# Contents of arrays ----------------------------------------------------------------------------------------------


def test_positions_are_drawn_so_that_the_reference_takes_them(costs: MeasuredCosts) -> None:
    registry = null_registry()
    for name in "ab":
        registry.kernel("gather", backend="null", name=name, prepare=prepare_null, cost=lambda c, d: 1e-4)
    graph = oy.trace(
        lambda x, i: oy.gather(x, i, axis=0), oy.TensorSpec((1, 3)), oy.TensorSpec((5,), "int64")
    )
    made = oy.Session(graph, devices="null:0", registry=registry, costs=costs)
    report = tune(made)
    assert report.failed == () and report.wrong == ()
    assert len([row for row in report.measured if row.work.startswith("gather")]) == 2


def test_constants_and_feeds_are_used_as_they_are(costs: MeasuredCosts) -> None:
    seen: list[np.ndarray[Any, Any]] = []

    def prepare(call: oy.Call, device: oy.Device) -> Any:
        def run(x: Any, y: Any) -> Any:
            seen[:] = [device.download(x), device.download(y)]
            return device.upload(seen[0] + seen[1])

        return run

    registry = null_registry()
    for name in "ab":
        registry.kernel("add", backend="null", name=name, prepare=prepare, cost=lambda c, d: 1e-4)
    weights, x = np.arange(4, dtype="float32"), np.full(4, 7, "float32")
    made = session(lambda x: oy.add(x, weights), registry, costs)
    made.tune(made.graph.result, {next(iter(made.graph.inputs)): x}, calibrate=False)
    assert [a.tolist() for a in seen] == [x.tolist(), weights.tolist()]


# Ends ------------------------------------------------------------------------------------------------------------


def test_an_interrupt_keeps_what_was_measured(costs: MeasuredCosts) -> None:
    registry, calls = null_registry(), [0]

    def prepare(call: oy.Call, device: oy.Device) -> Any:
        run = prepare_null(call, device)

        def interrupted(*arrays: Any) -> Any:
            calls[0] += 1
            time.sleep(1e-3)
            if calls[0] == 5:
                raise KeyboardInterrupt
            return run(*arrays)

        return interrupted

    registry.kernel("exp", backend="null", name="a", prepare=prepare, cost=lambda c, d: 1e-4)
    registry.kernel("exp", backend="null", name="b", prepare=sleeper(1e-3), cost=lambda c, d: 1e-4)
    report = tune(session(oy.exp, registry, costs))
    assert report.interrupted and not report.stable
    assert "interrupted; what was measured is kept" in str(report)
    kept = {row.kernel for row in report.measured if row.work.startswith("exp")}
    assert kept == {"null/a", "null/b"}
    assert costs.store.summary()["measurements"] == len(report.measured)


def test_without_time_nothing_is_measured(costs: MeasuredCosts) -> None:
    registry = null_registry()
    for name in "ab":
        registry.kernel("exp", backend="null", name=name, prepare=prepare_null, cost=lambda c, d: 1e-4)
    report = tune(session(oy.exp, registry, costs), budget_seconds=0.0)
    assert report.measured == () and not report.stable
    assert report.outcome == "the time was up; more of it may change the plan"


def test_a_reference_that_takes_longer_than_is_left_is_not_begun(
    costs: MeasuredCosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "REFERENCE_RATE", 1.0)  # seconds for a byte
    registry = null_registry()
    for name in "ab":
        registry.kernel("exp", backend="null", name=name, prepare=prepare_null, cost=lambda c, d: 1e-4)
    report = tune(session(oy.exp, registry, costs), budget_seconds=20.0)
    assert not report.stable and {row.work.partition(" ")[0] for row in report.measured} <= {"transfer"}
    assert "to check it, its reference takes some " in str(report)
    assert report.failed[0].startswith("nothing of exp(float32[4]) -> float32[4] was measured")


def test_products_are_not_expected_to_take_as_long_as_other_ops_of_as_many_operations() -> None:
    square = oy.TensorSpec((1024, 1024), "float32")
    product = tuning._reference_prior(oy.matmul.op.call(square, square))
    assert product == pytest.approx(2 * 1024**3 / tuning.REFERENCE_FLOPS)
    chain = oy.exp.op.call(square)
    assert tuning._reference_prior(chain) == pytest.approx(chain.cost.bytes * tuning.REFERENCE_RATE)


def test_estimates_of_what_was_not_measured_are_on_the_scale_of_what_was(
    costs: MeasuredCosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels take fifty times their estimates; the one that could not be measured must not look good for being unknown."""
    prior = tuning._reference_prior

    def slow_tanh(work: Any) -> float:
        return 1e6 if work.title == "tanh" else prior(work)

    monkeypatch.setattr(tuning, "_reference_prior", slow_tanh)
    registry = null_registry()
    for op, name, estimate in (
        ("exp", "a", 1e-4),
        ("exp", "b", 1.2e-4),
        ("tanh", "a", 1e-4),
        ("tanh", "b", 2e-4),
    ):
        registry.kernel(op, backend="null", name=name, prepare=sleeper(5e-3), cost=lambda c, d, e=estimate: e)
    both = session(lambda x: oy.tanh(oy.exp(x)), registry, costs)
    with monkeypatch.context() as patch:  # as if no plan could be run in the time that is left
        patch.setattr(tuning, "LATE_RUNS", 1e9)
        report = tune(both)
    assert "exp(" in str(report.measured) and "tanh(" not in str(report.measured) and not report.plans
    device = next(device for device in registry.devices() if device.name == "null:0")
    for kernel in registry.kernels("tanh"):
        if kernel.name in "ab":
            found = costs.kernel_seconds(kernel, oy.tanh.op.call(SPEC), device)
            assert found.source == "scaled" and found.seconds > 25 * (1e-4 if kernel.name == "a" else 2e-4)


def test_progress_is_told(costs: MeasuredCosts) -> None:
    registry = null_registry()
    for name in "ab":
        registry.kernel("exp", backend="null", name=name, prepare=prepare_null, cost=lambda c, d: 1e-4)
    told: list[tuple[float, str]] = []
    report = tune(
        session(oy.exp, registry, costs),
        calibrate=True,
        budget_seconds=2.0,
        progress=lambda part, text: told.append((part, text)),
    )
    texts = [text for _, text in told]
    assert texts[:2] == ["placing", "calibrating null:0"] and report.calibrated == ("null:0",)
    assert "measuring exp(float32[4]) -> float32[4]: null/a, null/b" in texts
    parts = [part for part, _ in told]
    assert parts == sorted(parts) and parts[0] >= 0.0 and parts[-1] <= 1.0
    assert json.loads(json.dumps(report.to_json()))["measured"]


def test_a_calibration_that_scatters_is_told_and_not_kept(
    costs: MeasuredCosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "SCATTERED", 0.0)
    registry = null_registry()
    for op in ("exp", "matmul"):
        registry.kernel(op, backend="null", name="null", prepare=prepare_null)
    report = tune(session(oy.exp, registry, costs), calibrate=True, budget_seconds=1.0)
    assert report.calibrated == ()
    assert report.failed[0].startswith(
        "null:0 was not calibrated, because other programs use it (flops: the best tries differ by "
    )
    assert costs.store.capabilities(registry.device("null:0")) is None


def test_compiled_functions_tune_themselves(costs: MeasuredCosts) -> None:
    registry = null_registry()
    for name, seconds in (("a", SLOW), ("b", FAST)):
        registry.kernel("exp", backend="null", name=name, prepare=sleeper(seconds), cost=lambda c, d: 1e-4)
    block = oy.compile(lambda x: oy.exp(x), devices="null:0", registry=registry, costs=costs)
    x = np.ones(4, "float32")
    assert kernels(block.explain(x)) == ["a"]
    block(x)
    block.tune(x, calibrate=False)
    assert kernels(block.explain(x)) == ["b"]


def test_costs_that_keep_nothing_cannot_be_tuned() -> None:
    registry = oy.standard_registry()
    made = oy.Session(oy.trace(oy.exp, SPEC), registry=registry, costs=oy.Roofline())
    with pytest.raises(
        PlacementError, match=r"costs that keep no measurements \(Roofline\); leave out costs"
    ):
        tune(made)

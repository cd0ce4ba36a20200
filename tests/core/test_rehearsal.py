"""Whole plans that are run while tuning, and what is believed about kernels afterwards. No time is asserted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opyard as oy
from hosts import add_host
from opyard import rehearsal
from opyard.placement import MeasuredCosts, tune, tuning
from opyard.placement.inplace import LATE_ROUNDS, Rehearsal, StepTime
from opyard.plan import Copy, Run, make_plan
from opyard.rehearsal import rehearse
from opyard.selection import Policy
from opyard.testing import NullDevice, add_null_backend, prepare_null

SPEC = oy.TensorSpec((4,), "float32")
X = np.ones(4, np.float32)


@pytest.fixture
def costs(tmp_path: Path) -> Iterator[MeasuredCosts]:
    store = oy.CostStore(tmp_path / "costs.sqlite")
    yield MeasuredCosts(store)
    store.close()


def registry(claims: Mapping[str, float]) -> oy.Registry:
    """Two accelerators, with kernels that claim to take so many seconds: "near exp": 1e-6 is one of near:0."""
    made = oy.standard_registry()
    for backend in ("near", "other"):
        add_null_backend(made, NullDevice(f"{backend}:0", memory="shared"))
    for name, claim in claims.items():
        backend, op = name.split()
        made.kernel(op, backend=backend, name="null", prepare=prepare_null, cost=lambda c, d, s=claim: s)
    return made


def steps(placement: oy.Placement, seconds: Callable[[str], float]) -> Rehearsal:
    """What a run would have found if each step took so long, named by device and op or "copy"."""
    rows = []
    for step in make_plan(placement).steps:
        if isinstance(step, Run):
            name = f"{step.device.backend} {step.work.title}"
            rows.append(StepTime(seconds(name), step.work, step.kernel, step.device))
        elif isinstance(step, Copy):
            nbytes = SPEC.nbytes
            rows.append(StepTime(seconds("copy"), None, None, step.target, step.source, nbytes))
    return Rehearsal(sum(row.seconds for row in rows), 9, tuple(rows))


def tuned(
    function: Callable[..., Any],
    made: oy.Registry,
    costs: MeasuredCosts,
    seconds: Callable[[list[str], str], float],
) -> Any:
    """A tuning that measures nothing but plans. ``seconds`` gives those of a step, given the devices of its plan."""
    graph = oy.trace(function, SPEC)

    def run(placement: oy.Placement, budget: float) -> Rehearsal:
        used = sorted({d.chosen.device.backend for d in placement.decisions})
        return steps(placement, lambda name: seconds(used, name))

    return tune(
        lambda known: oy.place(
            graph,
            made.devices(),
            made,
            known,
            policy=Policy(block=("reference",)),
            home=made.device("near:0"),
        ),
        costs,
        made,
        rehearse=run,
        calibrate=False,
        budget_seconds=20.0,
    )


def where(placement: oy.Placement) -> list[str]:
    return [decision.chosen.device.backend for decision in placement.decisions]


def chain(x: Any) -> Any:
    return oy.abs(oy.exp(x))


# What is believed afterwards -------------------------------------------------------------------------------------


def test_the_prediction_is_what_the_plan_took(costs: MeasuredCosts) -> None:
    made = registry({"near exp": 1e-6, "near abs": 1e-6})
    report = tuned(chain, made, costs, lambda used, name: 3e-3 if name == "near exp" else 1e-3)
    assert report.after.seconds == pytest.approx(4e-3)
    assert [decision.chosen.seconds for decision in report.after.decisions] == pytest.approx([3e-3, 1e-3])
    assert len(report.plans) >= 2
    assert report.plans[-1].predicted == pytest.approx(4e-3)
    assert report.plans[-1].seconds == pytest.approx(4e-3)


def test_a_mixed_plan_that_disappoints_gives_way_to_one_device(costs: MeasuredCosts) -> None:
    """By themselves exp is fast here and abs there; in one plan both are slow, as threads that get in each other's way."""
    made = registry({"near exp": 1e-6, "near abs": 3e-6, "other exp": 9e-6, "other abs": 1e-6})

    def seconds(used: list[str], name: str) -> float:
        if len(used) > 1:
            return 20e-3
        return {"near exp": 1e-3, "near abs": 3e-3, "other exp": 9e-3, "other abs": 1e-3}.get(name, 0.0)

    report = tuned(chain, made, costs, seconds)
    assert where(report.after) == ["near", "near"]
    assert report.after.seconds == pytest.approx(4e-3)
    assert {plan.devices for plan in report.plans} >= {("near:0",), ("other:0",), ("near:0", "other:0")}


def test_a_mixed_plan_that_holds_stays(costs: MeasuredCosts) -> None:
    made = registry({"near exp": 1e-6, "near abs": 3e-6, "other exp": 9e-6, "other abs": 1e-6})
    times = {"near exp": 1e-3, "near abs": 3e-3, "other exp": 9e-3, "other abs": 1e-3}
    report = tuned(chain, made, costs, lambda used, name: times.get(name, 0.0))
    assert where(report.after) == ["near", "other"]
    assert report.after.seconds == pytest.approx(2e-3)


@pytest.mark.parametrize("most_plans", [1, 12])
def test_what_is_not_known_looks_no_better_for_it(
    costs: MeasuredCosts, monkeypatch: pytest.MonkeyPatch, most_plans: int
) -> None:
    """All takes a thousand times the estimates, and there is no time to measure other kernels by themselves, or to run other plans."""
    monkeypatch.setattr(tuning, "REHEARSAL_SHARE", 1.0)
    monkeypatch.setattr(tuning, "MOST_PLANS", most_plans)
    made = registry({"near exp": 1e-6, "near abs": 1e-6, "other exp": 3e-6, "other abs": 3e-6})
    made.kernel("exp", backend="near", name="rival", prepare=prepare_null, cost=lambda c, d: 2e-6)
    report = tuned(chain, made, costs, lambda used, name: 1e-3 if name.startswith("near") else 1.0)
    assert where(report.after) == ["near", "near"]
    assert [d.chosen.kernel.name for d in report.after.decisions] == ["null", "null"]
    assert report.after.seconds == pytest.approx(2e-3)
    rival = next(kernel for kernel in made.kernels("exp") if kernel.name == "rival")
    found = costs.kernel_seconds(rival, report.after.decisions[0].match.work, made.device("near:0"))
    assert found.source == "scaled"
    assert found.seconds == pytest.approx(2e-3)
    assert costs.store.summary()["measurements"] == len(report.plans[0].devices) * 2 + 2


def test_a_plan_that_there_was_no_time_to_run_is_not_the_last_word(
    costs: MeasuredCosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two kernels that are as fast by estimates one takes longer in the plan; whether the other one does nobody knows."""
    monkeypatch.setattr(tuning, "REHEARSAL_SHARE", 1.0)
    monkeypatch.setattr(tuning, "MOST_PLANS", 1)
    made = registry({"near exp": 1e-6, "near abs": 1e-6})
    made.kernel("exp", backend="near", name="rival", prepare=prepare_null, cost=lambda c, d: 1.1e-6)
    report = tuned(chain, made, costs, lambda used, name: 3e-3 if name == "near exp" else 1e-3)
    assert [d.chosen.kernel.name for d in report.after.decisions] == ["null", "null"]
    rival = next(kernel for kernel in made.kernels("exp") if kernel.name == "rival")
    found = costs.kernel_seconds(rival, report.after.decisions[0].match.work, made.device("near:0"))
    assert found.source == "scaled"
    assert found.seconds == pytest.approx(
        4 * 2e3 * 1.1e-6
    )  # the most that it may take, where plans take 2000 times the estimates


def test_copies_are_corrected_too(costs: MeasuredCosts) -> None:
    made = oy.standard_registry()
    add_host(made)
    add_null_backend(made, NullDevice("far:0"))
    made.kernel("exp", backend="far", name="null", prepare=prepare_null, cost=lambda c, d: 1e-6)
    graph = oy.trace(oy.exp, SPEC)

    def run(placement: oy.Placement, budget: float) -> Rehearsal:
        return steps(placement, lambda name: 5e-3 if name == "copy" else 1e-3)

    report = tune(
        lambda known: oy.place(
            graph,
            [*made.devices()],
            made,
            known,
            policy=Policy(block=("reference",)),
            home=made.device("toy:0"),
        ),
        costs,
        made,
        rehearse=run,
        calibrate=False,
    )
    assert report.after.seconds == pytest.approx(11e-3)


def test_the_report_names_the_plans(costs: MeasuredCosts) -> None:
    made = registry({"near exp": 1e-6, "near abs": 1e-6})
    report = tuned(chain, made, costs, lambda used, name: 1e-3)
    assert "run as a plan on near:0: 2 ms, predicted " in str(report)
    assert report.to_json()["plans"][-1] == {
        "devices": ("near:0",),
        "predicted": pytest.approx(2e-3),
        "seconds": pytest.approx(2e-3),
    }


# Running ---------------------------------------------------------------------------------------------------------


def small_placement(function: Callable[..., Any], made: oy.Registry, *shapes: oy.TensorSpec) -> oy.Placement:
    graph = oy.trace(function, *shapes)
    return oy.Session(graph, registry=made, costs=oy.Roofline()).placement(
        graph.result, {name: value.spec for name, value in graph.inputs.items()}
    )


def test_steps_add_up_to_the_whole_and_copies_are_among_them() -> None:
    made = oy.standard_registry()
    add_null_backend(made, NullDevice("far:0"), ops=["exp", "abs"])
    graph = oy.trace(chain, SPEC)
    with oy.using(block="reference"):
        placement = oy.Session(graph, registry=made).placement(graph.result, {"x": X})
    found = rehearse(placement, {"x": X}, 0.0)
    assert sum(step.seconds for step in found.steps) == pytest.approx(found.seconds)
    assert found.rounds >= 7
    names = [step.work.title if step.work else f"{step.source} {step.nbytes}" for step in found.steps]
    assert names[1:3] == ["exp", "abs"] and names[0].endswith(" 16") and names[3].endswith(" 16")


def test_runs_that_others_interrupt_do_not_make_steps_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "seconds_of", lambda executable, feeds, runs=1: 100.0)
    found = rehearse(small_placement(chain, oy.standard_registry(), SPEC), {"x": X}, 0.0)
    assert sum(step.seconds for step in found.steps) == pytest.approx(found.seconds)
    assert 0 < found.seconds < 100.0


def test_slow_runs_are_few_where_there_is_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "LONG_ENOUGH", 0.0)
    found = rehearse(small_placement(chain, oy.standard_registry(), SPEC), {"x": X}, 0.0)
    assert found.rounds == LATE_ROUNDS


def test_a_plan_that_takes_longer_than_is_left_is_not_run(costs: MeasuredCosts) -> None:
    made = registry({"near exp": 100.0, "near abs": 100.0})
    report = tuned(chain, made, costs, lambda used, name: 1e-3)
    assert not report.plans


def test_inputs_that_are_not_given_are_made_up() -> None:
    made = oy.standard_registry()
    placement = small_placement(
        lambda table, index: oy.gather(table, index, axis=0), made, SPEC, oy.TensorSpec((3,), "int64")
    )
    assert rehearse(placement, {}, 0.0).seconds > 0


def test_several_outputs_constants_and_options_run() -> None:
    made = oy.standard_registry()

    def function(x: Any) -> Any:
        first, second = oy.split(oy.clip(x, None, x), sections=2)
        return oy.add(first, np.ones(2, np.float32)), second

    assert len(rehearse(small_placement(function, made, SPEC), {"x": X}, 0.0).steps) >= 3


def test_a_session_tunes_with_whole_plans(costs: MeasuredCosts) -> None:
    made = registry({"near exp": 1e-6, "near abs": 1e-6})
    graph = oy.trace(chain, SPEC)
    session = oy.Session(graph, registry=made, costs=costs)
    report = session.tune(graph.result, {"x": X}, budget_seconds=2.0, calibrate=False)
    assert report.plans
    assert session.explain(graph.result, {"x": X}).seconds == report.after.seconds

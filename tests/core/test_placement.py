"""Placement: the cheapest kernels with transfers in the price, and a true answer to "why not that one?"."""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from hosts import add_host
from opyard.driver import Device
from opyard.errors import PlacementError
from opyard.placement.model import Alternative, format_seconds
from opyard.selection import Candidate, Policy
from opyard.testing import NullDevice, ScriptedCosts, add_null_backend

SPEC = oy.TensorSpec((4,), "float32")
UNARY = ("negative", "abs", "exp", "sin")
OPS = (*UNARY, "add", "multiply")


def two_devices(*names: str, ops: Sequence[str] = OPS, **facts: Any) -> tuple[oy.Registry, list[Device]]:
    """The reference, and a null device on which some ops have a kernel."""
    registry = oy.standard_registry()
    add_null_backend(registry, *(NullDevice(name) for name in names or ("null:0",)), ops=ops, **facts)
    return registry, list(registry.devices())


def both_ways(seconds: float, *names: str) -> dict[tuple[str, str], float]:
    return dict.fromkeys(itertools.permutations(names or ("reference", "null:0"), 2), seconds)


def place(
    function: Callable[..., Any],
    registry: oy.Registry,
    devices: Sequence[Device],
    costs: ScriptedCosts,
    inputs: int = 1,
    **more: Any,
) -> oy.Placement:
    graph = oy.trace(function, *[SPEC] * inputs)
    return oy.place(graph, devices, registry, costs, **{"policy": Policy(), **more})


def where(placement: oy.Placement) -> list[str]:
    return [decision.chosen.device.name for decision in placement.decisions]


def chain(length: int) -> Callable[[Any], Any]:
    def function(x: Any) -> Any:
        for number in range(length):
            x = getattr(oy, UNARY[number % len(UNARY)])(x)
        return x

    return function


# What is chosen --------------------------------------------------------------------------------------------------


def test_the_cheapest_kernel_of_a_device_is_chosen() -> None:
    registry, devices = two_devices()
    registry.kernel("exp", backend="null", name="better", load=np.exp)
    costs = ScriptedCosts(
        {"null/null": 2e-3, "null/better": 1e-3, "reference/reference": 5e-3}, both_ways(0.0)
    )
    (decision,) = place(oy.exp, registry, devices, costs).decisions
    assert decision.chosen.kernel.id == "null/better"
    assert decision.reason == "1 ms cheaper than null/null on null:0"
    assert [(a.candidate.kernel.id, a.extra_seconds) for a in decision.alternatives] == [
        ("null/null", pytest.approx(1e-3)),
        ("reference/reference", pytest.approx(4e-3)),
    ]


def test_a_fast_device_is_not_chosen_when_its_copies_cost_more() -> None:
    registry, devices = two_devices()
    costs = ScriptedCosts({"null/null": 1e-6, "reference/reference": 9e-6}, both_ways(5e-6))
    placement = place(oy.exp, registry, devices, costs)
    assert where(placement) == ["reference"]
    assert placement.seconds == pytest.approx(9e-6)
    assert placement.decisions[0].runner_up is not None
    assert placement.decisions[0].runner_up.extra_seconds == pytest.approx(2e-6)


def test_a_chain_amortises_the_copies() -> None:
    registry, devices = two_devices()
    costs = ScriptedCosts({"null/null": 1e-6, "reference/reference": 9e-6}, both_ways(20e-6))
    assert where(place(chain(4), registry, devices, costs)) == ["reference"] * 4
    placement = place(chain(6), registry, devices, costs)
    assert where(placement) == ["null:0"] * 6
    assert placement.seconds == pytest.approx(6e-6 + 40e-6)
    first, *others = placement.decisions
    assert first.transfer_seconds == 20e-6
    assert [d.transfer_seconds for d in others] == [0.0] * 5


def test_a_tensor_that_many_need_is_brought_once() -> None:
    registry, devices = two_devices(ops=UNARY)
    costs = ScriptedCosts({"null/null": 1e-6, "reference/reference": 1.0}, both_ways(1e-3))

    def function(x: Any) -> Any:
        return [getattr(oy, op)(x) for op in UNARY]

    placement = place(function, registry, devices, costs)
    assert where(placement) == ["null:0"] * 4
    assert placement.seconds == pytest.approx(4e-6 + 1e-3 + 4e-3)  # there once, back four times


def test_a_tensor_used_twice_by_one_node_is_brought_once() -> None:
    registry, devices = two_devices()
    costs = ScriptedCosts({"null/null": 1e-6, "reference/reference": 1.0}, both_ways(1e-3))
    placement = place(lambda x: oy.add(x, x), registry, devices, costs)
    assert placement.seconds == pytest.approx(1e-6 + 2e-3)
    assert placement.decisions[0].transfer_seconds == 1e-3


def test_constants_travel_for_nothing() -> None:
    registry, devices = two_devices()
    costs = ScriptedCosts({"null/null": 1e-6, "reference/reference": 1.0}, both_ways(1e-3))
    weights = np.ones(4, "float32")
    placement = place(lambda x: oy.add(oy.multiply(x, weights), weights), registry, devices, costs)
    assert placement.seconds == pytest.approx(2e-6 + 2e-3)


def test_a_fetched_input_or_constant_costs_nothing_at_home() -> None:
    registry, devices = two_devices()
    placement = place(lambda x: (x, np.ones(3)), registry, devices, ScriptedCosts())
    assert placement.seconds == 0 and placement.decisions == ()


def test_devices_that_share_arrays_pay_nothing() -> None:
    registry = oy.standard_registry()
    add_host(registry, "one")
    add_host(registry, "two")
    registry.kernel("exp", backend="one", name="exp", load=np.exp)
    registry.kernel("sin", backend="two", name="sin", load=np.sin)
    costs = ScriptedCosts(
        {"one/exp": 1e-6, "two/sin": 1e-6, "reference/reference": 1.0},
        both_ways(1.0, "one:0", "two:0", "reference"),  # a table that is wrong about sharing changes nothing
    )
    placement = place(lambda x: oy.exp(oy.sin(x)), registry, registry.devices(), costs)
    assert where(placement) == ["two:0", "one:0"]
    assert placement.seconds == pytest.approx(2e-6)
    assert [d.transfer_seconds for d in placement.decisions] == [0.0, 0.0]


def test_one_copy_serves_devices_that_share_memory() -> None:
    registry = oy.standard_registry()
    add_null_backend(registry, NullDevice("null:0", memory="shared"), NullDevice("null:1", memory="shared"))
    for op, number in (("exp", "0"), ("sin", "1")):
        registry.kernel(
            op,
            backend="null",
            name=op,
            load=np.exp,
            accepts=lambda call, device, number=number: None if device.name.endswith(number) else "not here",
        )
    costs = ScriptedCosts(
        {"null/exp": 1e-6, "null/sin": 1e-6, "reference/reference": 1.0},
        both_ways(1e-3, "reference", "null:0", "null:1"),
    )
    placement = place(lambda x: (oy.exp(x), oy.sin(x)), registry, registry.devices(), costs)
    assert where(placement) == ["null:0", "null:1"]
    assert placement.seconds == pytest.approx(2e-6 + 3e-3)


def test_home_is_the_first_host_device_or_the_first_of_all() -> None:
    registry, devices = two_devices()
    assert place(oy.exp, registry, devices, ScriptedCosts()).home.name == "reference"
    null = [device for device in devices if device.name == "null:0"]
    assert place(oy.exp, registry, null, ScriptedCosts()).home.name == "null:0"
    assert place(oy.exp, registry, devices, ScriptedCosts(), home=null[0]).home is null[0]


def test_work_stays_where_its_arrays_live() -> None:
    registry, devices = two_devices()
    null = registry.device("null:0")
    costs = ScriptedCosts({"null/null": 9e-6, "reference/reference": 1e-6}, both_ways(5e-6))
    assert where(place(oy.exp, registry, devices, costs)) == ["reference"]
    assert where(place(oy.exp, registry, devices, costs, home=null)) == ["null:0"]


# The laws of a placement -----------------------------------------------------------------------------------------

DEVICES = (("reference", "host"), ("null:0", "a"), ("null:1", "b"), ("other:0", "a"))


def registry_in_order(order: Sequence[int]) -> oy.Registry:
    """Backends and kernels registered in an order that must not matter; other:0 shares memory with null:0."""
    registry = oy.standard_registry()
    deeds: list[Callable[[], Any]] = [
        lambda: add_null_backend(
            registry, NullDevice("null:0", memory="a"), NullDevice("null:1", memory="b")
        ),
        lambda: add_null_backend(registry, NullDevice("other:0", memory="a")),
    ]
    for op, (backend, name) in itertools.product(
        OPS, (("null", "fast"), ("null", "slow"), ("other", "only"))
    ):
        facts = {"accepts": refuse_null_one} if (op, name) == ("exp", "fast") else {}
        deeds.append(partial(registry.kernel, op, backend=backend, name=name, load=np.exp, **facts))
    for number in order:
        deeds[number]()
    return registry


def refuse_null_one(call: oy.Call, device: Device) -> str | None:
    return "not on the second device" if device.name == "null:1" else None


NUMBER_OF_DEEDS = 2 + 3 * len(OPS)


@st.composite
def problems(draw: Any, nodes: int = 8) -> tuple[oy.Graph, ScriptedCosts]:
    graph = oy.Graph()
    values = [graph.input("x", SPEC), graph.input("y", SPEC), graph.constant(np.ones(4, "float32"))]
    for _ in range(draw(st.integers(1, nodes))):
        op = draw(st.sampled_from(OPS))
        picked = [draw(st.sampled_from(values[-4:])) for _ in range(1 if op in UNARY else 2)]
        values.append(getattr(oy, op)(*picked))
    for number, value in enumerate(draw(st.lists(st.sampled_from(values), max_size=2)) + values[-1:]):
        graph.output(f"out_{number}", value)
    seconds = st.floats(0.0, 10.0, allow_subnormal=False)
    kernels = {
        f"{op} {kernel}": draw(seconds)
        for op in OPS
        for kernel in ("null/fast", "null/slow", "other/only", "reference/reference")
    }
    between = {pair: draw(seconds) for pair in itertools.permutations(("host", "a", "b"), 2)}
    transfers = {
        (one, two): between[a, b] for (one, a), (two, b) in itertools.permutations(DEVICES, 2) if a != b
    }
    return graph, ScriptedCosts(kernels, transfers)


def total_seconds(
    graph: oy.Graph, chosen: Mapping[oy.Node, Candidate], home: Device, costs: ScriptedCosts
) -> float:
    """The price of an assignment from first principles: kernels, and each tensor once for each memory that needs it."""
    seconds = sum(costs.kernels[f"{node.op.name} {c.kernel.id}"] for node, c in chosen.items())
    away = _distances(costs)
    for value in graph.values():
        if value in graph.constants:
            continue
        source = home if value.node is None else chosen[value.node].device
        users = [chosen[node].device for node in graph.nodes if any(v is value for v in node.inputs)]
        users += [home] if any(v is value for v in graph.outputs.values()) else []
        seconds += _tree(away, source.memory, {user.memory for user in users} - {source.memory})
    return seconds


def _distances(costs: ScriptedCosts) -> dict[tuple[str, str], float]:
    """Seconds between memories, by way of the third one where that is cheaper."""
    memory = dict(DEVICES)
    direct = {(memory[one], memory[two]): seconds for (one, two), seconds in costs.transfers.items()}
    return {
        (a, b): min(seconds, *(direct[a, c] + direct[c, b] for c in set(memory.values()) - {a, b}))
        for (a, b), seconds in direct.items()
    }


def _tree(away: Mapping[tuple[str, str], float], source: str, targets: set[str]) -> float:
    """The cheapest way to bring a tensor to all targets; what is there already may be passed on."""
    orders = itertools.permutations(sorted(targets))
    return min(
        sum(min(away[known, target] for known in (source, *order[:i])) for i, target in enumerate(order))
        for order in orders
    )


def place_problem(
    problem: tuple[oy.Graph, ScriptedCosts], order: Sequence[int] = range(NUMBER_OF_DEEDS), turn: int = 0
) -> oy.Placement:
    registry = registry_in_order(order)
    devices = registry.devices()
    return oy.place(
        problem[0],
        devices[turn:] + devices[:turn],
        registry,
        problem[1],
        home=registry.device("reference"),
        policy=Policy(),
    )


@settings(max_examples=60, deadline=None)
@given(problems(nodes=4))
def test_the_optimum_and_every_price_agree_with_brute_force(problem: Any) -> None:
    graph, costs = problem
    placement = place_problem(problem)
    decisions = {decision.node: decision for decision in placement.decisions}
    rows: dict[oy.Node, list[Candidate]] = {
        node: [d.chosen, *(a.candidate for a in d.alternatives if a.refusal is None)]
        for node, d in decisions.items()
    }
    least: dict[tuple[oy.Node, Candidate], float] = {}
    for picked in itertools.product(*rows.values()):
        chosen = dict(zip(rows, picked, strict=True))
        total = total_seconds(graph, chosen, placement.home, costs)
        for pair in chosen.items():
            least[pair] = min(total, least.get(pair, np.inf))
    assert placement.is_optimal
    assert placement.gap == 0
    assert placement.seconds == pytest.approx(min(least.values()), abs=1e-7)
    for node, decision in decisions.items():
        assert placement.seconds == pytest.approx(least[node, decision.chosen], abs=1e-7)
        for alternative in decision.alternatives:
            if alternative.extra_seconds is not None:
                forced = least[node, alternative.candidate]
                assert alternative.extra_seconds == pytest.approx(forced - placement.seconds, abs=1e-7)


@settings(max_examples=30, deadline=None)
@given(problems())
def test_every_candidate_of_every_node_is_accounted_for(problem: Any) -> None:
    graph, costs = problem
    placement = place_problem(problem)
    chosen = {decision.node: decision.chosen for decision in placement.decisions}
    assert set(chosen) == set(graph.nodes)
    assert placement.seconds == pytest.approx(total_seconds(graph, chosen, placement.home, costs), abs=1e-7)
    for decision in placement.decisions:
        pairs = [
            (c.kernel.id, c.device.name)
            for c in (decision.chosen, *(a.candidate for a in decision.alternatives))
        ]
        assert sorted(pairs) == [
            *(
                ("null/fast", "null:0"),
                ("null/fast", "null:1"),
                ("null/slow", "null:0"),
                ("null/slow", "null:1"),
            ),
            *(("other/only", "other:0"), ("reference/reference", "reference")),
        ]
        for alternative in decision.alternatives:
            if alternative.extra_seconds is None:
                assert decision.node.op.name == "exp"
                assert alternative.refusal == "not on the second device"
            else:
                assert alternative.refusal is None


@settings(max_examples=30, deadline=None)
@given(problems())
def test_no_single_device_is_better(problem: Any) -> None:
    graph, costs = problem
    placement = place_problem(problem)
    for name, _ in DEVICES:
        chosen = {}
        for decision in placement.decisions:
            rows = [decision.chosen, *(a.candidate for a in decision.alternatives if a.refusal is None)]
            here = [c for c in rows if c.device.name == name]
            chosen[decision.node] = min(here, key=lambda c: c.seconds)
        assert placement.seconds <= total_seconds(graph, chosen, placement.home, costs) + 1e-7


@settings(max_examples=30, deadline=None)
@given(problems(), st.permutations(range(NUMBER_OF_DEEDS)), st.integers(0, 3))
def test_the_order_of_devices_and_registrations_changes_nothing(problem: Any, order: Any, turn: int) -> None:
    assert place_problem(problem, order, turn).to_json() == place_problem(problem).to_json()


# Policy ----------------------------------------------------------------------------------------------------------

COSTS = ScriptedCosts({"null/null": 1e-6, "reference/reference": 1e-3}, both_ways(0.0))


def test_preferred_kernels_win_at_any_price() -> None:
    registry, devices = two_devices()
    placement = place(oy.exp, registry, devices, COSTS, policy=Policy(prefer=("reference",)))
    (decision,) = placement.decisions
    assert where(placement) == ["reference"]
    assert decision.runner_up is None
    assert decision.reason == "all 1 others refuse"
    assert str(decision.alternatives[0]) == "null/null on null:0: refused: another kernel is preferred"
    assert decision.to_json()["alternatives"][0]["refusal"] == "another kernel is preferred"


def test_where_a_preferred_kernel_refuses_the_others_compete() -> None:
    registry, devices = two_devices(ops=["exp"])
    placement = place(lambda x: oy.sin(oy.exp(x)), registry, devices, COSTS, policy=Policy(prefer=("null",)))
    assert where(placement) == ["null:0", "reference"]


@pytest.mark.parametrize("name", ["null", "null/null"])
def test_blocked_kernels_are_refused(name: str) -> None:
    registry, devices = two_devices()
    placement = place(oy.exp, registry, devices, COSTS, policy=Policy(block=(name,)))
    assert where(placement) == ["reference"]
    assert placement.decisions[0].alternatives[0].refusal == f"blocked: {name}"


def test_pins_hold_for_their_op_alone() -> None:
    registry, devices = two_devices()
    policy = Policy(pins=(("exp", "reference/reference"),))
    placement = place(lambda x: oy.sin(oy.exp(x)), registry, devices, COSTS, policy=policy)
    assert where(placement) == ["reference", "null:0"]
    assert placement.decisions[0].alternatives[0].refusal == "exp is pinned to reference/reference"


def test_the_active_policy_is_the_default() -> None:
    registry, devices = two_devices()
    with oy.using(registry=registry, block="null"):
        assert where(place(oy.exp, registry, devices, COSTS, policy=None)) == ["reference"]
    with oy.using():
        assert where(place(oy.exp, registry, devices, COSTS, policy=None)) == ["null:0"]


def test_what_is_unavailable_is_refused() -> None:
    registry, devices = two_devices()
    placement = place(
        oy.exp, registry, devices, COSTS, unavailable=[("exp", "null/null"), ("sin", "null/null")]
    )
    assert where(placement) == ["reference"]
    assert placement.decisions[0].alternatives[0].refusal == "it failed in this run"


# Errors ----------------------------------------------------------------------------------------------------------


def test_an_op_that_nobody_can_run_is_explained() -> None:
    registry, _ = two_devices(dtypes=("float64",))
    registry.kernel(
        "exp", backend="null", name="square", load=np.exp, accepts=lambda call, device: "only squares"
    )

    def function(x: Any) -> Any:
        return oy.exp(x)

    line = inspect.getsourcelines(function)[1] + 1
    with pytest.raises(PlacementError) as caught:
        place(function, registry, [registry.device("null:0")], ScriptedCosts())
    assert str(caught.value) == (
        f"no kernel can run exp(float32[4]) -> float32[4] (node 'exp', test_placement.py:{line}): "
        "null/null on null:0: takes x of float64, not float32; null/square on null:0: only squares. "
        "Add a device that can (devices='auto' takes all), or see `opyard kernels exp`."
    )


def test_an_op_without_kernels_is_explained() -> None:
    registry, _ = two_devices(ops=())
    with pytest.raises(
        PlacementError, match=r"exp.*: no kernel is registered on these devices. Add a device"
    ):
        place(oy.exp, registry, [registry.device("null:0")], ScriptedCosts())


def test_no_device_is_explained() -> None:
    with pytest.raises(
        PlacementError, match=r"no device was given to place on; pass for example registry.devices\(\)"
    ):
        place(oy.exp, oy.standard_registry(), [], ScriptedCosts())


# For people and programs -----------------------------------------------------------------------------------------


def test_json_round_trip() -> None:
    registry, devices = two_devices()
    registry.kernel("exp", backend="null", name="no", load=np.exp, accepts=lambda call, device: "never")
    placement = place(oy.exp, registry, devices, COSTS)
    found = json.loads(json.dumps(placement.to_json()))
    assert found == placement.to_json()
    assert found["home"] == "reference" and found["seconds"] == 1e-6
    (node,) = found["nodes"]
    assert node["source"].startswith("test_placement.py:")
    assert {key: node[key] for key in node if key not in ("source", "alternatives", "bodies")} == {
        "node": "exp",
        "op": "exp",
        "nodes": ["exp"],
        "kernel": "null/null",
        "device": "null:0",
        "seconds": 1e-6,
        "estimate": "scripted",
        "transfer_seconds": 0.0,
        "reason": "999 us cheaper than reference/reference on reference",
    }
    assert node["bodies"] == {}
    assert node["alternatives"] == [
        {
            "node": "exp",
            "op": "exp",
            "kernel": "reference/reference",
            "device": "reference",
            "extra_seconds": pytest.approx(999e-6),
            "refusal": None,
        },
        {
            "node": "exp",
            "op": "exp",
            "kernel": "null/no",
            "device": "null:0",
            "extra_seconds": None,
            "refusal": "never",
        },
    ]


def test_the_table_for_people() -> None:
    registry, devices = two_devices()
    registry.kernel("exp", backend="null", name="no", load=np.exp, accepts=lambda call, device: "never")
    assert str(place(oy.exp, registry, devices, COSTS)).splitlines() == [
        "predicted 1 us, proven optimal; feeds and fetches live on reference",
        "exp: null/null on null:0, 1 us: 999 us cheaper than reference/reference on reference",
        "    reference/reference on reference: +999 us",
        "    null/no on null:0: refused: never",
    ]


def test_ties_are_settled_by_name_and_say_so() -> None:
    registry, _ = two_devices("null:0", "null:1")
    null = [registry.device("null:1"), registry.device("null:0")]
    costs = ScriptedCosts({"null/null": 1e-6}, both_ways(0.0, "null:0", "null:1"))
    (decision,) = place(oy.exp, registry, null, costs).decisions
    assert decision.chosen.device.name == "null:0"
    assert decision.reason == "tie with null/null on null:1, settled by name"


def test_a_single_kernel_needs_no_reason() -> None:
    registry = oy.standard_registry()
    (decision,) = place(oy.exp, registry, registry.devices(), ScriptedCosts()).decisions
    assert decision.reason == "no other kernel" and decision.runner_up is None


def test_a_kernel_whose_cost_fails_is_refused_with_the_reason() -> None:
    registry, devices = two_devices(ops=())
    registry.kernel("exp", backend="null", name="odd", load=np.exp, cost=lambda call, device: 1 / 0)
    (decision,) = place(oy.exp, registry, devices, ScriptedCosts()).decisions
    (alternative,) = decision.alternatives
    assert isinstance(alternative, Alternative)
    assert alternative.refusal == "its cost function failed: ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ns"),
        (2.5e-8, "25 ns"),
        (1.234e-5, "12.3 us"),
        (-2e-3, "-2 ms"),
        (0.5, "500 ms"),
        (12.0, "12 s"),
    ],
)
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
    assert format_seconds(seconds, sign=True) == (text if seconds < 0 else f"+{text}")


def test_prices_that_are_upper_bounds_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, devices = two_devices()
    costs = ScriptedCosts({"null/null": 1e-6, "reference/reference": 2e-6}, both_ways(1e-7))
    exact = place(chain(6), registry, devices, costs)
    assert exact.accuracy == exact.to_json()["accuracy"] == "exact"
    assert "upper bounds" not in str(exact)
    for name in ("SMALL_TABLE", "LARGEST_TABLE"):
        monkeypatch.setattr(f"opyard.placement.solver.{name}", 1.0)  # too small for any elimination at once
    wide = place(chain(6), registry, devices, costs)
    assert wide.is_optimal and wide.seconds == exact.seconds
    assert wide.accuracy == wide.to_json()["accuracy"] == "upper bound"
    assert "\nthe graph is wide: the times of alternatives are upper bounds\n" in str(wide)
    for one, other in zip(exact.decisions, wide.decisions, strict=True):
        least = {a.candidate.kernel.id: a.extra_seconds for a in one.alternatives}
        for alternative in other.alternatives:
            assert alternative.extra_seconds is not None
            assert alternative.extra_seconds >= (least[alternative.candidate.kernel.id] or 0.0) - 1e-12

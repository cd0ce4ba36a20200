"""Memory limits: what a run keeps on each device, and placements that stay within what is allowed.

That the best of all placements within limits is found is checked by brute force in tests/bench/test_placement_runs.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

import opyard as oy
from opyard.errors import PlacementError
from opyard.placement import proximal
from opyard.placement.bundle import Bundle
from opyard.placement.counting import Count, best_count
from opyard.placement.flat import Flat
from opyard.placement.levels import Levels, Room
from opyard.placement.limited import Fit
from opyard.placement.memory import Residency, limits_of
from opyard.placement.network import Network
from opyard.placement.place import formulate
from opyard.placement.pricing import GRAIN, Pricing
from opyard.placement.problem import Problem
from opyard.placement.solver import Effort, solve
from opyard.selection import Policy
from opyard.testing import NullDevice, ScriptedCosts, add_null_backend, prepare_null
from opyard.units import format_bytes, parse_bytes

KB = 1000
SPEC = oy.TensorSpec((250,), "float32")  # 1 kB
WEIGHT = np.ones((250, 250), np.float32)  # 250 kB
COSTS = ScriptedCosts(
    {"null/null": 1e-6, "reference/reference": 1e-3},
    {("reference", "null:0"): 1e-5, ("null:0", "reference"): 1e-5},
)


def place(graph: oy.Graph, memory: Any, **options: Any) -> oy.Placement:
    registry = oy.standard_registry()
    add_null_backend(registry, NullDevice("null:0"), ops=["exp", "abs", "sin", "add", "matmul"])
    return oy.place(graph, registry.devices(), registry, COSTS, policy=Policy(), memory=memory, **options)


def layers(count: int) -> oy.Graph:
    """Products with weights of their own: two tensors of 1 kB at a time, 250 kB more for each layer."""
    with oy.Graph() as graph:
        x: Any = graph.input("x", SPEC)
        for _ in range(count):
            x = oy.matmul(x, graph.constant(WEIGHT.copy()))
        graph.output("y", x)
    return graph


def peak(placement: oy.Placement, device: str) -> int:
    return next((use.peak_bytes for use in placement.memory if use.device == device), 0)


def where(placement: oy.Placement) -> list[str]:
    return [decision.chosen.device.name for decision in placement.decisions]


# What is counted -------------------------------------------------------------------------------------------------


def test_weights_last_and_tensors_live_until_they_are_read() -> None:
    found = place(layers(4), None)
    assert where(found) == ["null:0"] * 4
    assert peak(found, "null:0") == 4 * 250 * KB + 2 * KB
    assert peak(found, "reference") == 2 * KB  # the feed and the fetch
    assert found.accuracy == "exact"


def test_an_input_that_is_read_late_stays() -> None:
    with oy.Graph() as graph:
        x: Any = graph.input("x", SPEC)
        y = oy.exp(x)
        z = oy.sin(oy.abs(y))
        graph.output("z", oy.add(z, y))
    found = place(graph, None)
    assert where(found) == ["null:0"] * 4
    assert peak(found, "null:0") == 3 * KB


def test_memory_that_is_shared_is_counted_once() -> None:
    registry = oy.standard_registry()
    add_null_backend(registry, NullDevice("null:0", memory="a"), ops=["exp"])
    add_null_backend(registry, NullDevice("other:0", memory="a"), ops=["abs"])
    costs = ScriptedCosts({"null/null": 1e-6, "other/null": 1e-6, "reference/reference": 1.0})
    with oy.Graph() as graph:
        graph.output("y", oy.abs(oy.exp(graph.input("x", SPEC))))
    found = oy.place(graph, registry.devices(), registry, costs, policy=Policy(), memory={"other:0": 3 * KB})
    assert where(found) == ["null:0", "other:0"]
    (use,) = (use for use in found.memory if use.device != "reference")
    assert (use.device, use.peak_bytes, use.limit_bytes) == ("null:0", 2 * KB, 3 * KB)


# Limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fitting", range(5))
def test_as_many_layers_as_fit_are_placed(fitting: int) -> None:
    found = place(layers(4), {"null:0": fitting * 250 * KB + 2 * KB})
    assert where(found).count("null:0") == fitting
    assert peak(found, "null:0") <= fitting * 250 * KB + 2 * KB
    assert found.is_optimal
    assert found.accuracy == ("exact" if fitting == 4 else "estimate")


def test_a_limit_that_does_not_bind_changes_nothing() -> None:
    free, found = place(layers(4), None), place(layers(4), {"null:0": "1GB"})
    assert found.seconds == free.seconds
    assert [d.to_json() for d in found.decisions] == [d.to_json() for d in free.decisions]
    (use,) = (use for use in found.memory if use.limit_bytes is not None)
    assert str(use) == "memory of null:0: 1 MB of 1 GB, at matmul"
    assert use.seconds_per_byte == 0


def test_what_a_byte_more_is_worth() -> None:
    found = place(layers(8), {"null:0": 3 * 250 * KB + 2 * KB})
    (use,) = (use for use in found.memory if use.limit_bytes is not None)
    assert 0 < use.seconds_per_byte * 250 * KB < 2e-3
    assert "; a megabyte more would save about " in str(found)
    assert "a memory limit binds: the times of alternatives are estimates" in str(found)
    assert found.bound <= found.seconds


def test_the_same_limits_give_the_same_placement() -> None:
    first, second = (place(layers(7), {"null:0": "1.1MB"}).to_json() for _ in range(2))
    assert json.dumps(first) == json.dumps(second)


PROGRAM = """
import json, sys
sys.path[:0] = [{folder!r}, {tests!r}]
import test_memory
with test_memory.oy.Graph() as graph:
    x = graph.input("x", test_memory.SPEC)
    for width in (3, 1, 2, 5, 1, 4):
        tall = test_memory.oy.matmul(x, graph.constant(test_memory.np.ones((250, 250 * width), "float32")))
        x = test_memory.oy.matmul(tall, graph.constant(test_memory.np.ones((250 * width, 250), "float32")))
    graph.output("y", x)
by_room = test_memory.Effort(parts=0, offspring=4, rooms=10, room_gap=0.0)
for effort in (None, by_room):
    print(json.dumps(test_memory.place(graph, {{"null:0": "3.7MB"}}, effort=effort).to_json()))
"""


def test_another_process_with_another_hash_seed_places_alike() -> None:
    here = Path(__file__).parent
    program = PROGRAM.format(folder=str(here), tests=str(here.parent))
    found = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert found[0] == found[1]
    assert [json.loads(line)["accuracy"] for line in found[0].splitlines()] == ["estimate"] * 2


@limits(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=9), st.floats(0.0, 1.2))
def test_limits_are_kept_and_the_bound_is_one(widths: list[int], part: float) -> None:
    with oy.Graph() as graph:
        x: Any = graph.input("x", SPEC)
        for width in widths:
            tall = oy.matmul(x, graph.constant(np.ones((250, 250 * width), np.float32)))
            x = oy.matmul(tall, graph.constant(np.ones((250 * width, 250), np.float32)))
        graph.output("y", x)
    free = place(graph, None)
    limit = int(part * peak(free, "null:0"))
    found = place(graph, {"null:0": limit})
    assert peak(found, "null:0") <= limit
    assert free.seconds <= found.bound <= found.seconds


# Running ---------------------------------------------------------------------------------------------------------


class CountingDevice(NullDevice):
    """Counts the bytes of its arrays that are alive."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.alive = self.most = 0

    def upload(self, array: np.ndarray[Any, Any]) -> Any:
        made = super().upload(array)
        self.alive += array.nbytes
        self.most = max(self.most, self.alive)
        weakref.finalize(made, self._gone, array.nbytes)
        return made

    def _gone(self, nbytes: int) -> None:
        self.alive -= nbytes


def test_a_run_keeps_no_more_than_was_allowed() -> None:
    registry = oy.standard_registry()
    (device,) = add_null_backend(registry, CountingDevice("null:0"))
    registry.kernel("matmul", backend="null", name="null", prepare=prepare_null)
    graph = layers(5)
    limit = 3 * 250 * KB + 2 * KB
    session = oy.Session(graph, registry=registry, costs=COSTS, memory={"null:0": limit})
    placement = session.explain("y", {"x": SPEC})
    assert where(placement).count("null:0") == 3
    assert session.run("y", {"x": np.full(250, 1e-9, np.float32)})[0] == pytest.approx(1e-9 * 250**5)
    assert isinstance(device, CountingDevice)
    assert 3 * 250 * KB < device.most <= limit


def test_the_session_and_compiled_functions_take_limits() -> None:
    registry = oy.standard_registry()
    add_null_backend(registry, NullDevice("null:0"), ops=["matmul"])
    options: Any = {"registry": registry, "costs": COSTS, "memory": {"null:0": "400kB"}}
    function = oy.compile(lambda x: oy.matmul(oy.matmul(x, WEIGHT), WEIGHT + 1), **options)
    found = function.explain(np.ones(250, np.float32))
    assert sorted(where(found)) == ["null:0", "reference"]
    assert [binding.constraint for binding in found.bindings] == ["memory limits"]
    assert found.bindings[0].seconds == pytest.approx(1e-3, rel=0.1)
    assert oy.compile(**options)(lambda x: oy.exp(x)).memory == {"null:0": "400kB"}


# Errors ----------------------------------------------------------------------------------------------------------


def test_a_limit_below_the_least_is_explained() -> None:
    with oy.Graph() as graph, oy.device("null:0"):
        graph.output("y", oy.matmul(graph.input("x", SPEC), graph.constant(WEIGHT)))
    text = (
        r"^no placement keeps within the memory limits: the nearest needs 252 kB on null:0 at matmul "
        r"\(test_memory.py:\d+\), and the limit is 100 kB. Raise the limit of null:0, or add a device that can take a part "
        r"of the graph \(devices='auto' takes all\)\.$"
    )
    with pytest.raises(PlacementError, match=text):
        place(graph, {"null:0": "100kB"})


def test_home_can_be_limited_too() -> None:
    with pytest.raises(PlacementError, match=r"no placement keeps .* needs 2 kB on reference at matmul"):
        place(layers(2), {"reference": 1999, "null:0": "1MB"})
    assert where(place(layers(2), {"reference": 2000, "null:0": "1MB"})) == ["null:0", "null:0"]


@pytest.mark.parametrize(
    ("memory", "text"),
    [
        (
            {"cuda:0": 1},
            r"a memory limit names 'cuda:0', which is not among the devices to place on: null:0, reference\.",
        ),
        ({"nul:0": 1}, r"Did you mean null:0\?"),
        (
            {"null:0": "much"},
            r"the memory limit of null:0: 'much' is no size in bytes; write a whole number, or for example '512MB'",
        ),
        ({"null:0": True}, r"the memory limit of null:0: True is no size in bytes"),
        ({"null:0": -1}, r"the memory limit of null:0 is -1 bytes; write a positive number"),
    ],
)
def test_limits_that_cannot_be_meant(memory: Any, text: str) -> None:
    with pytest.raises(PlacementError, match=text):
        place(layers(1), memory)
    registry = oy.standard_registry()
    add_null_backend(registry, NullDevice("null:0"))
    with pytest.raises(PlacementError, match=text):
        oy.Session(layers(1), registry=registry, memory=memory)


# Numbers for people ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("12", 12),
        (7, 7),
        ("1.5kB", 1500),
        ("2 MB", 2 * 10**6),
        ("3GiB", 3 * 2**30),
        ("1tb", 10**12),
        ("9B", 9),
    ],
)
def test_sizes(text: Any, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "MB", "1 potato", "-3", "1e9", "1 KiBB", None, 1.5j])
def test_what_is_no_size(text: Any) -> None:
    with pytest.raises(ValueError, match="is no size in bytes"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2e6, "2 MB"), (3.21e12, "3.21 TB")]
)
def test_bytes_for_people(count: float, text: str) -> None:
    assert format_bytes(count) == text


def test_where_a_limit_binds_prices_are_estimates_whatever_a_byte_costs() -> None:
    """Also where the best bound was found at no price at all: they are nanoseconds, as everywhere."""
    network = Network()
    network.add_variable([GRAIN * 5.0, GRAIN * 2.0])
    fit = Fit([0], 5.0, 2.0, np.zeros((1, 1)), solve(network), binds=True)
    assert fit.accuracy == "estimate"
    np.testing.assert_array_equal(fit.prices()[0], [3.0, 0.0])


# Room for a time ------------------------------------------------------------------------------------------------


def residual(count: int) -> oy.Graph:
    """Blocks that add what went in: three tensors of 1 kB at the end of each."""
    with oy.Graph() as graph:
        x: Any = graph.input("x", SPEC)
        for _ in range(count):
            x = oy.add(oy.matmul(oy.exp(x), graph.constant(WEIGHT.copy())), x)
        graph.output("y", x)
    return graph


def limited_problem(graph: oy.Graph) -> tuple[Problem, Residency]:
    registry = oy.standard_registry()
    add_null_backend(registry, NullDevice("null:0"), ops=["exp", "add", "matmul"])
    devices = registry.devices()
    problem, *_ = formulate(graph, devices, registry, COSTS, policy=Policy())
    return problem, Residency(problem, limits_of({"null:0": "300kB"}, devices, problem.places))


def test_each_way_to_run_a_node_tells_what_room_it_needs() -> None:
    problem, residency = limited_problem(residual(2))
    levels = Levels(problem.network, residency)
    for node, number in problem.number.items():
        on_null = [same[0].candidate.device.name == "null:0" for same in problem.options[number].choices]
        needs = {"exp": 2, "matmul": 2, "add": 3}[node.op.name] * KB
        assert levels.needed[number][0, on_null].tolist() == [needs]
    assert levels.steps[0].tolist()[-1] == 3 * KB


@limits(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(0, 1000))
def test_no_placement_needs_less_room_than_its_labels_tell(count: int, seed: int) -> None:
    problem, residency = limited_problem(residual(count))
    levels, random = Levels(problem.network, residency), np.random.default_rng(seed)
    labels = solve(
        problem.network.with_unary([c + random.integers(0, 10**7, len(c)) for c in problem.network.unary])
    ).labels
    usage = residency.usage(labels)
    assert levels.peaks(labels) <= (usage - usage[:, -1:]).max(axis=1)


@pytest.mark.parametrize("limit", [0, 251, 253, 503, 505])
def test_dividing_by_room_finds_and_proves_what_dividing_by_labels_does(limit: int) -> None:
    memory = {"null:0": limit * KB}
    exact = place(residual(4), memory, effort=Effort(memory_gap=0.0))
    assert exact.is_optimal
    by_room = place(residual(4), memory, effort=Effort(memory_gap=0.0, parts=0, offspring=2, room_gap=0.0))
    assert by_room.seconds == exact.seconds and by_room.is_optimal
    assert json.loads(json.dumps(by_room.to_json()))["optimal"] is True  # plain numbers, no NumPy's


def test_weights_that_leave_too_little_room_are_forbidden() -> None:
    problem, residency = limited_problem(residual(1))
    levels = Levels(problem.network, residency)
    matmul = next(number for node, number in problem.number.items() if node.op.name == "matmul")
    on_null = levels.kept[matmul][0] == 250 * KB
    assert on_null.any()
    assert not on_null.all()
    for low, fits in ((50 * KB, True), (51 * KB, False)):
        room = Room(np.array([float(low)]), np.array([np.inf]))
        left = np.isfinite(levels.within(problem.network, room).unary[matmul])
        assert left[on_null].all() == fits
        assert left[~on_null].all()


# Counting --------------------------------------------------------------------------------------------------------


@limits(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(0, 5), st.integers(0, 1000))
def test_counting_finds_the_best_of_what_is_allowed(widths: list[int], most: int, seed: int) -> None:
    """Against all ways to choose which weights lie on the device; bytes are rounded down to units of 200 kB."""
    with oy.Graph() as graph:
        x: Any = graph.input("x", SPEC)
        for width in widths:
            shape = (x.spec.shape[0], 250 * width)
            x = oy.matmul(x, graph.constant(np.ones(shape, np.float32)))
        graph.output("y", x)
    problem, residency = limited_problem(graph)
    random = np.random.default_rng(seed)
    network = problem.network.with_unary(
        [c + random.integers(0, 10**6, len(c)) for c in problem.network.unary]
    )
    count = Count(0, 200.0 * KB, most)
    units, free = count.units(residency), np.zeros_like(residency.fixed)
    pricing = Pricing(network, residency, Effort(), count)
    found = pricing.solve(network, free)
    assert len(found.labels) == len(network.unary)
    assert found.cost == GRAIN * network.cost(found.labels)
    assert units @ residency.holding(found.labels) <= most
    best = np.inf
    for there in product((False, True), repeat=len(widths)):
        unary = list(network.unary)
        for number, on_null in enumerate(there):
            is_null = problem.spaces(number) != problem.places.of(problem.homes.home)
            unary[number] = np.where(is_null == on_null, unary[number], np.inf)
        solution = solve(network.with_unary(unary))
        if units @ residency.holding(solution.labels) <= most:
            best = min(best, solution.cost)
    assert found.cost == GRAIN * best


def test_what_is_counted_is_what_solutions_exceed() -> None:
    problem, residency = limited_problem(layers(4))
    labels = solve(problem.network).labels  # all four lie on the device, which may keep one
    room, worth = np.array([2.0 * KB]), np.ones(1)
    assert best_count(residency, room, [(labels, 1.0)], worth) == Count(0, 250.0 * KB, 1)
    assert best_count(residency, room + 50 * KB, [(labels, 1.0)], worth) == Count(0, 250.0 * KB, 0)
    at_home = solve(
        problem.network.with_unary(
            [
                np.where(problem.spaces(number) == problem.places.of(problem.homes.home), costs, np.inf)
                for number, costs in enumerate(problem.network.unary)
            ]
        )
    ).labels
    assert best_count(residency, room, [(at_home, 1.0)], worth) is None


# Arrays of costs -------------------------------------------------------------------------------------------------


def test_a_network_in_one_array_costs_the_same() -> None:
    problem, residency = limited_problem(residual(3))
    network, flat = problem.network, Flat(problem.network)
    labels = solve(network).labels
    alone, pairs = flat.parts(np.array(labels))
    assert alone.sum() + pairs.sum() == network.cost(labels)
    twice = flat.network_of(2 * flat.costs)
    assert twice.cost(labels) == 2 * network.cost(labels)
    assert list(twice.tables) == list(network.tables)
    positions, owners = flat.positions(residency.terms)
    added = flat.costs + np.bincount(positions, residency.nbytes[owners], len(flat.costs))
    kept = float(residency.nbytes @ residency.holding(labels))
    assert kept > 0
    assert flat.network_of(added).cost(labels) == network.cost(labels) + kept


# The bundle method -----------------------------------------------------------------------------------------------


@limits(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 100), st.integers(-20, 20), st.integers(-20, 20)), min_size=1, max_size=6
    )
)
def test_the_bundle_finds_the_maximum_of_the_lowest_plane(planes: list[tuple[int, int, int]]) -> None:
    """Against a fine grid of prices; a plane that slopes downwards bounds the function."""
    planes = [*planes, (120, -10, -10)]
    grid = np.linspace(0.0, 12.0, 121)
    first, second = np.meshgrid(grid, grid)
    best = min(c + a * first + b * second for c, a, b in planes[:1])
    for c, a, b in planes[1:]:
        best = np.minimum(best, c + a * first + b * second)
    bundle = Bundle(np.zeros((2, 1)))
    for _ in range(200):
        x, y = bundle.trial.ravel()
        values = [c + a * x + b * y for c, a, b in planes]
        lowest = int(np.argmin(values))
        c, a, b = planes[lowest]
        bundle.add(values[lowest], [lowest], float(c), np.array([[float(a)], [float(b)]]))
        if bundle.is_done:
            break
    assert bundle.bound >= best.max() - 0.05 * max(1.0, abs(best.max()))


@limits(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 8), st.integers(0, 10**6), st.floats(-14, -6))
def test_the_next_prices_are_the_best_by_their_own_proof(
    planes: int, columns: int, seed: int, reach: float
) -> None:
    """The weights prove the prices: what their mean can reach at most is what the lowest plane reaches there."""
    random = np.random.default_rng(seed)
    costs = 1e6 + 1e4 * random.standard_normal(planes)
    slopes = 1e5 * random.standard_normal((planes, columns))
    centre = np.maximum(0.0, 1e-3 * random.standard_normal(columns))
    prices, weights = proximal.step(costs, slopes, centre, 10.0**reach)

    def penalty(at: np.ndarray[Any, Any]) -> float:
        return float(((at - centre) ** 2).sum()) / (2 * 10.0**reach)

    assert (prices >= 0).all()
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1.0)
    lowest = float((costs + slopes @ prices).min()) - penalty(prices)
    ideal = np.maximum(0.0, centre + 10.0**reach * (weights @ slopes))
    highest = float(weights @ (costs + slopes @ ideal)) - penalty(ideal)
    values = costs + slopes @ centre
    unit = max(float(np.ptp(values)), 10.0**reach * float(np.abs(slopes).max()) ** 2)
    assert abs(highest - lowest) <= 1e-6 * unit

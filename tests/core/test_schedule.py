"""Schedules: no processor does two things at once, nothing begins before its inputs are there, and work overlaps where it can."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from hosts import HostDevice, add_host
from opyard.driver import HOST
from opyard.errors import PlacementError
from opyard.placement.makespan import Search, earliest_end, processors_of
from opyard.placement.ordering import in_order
from opyard.placement.place import formulate
from opyard.placement.places import NANOSECONDS
from opyard.placement.problem import Problem
from opyard.placement.schedule import Schedule, Scheduler, Task
from opyard.placement.solver import Effort, solve
from opyard.plan import Copy, Run
from opyard.selection import Policy
from opyard.testing import NullArray, NullDevice, ScriptedCosts, add_null_backend

SPEC = oy.TensorSpec((4,), "float32")
UNARY = ("negative", "abs", "exp", "sin")
OPS = (*UNARY, "add", "multiply")
NAMES = ("null:0", "null:1")


def accelerators(*names: str, **facts: Any) -> tuple[oy.Registry, list[oy.Device]]:
    """The reference and null devices, whose processors are their own."""
    registry = oy.standard_registry()
    add_null_backend(registry, *(NullDevice(name) for name in names or NAMES), ops=OPS, **facts)
    return registry, list(registry.devices())


def costs_of(kernels: dict[str, float], copy: float, *names: str) -> ScriptedCosts:
    ends = ("reference", *(names or NAMES))
    return ScriptedCosts(kernels, {(a, b): copy for a in ends for b in ends if a != b})


def random_graph(random: Random, nodes: int) -> oy.Graph:
    """Unary and binary ops of earlier values, a constant among them; what nothing reads is fetched."""
    with oy.Graph() as graph:
        values: list[Any] = [graph.input("x", SPEC), graph.input("y", SPEC)]
        values.append(graph.constant(np.ones(4, np.float32)))
        for _ in range(nodes):
            name = random.choice(OPS)
            inputs = random.choices(values[-6:], k=1 if name in UNARY else 2)
            values.append(getattr(oy, name)(*inputs))
        read = {value for node in graph.nodes for value in node.inputs}
        for number, value in enumerate(v for n in graph.nodes for v in n.outputs if v not in read):
            graph.output(f"out{number}", value)
    return graph


def random_problem(seed: int, nodes: int, *names: str) -> Problem:
    random = Random(seed)
    registry, devices = accelerators(*names)
    seconds = {f"{op} {kernel}": random.randint(1, 60) * 1e-6 for op in OPS for kernel in KERNELS}
    return formulate(
        random_graph(random, nodes),
        devices,
        registry,
        costs_of(seconds, random.randint(1, 20) * 1e-6),
        policy=Policy(),
    )[0]


KERNELS = ("null/null", "reference/reference")


def random_tasks(problem: Problem, seed: int) -> tuple[Scheduler, list[Task], float]:
    """Any kernel for each node, with the cost of that in nanoseconds."""
    random = Random(seed)
    network = problem.network
    labels = [random.randrange(len(options.costs)) for options in problem.options]
    labels += [0] * (len(network.unary) - len(labels))
    for variable in range(len(problem.options), len(labels)):
        labels[variable] = int(
            np.argmin(network.costs_towards(variable, network.neighbours[variable], labels))
        )
    ordered, stuck = in_order(problem, labels)
    assert not stuck
    scheduler = Scheduler(problem.graph, problem.places, problem.homes)
    return scheduler, [scheduler.task(c.match, c.candidate) for c in ordered], network.cost(labels)


def check_laws(problem: Problem, schedule: Schedule, tasks: Sequence[Task]) -> None:
    """The laws of a schedule, from its spans and the graph alone."""
    by_processor: dict[str, list[tuple[float, float]]] = {}
    for span in schedule.spans:
        assert 0 <= span.start <= span.end <= schedule.seconds
        for processor in span.processors:
            by_processor.setdefault(processor, []).append((span.start, span.end))
    for rows in by_processor.values():
        assert all(before[1] <= after[0] for before, after in pairwise(rows))
    there = {(value, HOST): 0.0 for value in problem.graph.inputs.values()}
    issued = 0.0  # the host's thread is free from then on
    for span in schedule.spans:
        assert span.start >= issued
        if span.match is None:
            assert span.value is not None
            assert {HOST, span.source.processor, span.device.processor} == set(span.processors)
            assert span.start >= there[span.value, span.source.memory]
            assert (span.value, span.device.memory) not in there, "brought twice"
            there[span.value, span.device.memory] = span.end
        else:
            assert span.processors == (span.device.processor,)
            for value in span.match.inputs:
                if value is not None and value not in problem.graph.constants:
                    assert span.start >= there[value, span.device.memory]
            there.update({(value, span.device.memory): span.end for value in span.match.outputs})
        if HOST in span.processors:
            issued = span.end
    assert all((value, HOST) in there for value in problem.graph.outputs.values())
    assert {id(span.match) for span in schedule.spans if span.match} == {id(task.match) for task in tasks}
    assert schedule.busy == pytest.approx(
        {name: sum(end - start for start, end in rows) for name, rows in sorted(by_processor.items())}
    )


# Schedules -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30))
def test_schedules_keep_the_laws(seed: int, nodes: int) -> None:
    problem = random_problem(seed, nodes)
    scheduler, tasks, cost = random_tasks(problem, seed)
    listed, end = scheduler.order(tasks)
    assert scheduler.nanoseconds(listed) == end
    least = earliest_end(problem, solve(problem.network).bound, len(processors_of(problem)))
    for order in (tasks, listed):
        schedule = scheduler.schedule(order)
        check_laws(problem, schedule, order)
        assert schedule.seconds * NANOSECONDS == pytest.approx(scheduler.nanoseconds(order))
        assert least <= schedule.seconds * NANOSECONDS + 1e-3
        total = sum(span.end - span.start for span in schedule.spans)
        assert schedule.seconds <= total + 1e-12
        assert total * NANOSECONDS >= cost - 1e-3
    assert [t.match for t in scheduler.order(tasks)[0]] == [t.match for t in listed]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20))
def test_one_processor_takes_as_long_as_all_its_steps(seed: int, nodes: int) -> None:
    random = Random(seed)
    registry = oy.standard_registry()
    add_host(registry, "toy")
    for op in OPS:
        registry.kernel(op, backend="toy", name="toy", load=getattr(np, op))
    kernels = {
        f"{op} {kernel}": random.randint(1, 60) * 1e-6 for op in OPS for kernel in ("toy/toy", KERNELS[1])
    }
    graph, devices = random_graph(random, nodes), registry.devices()
    placement = oy.place(
        graph, devices, registry, ScriptedCosts(kernels), policy=Policy(), objective="makespan"
    )
    assert placement.schedule is None
    assert (placement.makespan, placement.makespan_bound) == (placement.seconds, placement.bound)
    assert placement.makespan_gap == placement.gap
    problem = formulate(graph, devices, registry, ScriptedCosts(kernels), policy=Policy())[0]
    scheduler, tasks, cost = random_tasks(problem, seed)
    assert scheduler.nanoseconds(tasks) == scheduler.order(tasks)[1] == cost


def test_a_queued_kernel_begins_when_it_is_issued_and_holds_nothing() -> None:
    """Two kernels of 10 us on two devices, with copies of 1 us: the second copy waits for the thread alone."""
    registry, devices = accelerators()
    with oy.Graph() as graph:
        x = graph.input("x", SPEC)
        for number, name in enumerate(NAMES):
            with oy.device(name):
                graph.output(f"y{number}", oy.exp(x))
    costs = costs_of({"null/null": 10e-6}, 1e-6)
    placement = oy.place(graph, devices, registry, costs, policy=Policy())
    assert placement.schedule is not None
    rows = [
        (s.what, s.device.name, round(s.start * 1e6), round(s.end * 1e6)) for s in placement.schedule.spans
    ]
    assert rows == [
        *(("x", "null:0", 0, 1), ("exp", "null:0", 1, 11)),
        *(("x", "null:1", 1, 2), ("exp_2", "null:1", 2, 12)),
        *(("exp", "reference", 11, 12), ("exp_2", "reference", 12, 13)),
    ]
    assert placement.makespan == pytest.approx(13e-6)
    assert placement.seconds == pytest.approx(24e-6)
    assert placement.schedule.busy == pytest.approx({"host": 4e-6, "null:0": 12e-6, "null:1": 12e-6})


# Processors ------------------------------------------------------------------------------------------------------


def test_devices_of_kind_cpu_share_the_processor_of_the_host() -> None:
    assert HostDevice("toy:0").processor == HOST
    assert oy.standard_registry().device("reference").processor == HOST
    assert NullDevice("null:0").processor == "null:0"


def test_a_device_whose_kernels_hold_the_caller_says_so() -> None:
    class Blocking(NullDevice):
        processor = HOST

    registry = oy.standard_registry()
    add_null_backend(registry, Blocking("null:0"), ops=OPS)
    placement = oy.place(
        oy.trace(oy.exp, SPEC),
        registry.devices(),
        registry,
        costs_of({"null/null": 1e-6, "reference/reference": 9e-6}, 1e-6, "null:0"),
        policy=Policy(),
    )
    assert placement.schedule is None
    assert placement.makespan == placement.seconds == pytest.approx(3e-6)


def test_devices_with_one_memory_and_two_processors_share_the_work() -> None:
    registry = oy.standard_registry()
    add_null_backend(registry, *(NullDevice(name, memory="shared") for name in NAMES), ops=OPS)
    costs = costs_of({"null/null": 50e-6, "reference/reference": 900e-6}, 1e-6)
    graph = branches(2, 3)
    placement = oy.place(graph, registry.devices(), registry, costs, policy=Policy(), objective="makespan")
    assert {d.chosen.device.name for d in placement.decisions} == set(NAMES)
    assert placement.makespan < 0.7 * placement.seconds


# The search ------------------------------------------------------------------------------------------------------


def branches(count: int, length: int) -> oy.Graph:
    """Chains from one input, joined by additions: tensor parallel layers in small."""
    with oy.Graph() as graph:
        x = graph.input("x", SPEC)
        ends: list[Any] = []
        for _ in range(count):
            y: Any = x
            for number in range(length):
                y = getattr(oy, UNARY[number % len(UNARY)])(y)
            ends.append(y)
        total = ends[0]
        for end in ends[1:]:
            total = oy.add(total, end)
        graph.output("total", total)
    return graph


def place_branches(**options: Any) -> oy.Placement:
    registry, devices = accelerators()
    costs = costs_of({"null/null": 50e-6, "reference/reference": 900e-6}, 5e-6)
    return oy.place(branches(2, 4), devices, registry, costs, policy=Policy(), **options)


def test_branches_are_split_over_two_accelerators() -> None:
    least = place_branches()
    assert len({d.chosen.device.name for d in least.decisions}) == 1
    assert least.is_optimal
    assert least.seconds == pytest.approx(9 * 50e-6 + 2 * 5e-6)
    soon = place_branches(objective="makespan")
    assert {d.chosen.device.name for d in soon.decisions} == set(NAMES)
    assert soon.makespan < 0.65 * least.makespan
    assert soon.seconds > least.seconds
    assert soon.bound == least.bound
    assert not soon.is_optimal
    assert soon.makespan_bound <= soon.makespan
    assert soon.makespan_gap == pytest.approx(1 - soon.makespan_bound / soon.makespan)


def test_where_nothing_is_won_the_least_sum_is_kept() -> None:
    registry, devices = accelerators()
    costs = costs_of({"null/null": 50e-6, "reference/reference": 60e-6}, 500e-6)
    graph = branches(2, 4)
    plain = oy.place(graph, devices, registry, costs, policy=Policy())
    soon = oy.place(graph, devices, registry, costs, policy=Policy(), objective="makespan")
    assert soon.is_optimal
    assert str(soon) == str(plain)
    assert "as devices work at the same time" not in str(soon)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 16))
def test_the_search_never_ends_later_and_its_bounds_hold(seed: int, nodes: int) -> None:
    problem = random_problem(seed, nodes)
    solution = solve(problem.network)
    ordered, _ = in_order(problem, solution.labels)
    search = Search(problem, lambda order: True)
    start = search.arranged(solution.labels, ordered, solution.cost)
    assert start.end <= search.arranged(solution.labels, ordered, solution.cost).end
    found = search.improved(start, 2000)
    assert found.end <= start.end <= solution.cost
    assert found.cost >= solution.cost
    assert found.cost == problem.network.cost(found.labels)
    least = earliest_end(problem, solution.bound, len(processors_of(problem)))
    assert least <= found.end
    schedule = search.schedule(found)
    check_laws(problem, schedule, [search.task(choice) for choice in found.ordered])
    assert schedule.seconds == found.end / NANOSECONDS
    again = Search(problem, lambda order: True).improved(start, 2000)
    assert (again.labels, again.end) == (found.labels, found.end)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_tiny_graphs_are_not_bounded_too_high(seed: int, nodes: int) -> None:
    """The bound is below the best order in graph order of every assignment."""
    problem = random_problem(seed, nodes)
    least = earliest_end(problem, solve(problem.network).bound, len(processors_of(problem)))
    for number in range(60):
        scheduler, tasks, _ = random_tasks(problem, number)
        assert least <= scheduler.nanoseconds(tasks)


def test_no_effort_means_no_search() -> None:
    assert (
        place_branches(objective="makespan", effort=Effort(tasks=0)).makespan
        >= place_branches(objective="makespan").makespan
    )


def test_an_order_that_exceeds_memory_limits_is_not_used() -> None:
    problem = random_problem(7, 25)
    solution = solve(problem.network)
    ordered, _ = in_order(problem, solution.labels)
    asked: list[Any] = []

    def refuse(order: Sequence[Any]) -> bool:
        asked.append(order)
        return False

    search = Search(problem, refuse)
    start = search.arranged(solution.labels, ordered, solution.cost)
    assert start.ordered == ordered
    assert search.improved(start, 5000) is start
    assert asked


def test_placements_within_memory_limits_stay_within() -> None:
    """Each branch has tensors of 16 bytes; splitting would need room on the other device."""
    free = place_branches(objective="makespan")
    assert len({d.chosen.device.name for d in free.decisions}) == 2
    tight = place_branches(objective="makespan", memory={"null:1": 15})
    assert {d.chosen.device.name for d in tight.decisions} <= {"null:0", "reference"}
    roomy = place_branches(objective="makespan", memory={"null:1": 160})
    assert roomy.makespan == free.makespan


@pytest.mark.parametrize(
    "use",
    [
        lambda word: place_branches(objective=word),
        lambda word: oy.Session(branches(1, 1), objective=word),
        lambda word: oy.compile(oy.exp, objective=word),
    ],
)
def test_unknown_objectives_are_explained(use: Callable[[str], Any]) -> None:
    with pytest.raises(PlacementError, match=r"^objective is 'sum' or 'makespan'; found 'time'\.$"):
        use("time")


# For people and programs -----------------------------------------------------------------------------------------


def test_an_explanation_tells_both_times_apart() -> None:
    soon = place_branches(objective="makespan")
    first, note, *rest = str(soon).splitlines()
    assert (
        first
        == soon.summary
        == (
            f"predicted {soon.makespan * 1e6:.3g} us as devices work at the same time, "
            f"at most {soon.makespan_gap:.2%} later than the earliest end; "
            f"{soon.seconds * 1e6:.3g} us of work in sum, at most {soon.gap:.2%} more than the least; "
            "feeds and fetches live on reference"
        )
    )
    assert note == "the times of alternatives are about the sum, not about the end"
    assert any(
        ": ends sooner than with null/null on null:" in row and row.endswith("more work") for row in rest
    )


def test_the_least_sum_stays_proven_where_its_steps_overlap() -> None:
    registry, devices = accelerators()
    with oy.Graph() as graph:
        x = graph.input("x", SPEC)
        for number, name in enumerate(NAMES):
            with oy.device(name):
                graph.output(f"y{number}", oy.exp(x))
    placement = oy.place(graph, devices, registry, costs_of({"null/null": 10e-6}, 1e-6), policy=Policy())
    assert placement.is_optimal
    assert "; 24 us of work in sum, proven to be the least; " in placement.summary


def test_json_has_the_schedule() -> None:
    soon = place_branches(objective="makespan")
    found = json.loads(json.dumps(soon.to_json()))
    assert found == soon.to_json()
    assert (found["makespan"], found["makespan_bound"]) == (soon.makespan, soon.makespan_bound)
    steps = found["schedule"]["steps"]
    assert [step["what"] for step in steps if step["step"] == "run"] == [d.node.name for d in soon.decisions]
    assert {step["step"] for step in steps} == {"run", "copy"}
    assert found["schedule"]["busy"].keys() == {"host", *NAMES}


def two_halves(x: Any) -> Any:
    """Two branches that differ, so that none is computed for both."""
    return oy.add(oy.exp(oy.abs(oy.exp(x))), oy.sin(oy.negative(oy.sin(x))))


def test_sessions_and_compiled_functions_place_by_their_objective() -> None:
    registry, _ = accelerators()
    costs = costs_of({"null/null": 50e-6, "reference/reference": 900e-6}, 5e-6)
    x = np.ones(4, np.float32)
    ends = []
    for objective in ("sum", "makespan"):
        function = oy.compile(two_halves, registry=registry, costs=costs, objective=objective)
        session = oy.Session(oy.trace(two_halves, SPEC), registry=registry, costs=costs, objective=objective)
        placement = function.explain(x)
        assert placement.objective == objective
        assert placement.minimised == (placement.seconds if objective == "sum" else placement.makespan)
        assert session.explain(session.graph.result, {"x": x}).makespan == placement.makespan
        assert np.allclose(function(x), two_halves(x))
        assert np.allclose(session.run(session.graph.result, {"x": x}), two_halves(x))
        ends.append(placement.makespan)
    assert ends[1] < 0.8 * ends[0]


def test_what_pins_cost_is_told_by_what_is_minimised() -> None:
    registry, _ = accelerators()
    costs = costs_of({"null/null": 50e-6, "reference/reference": 900e-6}, 5e-6)

    @oy.device("null:0")
    def pinned(x: Any) -> Any:
        return two_halves(x)

    x = np.ones(4, np.float32)
    free = oy.compile(two_halves, registry=registry, costs=costs, objective="makespan").explain(x)
    held = oy.compile(pinned, registry=registry, costs=costs, objective="makespan").explain(x)
    (binding,) = held.bindings
    assert binding.seconds == pytest.approx(held.makespan - free.makespan)
    (binding,) = oy.compile(pinned, registry=registry, costs=costs).explain(x).bindings
    assert binding.seconds == 0


# Plans -----------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.sampled_from(["sum", "makespan"]))
def test_plans_do_what_the_schedule_says_in_its_order(seed: int, nodes: int, objective: str) -> None:
    random = Random(seed)
    registry, devices = accelerators()
    seconds = {f"{op} {kernel}": random.randint(1, 60) * 1e-6 for op in OPS for kernel in KERNELS}
    costs = costs_of(seconds, random.randint(1, 20) * 1e-6)
    graph = random_graph(random, nodes)
    effort = Effort(tasks=500)
    placement = oy.place(graph, devices, registry, costs, policy=Policy(), objective=objective, effort=effort)
    assert placement.schedule is not None
    plan = oy.make_plan(placement)
    done: list[tuple[object, ...]] = []
    for step in plan.steps:
        if isinstance(step, Run):
            done.append((step.work, step.device))
        elif isinstance(step, Copy):
            done.append((plan.tensors[step.input].value, step.source, step.target))
    assert done == [
        (s.match.work, s.device) if s.match is not None else (s.value, s.source, s.device)
        for s in placement.schedule.spans
    ]
    assert placement.makespan_bound <= placement.makespan <= placement.seconds + 1e-12


class WorkerDevice(NullDevice):
    """Kernels run on a thread of the device, one after the other; arrays are promises."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.worker = ThreadPoolExecutor(1)

    def download(self, array: Any) -> np.ndarray[Any, Any]:
        array.done.result()
        return super().download(array)

    def upload(self, array: np.ndarray[Any, Any]) -> NullArray:
        made: Any = super().upload(array)
        made.done = Future()
        made.done.set_result(None)
        return made


def test_independent_branches_are_issued_before_any_is_waited_for() -> None:
    """The two kernels wait for each other: a plan that fetched the first before it started the second would never end."""
    meeting = threading.Barrier(2, timeout=30)

    def prepare(call: oy.Call, device: Any) -> Callable[..., Any]:
        def run(x: Any) -> Any:
            result: Any = device.upload(np.zeros(4, np.float32))

            def work() -> None:
                meeting.wait()
                x.done.result()
                result._contents[...] = call.reference(x._contents)[0]

            result.done = device.worker.submit(work)
            return result

        return run

    registry = oy.standard_registry()
    devices = [WorkerDevice(name) for name in NAMES]
    add_null_backend(registry, *devices)
    registry.kernel("exp", backend="null", name="worker", prepare=prepare)
    with oy.Graph() as graph:
        x = graph.input("x", SPEC)
        with oy.device("null:0"):
            first = oy.exp(x)
        with oy.device("reference"):
            first = oy.negative(first)  # in the order of the graph this waits for the first kernel
        with oy.device("null:1"):
            second = oy.exp(x)
        graph.output("first", first)
        graph.output("second", second)
    costs = costs_of({"null/worker": 50e-6, "reference/reference": 10e-6}, 1e-6)
    placement = oy.place(graph, registry.devices(), registry, costs, policy=Policy())
    assert [d.chosen.device.name for d in placement.decisions] == ["null:0", "null:1", "reference"]
    session = oy.Session(graph, registry=registry, costs=costs)
    ones = np.ones(4, np.float32)
    found = session.run(["first", "second"], {"x": ones})
    assert np.allclose(found[0], -np.exp(ones))
    assert np.allclose(found[1], np.exp(ones))
    for device in devices:
        device.worker.shutdown()

"""``place``: the cheapest cover of a graph by kernels, and the price of every other choice.

expand composites -> collect candidates -> a network of costs -> its minimum -> decisions in an order that can run, and in
which devices that can work at the same time wait little.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from ..costs import Costs
from ..driver import Device
from ..errors import PlacementError
from ..graph import Graph, Node
from ..passes import simplify
from ..registry import Registry
from ..selection import Candidate, Policy, active_policy
from .candidates import Collector, Ways
from .homes import Homes, Resident
from .limited import Fit
from .makespan import Search, Trial, earliest_end, processors_of
from .match import Match
from .memory import Limits, Residency, limits_of
from .model import Alternative, Decision, Placement
from .ordering import solve_in_order
from .places import NANOSECONDS, Places
from .problem import Choice, Problem
from .schedule import Schedule
from .solver import Effort, Solution, solve
from .wholes import Whole, expand

OBJECTIVES = ("sum", "makespan")


def place(
    graph: Graph,
    devices: Sequence[Device],
    registry: Registry,
    costs: Costs,
    *,
    home: Device | None = None,
    residents: Sequence[Resident] = (),
    policy: Policy | None = None,
    unavailable: Iterable[tuple[str, str]] = (),
    memory: Limits | None = None,
    objective: str = "sum",
    effort: Effort | None = None,
) -> Placement:
    """Assigns every node of a graph with concrete shapes to a kernel on one of the devices, at the least total cost.

    home         the device whose arrays are fed and fetched; the first host device by default
    residents    what lives elsewhere, by the names of inputs and outputs: variables. For those that are free the device
                 is chosen with which a run that begins and ends there takes the least sum of times
    unavailable  (op, backend/kernel) pairs that must not be used
    memory       the most bytes that a run may keep on a device, by its name: a number, or a text such as "2GiB"
    objective    "sum": the least sum of the times of all kernels and copies, proven where that can be; "makespan": where
                 devices can work at the same time, the earliest end, searched for from there
    effort       work to spend where the optimum cannot be computed outright; ``Placement.bound`` tells how near it is
    Composite ops are kept whole or decomposed, whichever is cheaper. The same inputs give the same placement.
    Raises PlacementError, naming the op and every refusal, when a node has no kernel, and for no devices at all.
    """
    check_objective(objective)
    loops = [node for node in graph.nodes if node.call.programs]
    if memory and loops:
        raise PlacementError(
            f"memory limits do not hold inside of branches and loops, and the graph has {loops[0].op.name} ({loops[0].source}); leave out memory=..."
        )
    with _no_collection():
        problem, refused, wholes = formulate(
            *(graph, devices, registry, costs),
            home=home,
            residents=residents,
            policy=policy,
            unavailable=unavailable,
            effort=effort,
        )
        problem = settled(problem, effort)
        limits = limits_of(memory or {}, devices, problem.places)
        residency = Residency(problem, limits) if limits else None
        solution, ordered, bound = solve_in_order(problem, residency, effort)
        found, schedule = _scheduled(problem, residency, solution, ordered, bound, objective, effort)
        placement = _Reader(problem, solution, found, refused).placement(bound)
        if isinstance(solution, Fit) and residency is not None:
            worth = solution.prices_of_bytes.sum(axis=1) / NANOSECONDS
            priced = {space: (limit, float(worth[residency.rows[space]])) for space, limit in limits.items()}
            placement = replace(placement, limits=priced)
        placement = replace(
            placement,
            wholes=tuple(wholes),
            accuracy=solution.accuracy,
            residents=problem.homes.residents,
        )
        return replace(placement, schedule=schedule, objective=objective)


def check_objective(objective: str) -> None:
    """Raises PlacementError for what is no objective."""
    if objective not in OBJECTIVES:
        raise PlacementError(f"objective is {' or '.join(map(repr, OBJECTIVES))}; found {objective!r}.")


def _scheduled(
    problem: Problem,
    residency: Residency | None,
    solution: Fit | Solution,
    ordered: list[Choice],
    bound: float,
    objective: str,
    effort: Effort | None,
) -> tuple[Trial, Schedule | None]:
    """The placement to use, and its schedule where more than one processor can take part."""
    found = Trial(solution.labels, ordered, solution.cost, solution.cost)
    processors = processors_of(problem)
    if len(processors) == 1:
        return found, None
    search = Search(problem, lambda order: residency is None or not residency.excess(order))
    found = search.arranged(solution.labels, ordered, solution.cost)
    if objective == "makespan":
        found = search.improved(found, (effort or Effort()).tasks)
    schedule = search.schedule(found)
    least = 0.0 if problem.is_narrowed else earliest_end(problem, bound, len(processors)) / NANOSECONDS
    return found, replace(schedule, bound=min(least, schedule.seconds))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pauses the garbage collector: it finds nothing in hundreds of thousands of new objects, and looks at them often."""
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()


def formulate(
    graph: Graph,
    devices: Sequence[Device],
    registry: Registry,
    costs: Costs,
    *,
    home: Device | None = None,
    residents: Sequence[Resident] = (),
    policy: Policy | None = None,
    unavailable: Iterable[tuple[str, str]] = (),
    effort: Effort | None = None,
) -> tuple[Problem, dict[Node, Ways], list[Whole]]:
    """What ``place`` solves: the network of costs, for each node the ways to run it that are refused, and the composites."""
    if not devices:
        raise PlacementError("no device was given to place on; pass for example registry.devices().")
    where = home or next((d for d in devices if d.memory == "host"), devices[0])
    expanded, wholes = expand(graph) if any(node.op.decompose for node in graph.nodes) else (graph, [])
    unavailable = tuple(unavailable)

    def place_body(body: Graph, device: Device) -> Placement:
        return place(
            *(simplify(body), devices, registry, costs),
            home=device,
            policy=policy,
            unavailable=unavailable,
            effort=effort,
        )

    collector = Collector(devices, registry, policy or active_policy(), costs, unavailable, place_body)
    usable, refused = collector.ways(expanded, wholes)
    named = sorted(devices, key=lambda d: d.name)  # in any order, the same plan
    homes = Homes(expanded, where, residents)
    places = Places([*homes.devices, *named], costs, collector.layouts(), collector.conversions)
    choices = {node: _choices(node, ways) for node, ways in usable.items()}
    return Problem(expanded, places, homes, choices), refused, wholes


def settled(problem: Problem, effort: Effort | None) -> Problem:
    """The problem with a device for each resident: for free ones that of the least sum of times, without memory limits.

    What residents, once settled, would cost elsewhere is with all other choices free again.
    """
    if not problem.free:
        return problem
    solution = solve(problem.network, effort)
    prices = solution.prices()
    chosen: dict[Resident, Resident] = {}
    for resident, (variable, places) in problem.free.items():
        label = solution.labels[variable] if np.isfinite(solution.cost) else 0
        order = sorted(range(len(places)), key=lambda i: (i == label, float(prices[variable][i])))
        more = [(float(prices[variable][i]), problem.places.spaces[int(places[i])]) for i in order[:-1]]
        extra, other = next((pair for pair in more if np.isfinite(pair[0])), (None, None))
        device = problem.places.spaces[int(places[label])]
        seconds = None if extra is None else extra / NANOSECONDS
        chosen[resident] = resident.settled(device, seconds, other)
    residents = [chosen.get(resident, resident) for resident in problem.homes.residents]
    homes = Homes(problem.graph, problem.homes.home, residents)
    return Problem(problem.graph, problem.places, homes, problem.choices)


def _choices(node: Node, ways: Ways) -> list[Choice]:
    return [Choice(match, candidate, match.anchor is node) for match, candidate in ways]


class _Reader:
    """Turns labels into decisions."""

    def __init__(
        self, problem: Problem, solution: Fit | Solution, found: Trial, refused: dict[Node, Ways]
    ) -> None:
        self.problem = problem
        self.solution = solution
        self.found = found
        self.refused = refused

    def placement(self, bound: float) -> Placement:
        """The decisions, one for each match that is used."""
        more = self.found.cost - self.solution.cost
        prices = [row - more for row in self.solution.prices()]
        decisions = []
        for choice in self.found.ordered:
            match, candidate = choice.match, choice.candidate
            rows = [row for node in match.nodes for row in self._alternatives(node, match, candidate, prices)]
            alternatives: dict[tuple[Match, Candidate], Alternative] = {}
            for row in sorted(rows, key=_order):  # a match of several of these nodes counts once
                alternatives.setdefault((row.match, row.candidate), row)
            decisions.append(Decision(match, candidate, self._transfers(match), tuple(alternatives.values())))
        problem, cost = self.problem, self.found.cost
        if problem.is_narrowed:
            bound = 0.0
        seconds = (cost / NANOSECONDS, bound / NANOSECONDS)
        return Placement(problem.graph, problem.homes.home, problem.places, tuple(decisions), *seconds)

    def _alternatives(
        self, node: Node, match: Match, candidate: Candidate, prices: list[np.ndarray]
    ) -> list[Alternative]:
        """Every other choice for a node, with the least total cost that it would lead to."""
        number = self.problem.number[node]
        rows = []
        for label, same in enumerate(self.problem.options[number].choices):
            best = min(choice.candidate.seconds for choice in same)
            for choice in same:
                if choice.candidate is candidate and choice.match is match:
                    continue
                extra = float(prices[number][label]) / NANOSECONDS + choice.candidate.seconds - best
                if np.isfinite(extra):
                    rows.append(Alternative(node, choice.match, choice.candidate, extra, None))
                else:
                    rows.append(
                        Alternative(
                            node, choice.match, choice.candidate, None, "nothing else could be placed with it"
                        )
                    )
        rows += [Alternative(node, m, c, None, c.refusal) for m, c in self.refused[node]]
        return rows

    def _transfers(self, match: Match) -> float:
        """Seconds that bringing the inputs of a match to where it takes them costs, were it alone in wanting them."""
        problem, total = self.problem, 0.0
        for node in match.nodes:
            number = problem.number[node]
            takes = problem.options[number].takes[self.found.labels[number]]
            for value, target in {
                v: int(t) for v, t in zip(node.inputs, takes, strict=True) if v is not None
            }.items():
                source = int(problem.start(value)[0])
                if value.node is not None and value not in problem.graph.constants:
                    producer = problem.number[value.node]
                    source = int(problem.options[producer].gives[self.found.labels[producer], value.index])
                if target != problem.places.nowhere:
                    total += float(problem.places.table(value.spec)[source, target])
        return total / NANOSECONDS


def _order(row: Alternative) -> tuple[bool, float, str, str, str]:
    extra = row.extra_seconds
    return (
        extra is None,
        extra or 0.0,
        row.candidate.kernel.backend,
        row.candidate.kernel.name,
        row.candidate.device.name,
    )

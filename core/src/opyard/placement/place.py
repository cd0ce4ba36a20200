"""``place``: the cheapest cover of a graph by kernels, and the price of every other choice.

expand composites -> collect candidates -> a network of costs -> its minimum -> decisions in an order that can run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..costs import Costs
from ..device import Device
from ..errors import PlacementError
from ..graph import Graph, Node, Value
from ..registry import Registry
from ..selection import Candidate, Policy, active_policy
from .candidates import Collector, Ways
from .match import Match
from .model import Alternative, Decision, Placement
from .places import NANOSECONDS, Places
from .problem import Choice, Problem
from .solver import Effort, Solution, solve
from .wholes import expand


def place(
    graph: Graph,
    devices: Sequence[Device],
    registry: Registry,
    costs: Costs,
    *,
    home: Device | None = None,
    policy: Policy | None = None,
    unavailable: Iterable[tuple[str, str]] = (),
    effort: Effort | None = None,
) -> Placement:
    """Assigns every node of a graph with concrete shapes to a kernel on one of the devices, at the least total cost.

    home         the device whose arrays are fed and fetched; the first host device by default
    unavailable  (op, backend/kernel) pairs that must not be used
    effort       work to spend where the optimum cannot be computed outright; ``Placement.bound`` tells how near it is
    Composite ops are kept whole or decomposed, whichever is cheaper. The same inputs give the same placement.
    Raises PlacementError, naming the op and every refusal, when a node has no kernel, and for no devices at all.
    """
    problem, refused = formulate(
        graph, devices, registry, costs, home=home, policy=policy, unavailable=unavailable
    )
    return _Reader(problem, solve(problem.network, effort), refused).placement()


def formulate(
    graph: Graph,
    devices: Sequence[Device],
    registry: Registry,
    costs: Costs,
    *,
    home: Device | None = None,
    policy: Policy | None = None,
    unavailable: Iterable[tuple[str, str]] = (),
) -> tuple[Problem, dict[Node, Ways]]:
    """What ``place`` solves: the network of costs, and for each node the ways to run it that are refused."""
    if not devices:
        raise PlacementError("no device was given to place on; pass for example registry.devices().")
    where = home or next((d for d in devices if d.memory == "host"), devices[0])
    expanded, wholes = expand(graph) if any(node.op.decompose for node in graph.nodes) else (graph, [])
    collector = Collector(devices, registry, policy or active_policy(), costs, unavailable)
    usable, refused = collector.ways(expanded, wholes)
    named = sorted(devices, key=lambda d: d.name)  # in any order, the same plan
    places = Places([where, *named], costs, collector.layouts(), collector.conversions)
    choices = {node: _choices(node, ways) for node, ways in usable.items()}
    return Problem(expanded, places, where, choices), refused


def _choices(node: Node, ways: Ways) -> list[Choice]:
    return [Choice(match, candidate, match.anchor is node) for match, candidate in ways]


class _Reader:
    """Turns labels into decisions."""

    def __init__(self, problem: Problem, solution: Solution, refused: dict[Node, Ways]) -> None:
        self.problem = problem
        self.solution = solution
        self.refused = refused
        self.chosen = [options.choices[solution.labels[n]][0] for n, options in enumerate(problem.options)]

    def placement(self) -> Placement:
        """The decisions, one for each match that is used."""
        prices = self.solution.prices()
        decisions = []
        for match, candidate in self._matches():
            rows = [row for node in match.nodes for row in self._alternatives(node, match, candidate, prices)]
            alternatives: dict[tuple[Match, Candidate], Alternative] = {}
            for row in sorted(rows, key=_order):  # a match of several of these nodes counts once
                alternatives.setdefault((row.match, row.candidate), row)
            decisions.append(Decision(match, candidate, self._transfers(match), tuple(alternatives.values())))
        cost, bound = (value / NANOSECONDS for value in (self.solution.cost, self.solution.bound))
        return Placement(
            self.problem.graph, self.problem.home_device, self.problem.places, tuple(decisions), cost, bound
        )

    def _matches(self) -> list[tuple[Match, Candidate]]:
        """The matches in use, each after those that make its inputs."""
        made: set[Value] = set()
        waiting = [self.chosen[self.problem.number[node]] for node in self.problem.graph.nodes]
        waiting = [choice for choice in waiting if choice.pays]
        ordered: list[tuple[Match, Candidate]] = []
        while waiting:
            left = []
            for choice in waiting:
                needed = (v for v in choice.match.inputs if v is not None and v.node is not None)
                if all(value in made for value in needed):
                    made.update(choice.match.outputs)
                    ordered.append((choice.match, choice.candidate))
                else:
                    left.append(choice)
            if len(left) == len(waiting):
                raise PlacementError(
                    f"the matches {', '.join(c.match.title for c in left)} wait for each other; this is a defect of opyard."
                )
            waiting = left
        return ordered

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
            takes = problem.options[number].takes[self.solution.labels[number]]
            for value, target in {
                v: int(t) for v, t in zip(node.inputs, takes, strict=True) if v is not None
            }.items():
                source = problem.home
                if value.node is not None and value not in problem.graph.constants:
                    producer = problem.number[value.node]
                    source = int(problem.options[producer].gives[self.solution.labels[producer], value.index])
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

"""The minimum of a network: exact where the network is narrow, else within a proven gap.

Tiers: eliminate; drop dominated labels and eliminate again; message passing for a bound and labels, then local search.
Budgets are counted in tables, sweeps and balls, never in seconds: the same network gives the same answer on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import local_search
from .dominance import useful_labels
from .dual import FORBIDDEN, TreeReweighted
from .elimination import LARGEST_TABLE, Elimination
from .network import Costs, Labels, Network

SMALL_TABLE = 2.0**16
"""Entries up to which elimination is faster than the search for dominated labels."""


MOST_MOVES = 24
"""Labels of many variables, those of most variables first, that are tried as a whole where the network is too wide."""

PARTS = 4
"""Turns in which the bound is raised and the labels are improved, one after the other."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much work the solver may do on a network that is too wide to eliminate, and the gap with which it is content.

    offspring, parts, memory_gap  the same for memory limits: solutions to breed from; variables, of all parts that the
        problem is divided into, together
    """

    sweeps: int = 960
    balls: int = 6000
    gap: float = 5e-4
    offspring: int = 160
    parts: int = 5_000
    memory_gap: float = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """Labels with their cost, and a lower bound of every assignment's cost; equal numbers prove the optimum."""

    network: Network
    labels: list[int]
    cost: float
    bound: float
    _elimination: list[Elimination] = field(default_factory=list)

    @property
    def is_optimal(self) -> bool:
        """Whether nothing can be better."""
        return self.bound >= self.cost

    def prices(self) -> list[Costs]:
        """For every label of every variable what an assignment with it costs beyond this solution.

        Exact where the network could be eliminated; else with all other labels as they are, an upper bound.
        """
        if self.is_optimal and not self._elimination:
            whole = Elimination(self.network)
            if not whole.left:
                self._elimination.append(whole)
        if self._elimination:
            return [costs - self.cost for costs in self._elimination[0].marginals()]
        rows = []
        for variable, label in enumerate(self.labels):
            costs = self.network.costs_towards(variable, self.network.neighbours[variable], self.labels)
            rows.append(costs - costs[label])
        return rows


def solve(network: Network, effort: Effort | None = None) -> Solution:
    """The best labels of a network. The cost is infinite when every assignment is forbidden."""
    whole = Elimination(network, SMALL_TABLE)
    if not whole.left:
        return Solution(network, whole.labels(), whole.optimum, whole.optimum, [whole])
    keep = useful_labels(network)
    narrow = network.restricted(keep)
    part = Elimination(narrow, LARGEST_TABLE)
    if not part.left:
        labels = [int(kept[label]) for kept, label in zip(keep, part.labels(), strict=True)]
        return Solution(network, labels, part.optimum, part.optimum)
    finite = narrow.bounded(FORBIDDEN)
    start = _moved(finite, _moves(network, keep))
    chosen, bound = _approximate(finite, start, effort or Effort())
    labels = [int(kept[label]) for kept, label in zip(keep, chosen, strict=True)]
    cost = network.cost(labels)
    return Solution(network, labels, cost, min(bound, cost))


def _moved(network: Network, moves: list[dict[int, int]]) -> list[int] | None:
    """The best labels that begin with one of the moves, the rest being optimal; None where no rest is narrow enough."""
    best, found = np.inf, None
    for move in moves:
        free = [variable for variable in range(len(network.unary)) if variable not in move]
        labels = [move.get(variable, 0) for variable in range(len(network.unary))]
        rest = Elimination(local_search.freed(network, free, labels), SMALL_TABLE)
        if rest.left:
            continue
        for variable, label in zip(free, rest.labels(), strict=True):
            labels[variable] = label
        if (cost := network.cost(labels)) < best:
            best, found = cost, labels
    return found


def _moves(network: Network, keep: list[Labels]) -> list[dict[int, int]]:
    """The largest moves with labels as positions in ``keep``, those left out that use a label which nothing needs."""
    places = [{int(label): place for place, label in enumerate(kept)} for kept in keep]
    moves = (m for m in network.moves if all(label in places[v] for v, label in m.items()))
    largest = sorted(moves, key=len, reverse=True)[:MOST_MOVES]
    return [{v: places[v][label] for v, label in move.items()} for move in largest]


def _approximate(network: Network, start: list[int] | None, effort: Effort) -> tuple[list[int], float]:
    dual = TreeReweighted(network)
    labels, cost = (dual.labels, np.inf) if start is None else (start, network.cost(start))
    for part in range(PARTS):  # the bound first rises fast; labels are improved in between
        dual.run(effort.sweeps // PARTS)
        if dual.cost < cost:
            labels, cost = dual.labels, dual.cost
        if part == 0 or dual.cost <= cost:
            labels = local_search.improve(network, labels, effort.balls // PARTS)
            cost = network.cost(labels)
        if cost - dual.bound < 0.5:
            return labels, cost
        if cost - dual.bound < effort.gap * cost:
            break
    return labels, float(np.ceil(dual.bound - 1e-3))

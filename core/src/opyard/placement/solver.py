"""The minimum of a network: exact where the network is narrow, else within a proven gap.

Tiers: eliminate; reduce and eliminate again; a minimum cut where all tables are submodular; else on what remains message passing for a bound and sweeps for labels, in turns;
and where a gap is left and the extra ``exact`` is installed, branch and bound.
Budgets are counted in sweeps, states and backtracks, never in seconds: the same network gives the same answer on any machine.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from . import exact, frontier
from .dual import FORBIDDEN, TreeReweighted
from .elimination import LARGEST_TABLE, Elimination
from .mincut import submodular_labels
from .network import Costs, Network
from .orders import Order, least_fill_first, smallest_first
from .reduction import Reduction

SMALL_TABLE = 2.0**16
"""Entries of a table up to which the order that is found fastest is good enough."""

ALL_TABLES = 2 * LARGEST_TABLE
"""Entries of all tables together up to which a network is eliminated."""

MOST_MOVES = 24
"""Labels of many variables, those of most variables first, that are tried as a whole where the network is too wide."""

FIRST_SWEEPS, FIRST_STATES = 16, 1024


@dataclass(frozen=True, slots=True)
class Effort:
    """How much work the solver may do on a network that is too wide to eliminate, and the gap with which it is content.

    turns  of raising the bound and sweeping for labels, each with twice as many sweeps and states as the one before
    backtracks  of the search by the extra ``exact``, for which a gap must be left; 0 is no search
    offspring, parts, memory_gap  the same for memory limits: solutions to breed from; variables, of all parts that the
        problem is divided into, together; and the gap
    rooms, room_gap  for a problem too large for that: parts by the memory that is needed for a time, and a gap for which it must be
    tasks  kernels in all schedules, together, that are tried for the earliest end
    """

    turns: int = 5
    gap: float = 1e-5
    backtracks: int = 10_000
    offspring: int = 160
    parts: int = 10_000
    memory_gap: float = 1e-3
    rooms: int = 60
    room_gap: float = 1e-2
    tasks: int = 200_000


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """Labels with their cost, and a lower bound of every assignment's cost; equal numbers prove the optimum."""

    network: Network
    labels: list[int]
    cost: float
    bound: float
    _elimination: Elimination | None = None

    @property
    def is_optimal(self) -> bool:
        """Whether nothing can be better."""
        return self.bound >= self.cost

    @property
    def accuracy(self) -> str:
        """What ``prices`` are of what forcing a label really costs: "exact", or an "upper bound"."""
        return "exact" if self._elimination is not None else "upper bound"

    def prices(self) -> list[Costs]:
        """For every label of every variable what an assignment with it costs beyond this solution.

        Exact where the network could be eliminated; else with all other labels as they are, an upper bound.
        """
        if self._elimination is not None:
            return [costs - self.cost for costs in self._elimination.marginals()]
        rows = []
        for variable, label in enumerate(self.labels):
            costs = self.network.costs_towards(variable, self.network.neighbours[variable], self.labels)
            rows.append(costs - costs[label])
        return rows


def solve(network: Network, effort: Effort | None = None, order: Order | None = None) -> Solution:
    """The best labels of a network. The cost is infinite when every assignment is forbidden.

    order  that of ``elimination_order``, where it is known from a network with the same tables
    """
    whole = _eliminated(network, order)
    if whole is not None:
        return Solution(network, whole.labels(), whole.optimum, whole.optimum, whole)
    reduction = Reduction(network)
    core = _eliminated(reduction.core)
    if core is not None:
        labels = reduction.labels(core.labels())
        optimum = core.optimum + reduction.constant
        return Solution(network, labels, optimum, optimum)
    best = submodular_labels(reduction.core)
    if best is not None:
        labels = reduction.labels(best)
        optimum = network.cost(labels)
        return Solution(network, labels, optimum, optimum)
    start = _moved(network)
    below = np.inf if start is None else network.cost(start) - reduction.constant
    effort = effort or Effort()
    chosen, bound = _approximate(reduction.core.bounded(FORBIDDEN), effort, below)
    if exact.version() is not None:
        chosen, bound = _searched(reduction.core, effort, below, chosen, bound)
    labels = start if chosen is None and start is not None else reduction.labels(chosen or [])
    cost = network.cost(labels)
    return Solution(network, labels, cost, min(bound + reduction.constant, cost))


def elimination_order(network: Network) -> Order | None:
    """An order in which a network can be eliminated, or None where none is found whose tables are small enough."""
    order = smallest_first(network, SMALL_TABLE)
    return order if len(order) == len(network.unary) else least_fill_first(network, LARGEST_TABLE, ALL_TABLES)


def _eliminated(network: Network, order: Order | None = None) -> Elimination | None:
    """The network with every variable eliminated, or None where it is too wide."""
    order = order or elimination_order(network)
    return None if order is None else Elimination(network, order)


def _moved(network: Network) -> list[int] | None:
    """The best labels that begin with one of the largest moves, the rest being optimal; None where no rest is narrow."""
    best, found = np.inf, None
    for move in sorted(network.moves, key=len, reverse=True)[:MOST_MOVES]:
        free = [variable for variable in range(len(network.unary)) if variable not in move]
        labels = [move.get(variable, 0) for variable in range(len(network.unary))]
        rest = network.freed(free, labels)
        order = smallest_first(rest, SMALL_TABLE)
        if len(order) < len(free):
            continue
        for variable, label in zip(free, Elimination(rest, order).labels(), strict=True):
            labels[variable] = label
        if (cost := network.cost(labels)) < best:
            best, found = cost, labels
    return found


def _approximate(network: Network, effort: Effort, below: float) -> tuple[list[int] | None, float]:
    """Labels that cost less than ``below``, and a lower bound, which meets their cost, or ``below``, where it is proven.

    None where nothing cheaper was found.
    """
    dual = TreeReweighted(network)
    labels, cost, bound = None, below, -np.inf
    for turn in range(effort.turns):
        dual.run(FIRST_SWEEPS << turn)
        if dual.cost < cost:
            labels, cost = dual.labels, dual.cost
        bound = max(bound, dual.bound)
        if cost - bound >= 0.5:
            found, proven = frontier.sweep(dual, cost, FIRST_STATES << turn)
            if found is not None:
                labels, cost = found, network.cost(found)
            bound = max(bound, proven)
        if cost - bound < max(0.5, effort.gap * cost):
            break
    if labels is None and below == np.inf:
        labels = dual.labels
    return labels, cost if cost - bound < 0.5 else float(np.ceil(bound - 1e-3))


def _searched(
    network: Network, effort: Effort, below: float, labels: list[int] | None, bound: float
) -> tuple[list[int] | None, float]:
    """The same labels and bound, or better ones where they are apart and a search finds some."""
    cost = below if labels is None else min(below, network.cost(labels))
    if not effort.backtracks or cost - bound < max(0.5, effort.gap * min(cost, FORBIDDEN)):
        return labels, bound
    try:
        found, proven = exact.search(network, cost, effort.backtracks)
    except exact.ExactFailed as error:
        warnings.warn(
            f"{exact.PACKAGE}, of the extra exact, does not work: {error}. Placements may keep a gap that it could close.",
            RuntimeWarning,
            stacklevel=3,
        )
        return labels, bound
    return labels if found is None else found, max(bound, proven)

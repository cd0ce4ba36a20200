"""The minimum of a network under memory limits: Lagrangian relaxation, repair of what it finds, branch and bound.

A price for each byte at each step turns the limits into costs, and the network, which is then free of limits, is solved as
always. Its minimum less the price of the limits is a lower bound for any prices that are not negative; prices rise where
a limit is exceeded and fall where it is not. What fits is a placement; two solutions are crossed to get better ones.
Where a gap is left, the labels of the node that weighs most are divided and both parts are solved the same way; large
problems with a wide gap are divided by the room that is kept for a time (levels.py), and then by labels, and keep one limit in each
solution by counting (counting.py).

Sources: M. Held, P. Wolfe, H. Crowder, "Validation of subgradient optimization", Mathematical Programming 6 (1974);
M. Fisher, "The Lagrangian relaxation method for solving integer programming problems", Management Science 27 (1981).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from .bundle import Bundle
from .counting import Count, best_count
from .levels import Levels, Room
from .memory import Bytes, Residency
from .network import Costs, Network
from .pricing import GRAIN, Pricing
from .repair import Breeding
from .solver import Effort, Solution, solve

FIRST_STEPS, BRANCH_STEPS = 150, 12
"""Changes of the prices for the whole problem, and for each part of it."""

LEAST_PARTS = 20
"""Where effort does not allow at least so many parts, dividing by single labels would not raise the bound."""


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """Labels within the limits, with their cost, and a lower bound of the cost of all labels within the limits.

    prices_of_bytes  nanoseconds for a byte ``[row, step]`` that led to the bound
    relaxed          the solution at those prices, in grains; where no limit binds that of the network itself
    binds            whether the best labels without limits exceed them
    """

    labels: list[int]
    cost: float
    bound: float
    prices_of_bytes: Bytes
    relaxed: Solution
    binds: bool

    @property
    def is_optimal(self) -> bool:
        """Whether nothing that fits can be better."""
        return self.bound >= self.cost

    @property
    def accuracy(self) -> str:
        """What ``prices`` are of what forcing a label really costs: where a limit binds an "estimate"."""
        return "estimate" if self.binds else self.relaxed.accuracy

    def prices(self) -> list[Costs]:
        """For every label of every variable what it costs beyond this solution; where a limit binds, an estimate.

        The estimate charges memory at the prices that the bound was found with, and is never negative.
        """
        rows = self.relaxed.prices()
        if not self.binds:
            return rows
        return [np.maximum(row / GRAIN, 0.0) for row in rows]


class Unfit(Exception):
    """No labels within the limits were found; ``proven`` when there are none. ``usage`` is the nearest miss, in bytes."""

    def __init__(self, usage: Bytes, proven: bool) -> None:
        super().__init__("no placement within the memory limits")
        self.usage = usage
        self.proven = proven


def solve_within(network: Network, residency: Residency, effort: Effort | None) -> Fit:
    """The best labels within the limits. Raises Unfit. The cost is infinite when every assignment is forbidden."""
    effort = effort or Effort()
    free = solve(network, effort)
    nothing = np.zeros_like(residency.fixed)
    if not np.isfinite(free.cost) or _fits(residency, residency.usage(free.labels)):
        return Fit(free.labels, free.cost, free.bound, nothing, free, binds=False)
    effort = replace(effort, backtracks=0)  # hundreds of networks follow, and a gap of one does not matter
    search = _Search(network, residency, effort)
    search.run()
    if search.found.cost == np.inf:
        raise Unfit(residency.usage(search.found.nearest), search.is_complete)
    labels, cost = search.found.labels, search.found.cost
    relaxed = search.pricing.solve(search.pricing.network, search.prices)
    return Fit(labels, cost, min(search.bound, cost), search.prices, relaxed, binds=True)


def _fits(residency: Residency, usage: Bytes) -> bool:
    return bool((usage <= residency.limits[:, None]).all())


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A part of the problem: a network in grains whose forbidden labels are left out, and the room that it keeps.

    bundle  that led to the bound, or to begin with
    count   what each of its solutions keeps, if anything
    bound   below the cost of all its labels within the limits
    split   a variable and a label of it by which the part can be divided
    """

    network: Network
    room: Room
    bundle: Bundle
    count: Count | None = None
    bound: float = -np.inf
    split: tuple[int, int] | None = None

    def divided(self, network: Network, room: Room, residency: Residency) -> _Part:
        """A part of this part, in which is counted what its solutions exceed most."""
        mixture = [
            (plane.labels, w) for plane, w in self.bundle.mixture() if w > 0 and network.allows(plane.labels)
        ]
        count = best_count(residency, room.low, mixture, self.bundle.centre.sum(axis=1)) or self.count

        units = np.zeros(len(residency.terms)) if count is None else count.units(residency)
        most = np.inf if count is None else count.most

        def is_left(labels: list[int]) -> bool:
            return network.allows(labels) and float(units @ residency.holding(labels)) <= most

        tighter = np.zeros_like(self.bundle.centre)
        tighter[:, -1] = room.low - self.room.low
        return _Part(network, room, self.bundle.restricted(is_left, tighter), count)


class _Search:
    """The state of one search: the bound, with the prices that led to it, and the labels that were found."""

    def __init__(self, network: Network, residency: Residency, effort: Effort) -> None:
        self.network = network
        self.pricing = Pricing(network, residency, effort)
        self._pricings: dict[Count, Pricing] = {}
        self.residency = residency
        self.effort = effort
        self.found = Breeding(self.pricing.flat, residency)
        self.bound = -np.inf
        self.prices = np.zeros_like(residency.fixed)
        self.is_complete = True
        self._offspring = 0
        self._most = _greatest(network)
        parts = effort.parts // max(1, len(network.unary))
        self._is_small = parts >= LEAST_PARTS
        self._parts = parts if self._is_small else effort.rooms
        self._gap = 0.0 if self._is_small else effort.memory_gap
        self._levels: Levels | None = None

    def run(self) -> None:
        """The whole first, then its parts, as long as the effort allows."""
        whole = _Part(self.pricing.network, Room.unknown(len(self.residency.limits)), Bundle(self.prices))
        root = self._ascend(whole, FIRST_STEPS)
        self.prices = root.bundle.centre
        if root.bound < np.inf and not self._is_enough(root.bound):
            self._escape()
            self._breed(root, root.bound, IDLE)
        if not self._is_small:
            self._gap = max(self.effort.room_gap, self.effort.memory_gap)
            if self.found.cost == np.inf or self._is_enough(root.bound):
                self.bound, self.is_complete = root.bound, root.bound == np.inf
                return
            self._levels = Levels(self.network, self.residency)
        self._divide(root)
        if not self._is_small:  # nothing was looked for in the parts that costs more
            most = float(np.ceil((1 - self._gap) * self.found.cost))
            self.bound = max(root.bound, min(self.bound, most))

    def _divide(self, root: _Part) -> None:
        """The parts of a problem, those of the least bound first, until that is enough or the effort is spent."""
        open_parts = [(root.bound, 0, root)]
        made = 1
        while open_parts:
            open_parts.sort(key=lambda part: part[:2])
            self.bound, _, part = open_parts.pop(0)
            if self._levels is not None and part is not root:
                self._breed(part, self.bound, IDLE_IN_PART)
            if self._is_enough(self.bound):
                return
            children = self._divided(part) if self._parts > 0 else []
            if not children:
                self.is_complete = False
                return
            for child in children:
                self._parts -= 1
                below = self._reached(self._ascend(child, BRANCH_STEPS))
                open_parts.append((max(self.bound, below.bound), made, below))
                made += 1

    def _divided(self, part: _Part) -> list[_Part]:
        """The part in two: by the room that is kept for a time, where the problem is large, else by a label."""
        if self._levels is not None:
            worth = part.bundle.centre.sum(axis=1)
            halves = self._levels.halves(part.room, part.bundle.mixture(), worth)
            if halves:
                return [
                    part.divided(self._levels.within(part.network, half), half, self.residency)
                    for half in halves
                ]
        if part.split is None:
            return []
        start = part.bundle.centre
        return [_Part(network, part.room, Bundle(start)) for network in _divided(part.network, *part.split)]

    def _reached(self, part: _Part) -> _Part:
        """The part with the bound raised by what reaching its room costs, and without labels that cost too much."""
        if self._levels is None or part.bound == np.inf:
            return part
        solution = self._pricing(part.count).solve(part.network, part.bundle.centre)
        if solution.accuracy != "exact":
            return part
        extra = solution.prices()
        bound = part.bound + float(np.floor(self._levels.least(part.room, extra) / GRAIN))
        most = GRAIN * ((1 - self._gap) * self.found.cost - part.bound + 1)
        unary = [
            np.where(more > most, np.inf, costs)
            for more, costs in zip(extra, part.network.unary, strict=False)
        ]
        return replace(part, network=part.network.with_unary(unary), bound=bound)

    def _pricing(self, count: Count | None) -> Pricing:
        """The networks in which something is counted, made once."""
        if count is None:
            return self.pricing
        if count not in self._pricings:
            self._pricings[count] = Pricing(self.network, self.residency, self.effort, count)
        return self._pricings[count]

    def _is_enough(self, bound: float) -> bool:
        """Whether a bound proves the best labels, or, where the problem is too large to be divided, nearly does."""
        cost = self.found.cost
        return bound >= cost or cost - bound < self._gap * cost

    def _escape(self) -> None:
        """Solutions at prices that rise until nothing is kept where it need not be: if any fits, the last of these does."""
        usage = self.residency.usage(self.found.any_labels)
        price = 1e-3 * self.network.cost(self.found.any_labels) / max(1.0, float(usage.sum()))
        for _ in range(MOST_RISES):
            prices = np.full_like(usage, price)
            labels = self.pricing.solve(self.pricing.network, prices).labels
            self.found.consider(labels, self.residency.usage(labels))
            if self.found.cost < np.inf:
                self.found.add(labels, self.prices)
                return
            price *= 8

    def _breed(self, part: _Part, bound: float, most: int) -> None:
        """Solutions at prices that are a little off, each term by its own, have other parts to choose from.

        most  of them in vain, one after the other, until it ends
        """
        pricing, idle = self._pricing(part.count), 0
        while self._offspring < self.effort.offspring and idle < most and not self._is_enough(bound):
            number, before = self._offspring, self.found.cost
            self._offspring += 1
            random = np.random.default_rng(number)
            scale, noise = SCALES[number % len(SCALES)], NOISES[number % len(NOISES)]
            solution = pricing.solve(part.network, part.bundle.centre * scale, (random, noise))
            if np.isfinite(solution.cost):
                self.found.add(solution.labels, part.bundle.centre)
            idle = 0 if self.found.cost < before else idle + 1

    def _ascend(self, part: _Part, steps: int) -> _Part:
        """The part with its bound: the highest that so many changes of the prices give."""
        network, residency = part.network, self.residency
        limits = np.repeat(residency.limits[:, None], residency.fixed.shape[1], axis=1)
        limits[:, -1] -= part.room.low
        bundle = part.bundle
        split: tuple[int, int] | None = None
        hopeless = replace(part, bound=np.inf, split=None)
        for _ in range(steps):
            solution = self._pricing(part.count).solve(network, bundle.trial)
            if not np.isfinite(solution.cost):
                return hopeless
            usage = residency.usage(solution.labels)
            slack = 0.0 if solution.is_optimal else 1.0  # what bounds are rounded up by
            value = solution.bound / GRAIN - slack + float((bundle.trial * (residency.fixed - limits)).sum())
            cost = self.network.cost(solution.labels)
            if bundle.add(value, solution.labels, cost, usage - limits):
                split = self._heaviest(network, solution.labels, usage, bundle.centre)
            self.found.consider(solution.labels, usage)
            if bundle.bound > self._most or (split is None and not _fits(residency, usage)):
                return hopeless  # not even the dearest labels cost so much, or no others are left
            if self._is_enough(_whole(bundle.bound)) or bundle.is_done:
                break
        for labels in bundle.solutions()[: DECIDING if network is self.pricing.network else 2]:
            self.found.add(labels, bundle.centre)
        return replace(part, bound=_whole(bundle.bound), split=split)

    def _heaviest(
        self, network: Network, labels: list[int], usage: Bytes, prices: Bytes
    ) -> tuple[int, int] | None:
        """The variable, with a label that can be forbidden and is used, that keeps most where memory is short."""
        short = np.where(usage > self.residency.limits[:, None], 1.0, 0.0)
        if not short.any():
            short = np.where(prices > 0, 1.0, 0.0)
        weight: dict[int, float] = {}
        amounts = self.residency.charges(short)
        for number in np.flatnonzero(self.residency.holding(labels) & (amounts > 0)).tolist():
            term = self.residency.terms[number]
            for variable in {term.first, term.second if term.second >= 0 else term.first}:
                weight[variable] = weight.get(variable, 0.0) + float(amounts[number])
        possible = {v: int(np.isfinite(network.unary[v]).sum()) for v in weight}
        found = [(w, -v) for v, w in weight.items() if possible[v] > 1]
        if not found:
            return next(
                ((v, labels[v]) for v, costs in enumerate(network.unary) if np.isfinite(costs).sum() > 1),
                None,
            )
        variable = -max(found)[1]
        return variable, labels[variable]


SCALES = (1.0, 1.0, 1.0, 1.03, 1.03, 1.03, 1.1, 1.1, 1.1, 0.97, 0.97, 0.97)
NOISES = (0.05, 0.15, 0.4)
"""Factors of the prices, and by what part each term's price is off, in turn."""

IDLE, IDLE_IN_PART = 80, 6
"""Solutions to breed from that bring nothing better, one after the other, after which no more are made."""

MOST_RISES = 16
"""Times that prices rise eightfold in search of a first solution that fits."""

DECIDING = 15
"""Solutions of the dual that are bred from."""


def _divided(network: Network, variable: int, label: int) -> Iterable[Network]:
    """The network with a label forbidden, and with all other labels of that variable forbidden."""
    for keep in (False, True):
        here = np.arange(len(network.unary[variable])) == label
        unary = list(network.unary)
        unary[variable] = np.where(here == keep, network.unary[variable], np.inf)
        yield network.with_unary(unary)


def _greatest(network: Network) -> float:
    """More than any labels cost that are not forbidden."""
    costs = [*network.unary, *network.tables.values()]
    return 1.0 + sum(float(np.max(c, initial=0.0, where=np.isfinite(c))) for c in costs)


def _whole(bound: float) -> float:
    """Costs are whole nanoseconds, so a bound may be rounded up."""
    return float(np.ceil(bound - 1e-9 * max(1.0, abs(bound))))

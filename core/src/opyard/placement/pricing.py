"""Networks of one problem under memory limits, which differ by the prices of bytes, and their minima."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .counting import Count, counted
from .flat import Flat
from .memory import Bytes, Residency
from .network import Costs, Network
from .solver import Effort, Solution, elimination_order, solve

GRAIN = 64.0
"""Networks with prices count in this part of a nanosecond. Prices of terms are rounded down to it: a bound stays a bound."""

Noise = tuple[np.random.Generator, float]
"""A source of randomness, and by which part of itself each charge may be off."""


class Pricing:
    """Charges the bytes of each term to the labels that keep them. ``network`` is without charges, in grains.

    flat  the problem in nanoseconds, with a table for each term of two variables
    """

    def __init__(
        self, network: Network, residency: Residency, effort: Effort, count: Count | None = None
    ) -> None:
        self.residency = residency
        self._variables = len(network.unary)
        joined = _joined(network, residency)
        if count is not None:
            counted(joined, residency, count)
        self.flat = Flat(joined)
        self._grains = self.flat.costs * GRAIN
        self._positions, self._owners = self.flat.positions(residency.terms)
        self._effort = effort
        self.network = self.flat.network_of(self._grains)
        self._order = elimination_order(self.network)

    def solve(self, network: Network, prices: Bytes, noise: Noise | None = None) -> Solution:
        """The best labels at some prices, of this network with other costs of single labels."""
        charges = self.residency.charges(prices)
        if noise is not None:
            charges *= 1 + noise[1] * (2 * noise[0].random(len(charges)) - 1)
        whole = np.floor(charges * GRAIN)
        costs: Costs = self._grains + np.bincount(self._positions, whole[self._owners], len(self._grains))
        if network is not self.network:
            alone = np.concatenate(network.unary)
            costs[: len(alone)] += np.where(np.isfinite(alone), 0.0, np.inf)
        found = solve(self.flat.network_of(costs), self._effort, self._order)
        return replace(found, labels=found.labels[: self._variables])


def _joined(network: Network, residency: Residency) -> Network:
    """The network with a table, if only of zeros, for each term of two variables that have several labels."""
    found = Network()
    for costs in network.unary:
        found.add_variable(costs)
    for (first, second), table in network.tables.items():
        found.add_table(first, second, table)
    for term in residency.terms:
        pair = min(term.first, term.second), max(term.first, term.second)
        if term.second >= 0 and pair not in found.tables:
            found.add_table(*pair, np.zeros([len(network.unary[variable]) for variable in pair]))
    return found

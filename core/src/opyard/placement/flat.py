"""A network's costs in one array, so that hundreds of networks that differ by prices, or labels by parts, cost little each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .memory import Term
from .network import Costs, Labels, Network


class Flat:
    """``costs`` has what labels cost by themselves, variable by variable, and then the tables, row by row.

    first, second  the variables of each table
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.costs: Costs = np.concatenate([*network.unary, *(t.ravel() for t in network.tables.values())])
        sizes = np.array([len(costs) for costs in network.unary], np.intp)
        pairs = np.array(list(network.tables), np.intp).reshape(-1, 2)
        self.first, self.second = pairs[:, 0], pairs[:, 1]
        self._widths = sizes[self.second]
        ends = np.cumsum(np.concatenate([sizes, sizes[self.first] * self._widths]))
        self._begins = np.concatenate([[0], ends[:-1]])
        self._starts, self._tables = self._begins[: len(sizes)], self._begins[len(sizes) :]
        self._slices = list(zip(self._begins.tolist(), ends.tolist(), strict=True))
        self._shapes = [table.shape for table in network.tables.values()]

    def parts(self, labels: Labels) -> tuple[Costs, Costs]:
        """What an assignment costs by its labels ``[variable]``, and by its pairs of labels ``[table]``."""
        alone = self.costs[self._starts + labels]
        return alone, self.costs[self._tables + labels[self.first] * self._widths + labels[self.second]]

    def positions(self, terms: Sequence[Term]) -> tuple[Labels, Labels]:
        """Where the costs are to which the bytes of terms add, and for each the number of the term."""
        number = dict(zip(self.network.tables, self._tables.tolist(), strict=True))
        found = [self._of(term, number) for term in terms]
        owners = np.repeat(np.arange(len(found)), [len(positions) for positions in found])
        return np.concatenate([np.zeros(0, np.intp), *found]), owners

    def _of(self, term: Term, number: dict[tuple[int, int], int]) -> Labels:
        first, second, mask = term.first, term.second, term.mask
        if second < 0:
            return np.flatnonzero(mask) + int(self._starts[first])
        if first > second:
            first, second, mask = second, first, mask.T
        if (first, second) in number:
            start = number[first, second]
        else:  # one of them has a single label
            start = int(self._starts[second if mask.shape[0] == 1 else first])
        return np.flatnonzero(mask) + start

    def network_of(self, costs: Costs) -> Network:
        """The network with other costs."""
        cut = [costs[begin:end] for begin, end in self._slices]
        found, count = Network(), len(self.network.unary)
        found.unary = cut[:count]
        found.tables = {
            pair: table.reshape(shape)
            for pair, table, shape in zip(self.network.tables, cut[count:], self._shapes, strict=True)
        }
        found.neighbours = self.network.neighbours
        return found

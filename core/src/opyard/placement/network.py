"""A cost function network: variables with few labels, unary costs and pairwise tables.

Costs are whole nanoseconds kept in float64, which is exact below 2**53; infinity forbids. Equal tables are one object:
whoever builds a network shares them, and the solvers remember what they found out about each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Costs = npt.NDArray[np.float64]
Labels = npt.NDArray[np.intp]


class Network:
    """Variables are numbered from 0; ``unary[i]`` has a cost for each label of variable i.

    ``moves`` are labels of many variables that only pay together, for a search to try as a whole.
    """

    def __init__(self) -> None:
        self.unary: list[Costs] = []
        self.tables: dict[tuple[int, int], Costs] = {}
        self.neighbours: list[set[int]] = []
        self.moves: list[dict[int, int]] = []

    def add_variable(self, costs: Any) -> int:
        """A new variable with these costs of its labels; gives its number."""
        self.unary.append(np.asarray(costs, np.float64))
        self.neighbours.append(set())
        return len(self.unary) - 1

    def add_unary(self, variable: int, costs: Costs) -> None:
        """Adds to the costs of a variable's labels."""
        self.unary[variable] = self.unary[variable] + costs

    def add_table(self, first: int, second: int, table: Costs) -> None:
        """Costs ``[labels of first, labels of second]`` of two variables; tables of one pair add up.

        With a variable that has a single label they are costs of the other's, and the two do not become neighbours.
        """
        if first > second:
            first, second, table = second, first, table.T
        if table.shape[0] == 1:
            self.add_unary(second, table[0])
            return
        if table.shape[1] == 1:
            self.add_unary(first, table[:, 0])
            return
        known = self.tables.get((first, second))
        self.tables[first, second] = table if known is None else known + table
        self.neighbours[first].add(second)
        self.neighbours[second].add(first)

    def cost(self, labels: list[int]) -> float:
        """Total cost of an assignment."""
        total = sum(float(costs[label]) for costs, label in zip(self.unary, labels, strict=True))
        return total + sum(float(table[labels[a], labels[b]]) for (a, b), table in self.tables.items())

    def allows(self, labels: list[int]) -> bool:
        """Whether no label of an assignment is forbidden by itself."""
        return all(costs[label] < np.inf for costs, label in zip(self.unary, labels, strict=True))

    def cost_of(self, variables: Iterable[int], labels: list[int]) -> float:
        """The part of an assignment's cost that depends on the labels of these variables."""
        pairs: dict[tuple[int, int], None] = {}
        total = 0.0
        for variable in variables:
            total += float(self.unary[variable][labels[variable]])
            for other in self.neighbours[variable]:
                pairs[min(variable, other), max(variable, other)] = None
        return total + sum(float(self.tables[a, b][labels[a], labels[b]]) for a, b in pairs)

    def costs_towards(self, variable: int, others: Iterable[int], labels: list[int]) -> Costs:
        """What each label of a variable costs, itself and towards the other variables as they are labelled."""
        costs = self.unary[variable]
        for other in others:
            if variable < other:
                costs = costs + self.tables[variable, other][:, labels[other]]
            else:
                costs = costs + self.tables[other, variable][labels[other], :]
        return costs

    def freed(self, variables: list[int], labels: list[int]) -> Network:
        """The network of some variables alone, in their order, everything around them labelled as it is."""
        new = {old: number for number, old in enumerate(variables)}
        part = Network()
        for variable in variables:
            outside = [other for other in self.neighbours[variable] if other not in new]
            part.add_variable(self.costs_towards(variable, outside, labels))
        for variable in variables:
            for other in self.neighbours[variable]:
                if variable < other and other in new:
                    part.add_table(new[variable], new[other], self.tables[variable, other])
        return part

    def with_unary(self, unary: list[Costs]) -> Network:
        """The network with other costs of single labels."""
        result = Network()
        result.unary = unary
        result.tables, result.neighbours, result.moves = self.tables, self.neighbours, self.moves
        return result

    def restricted(self, keep: list[Labels]) -> Network:
        """The network over the labels that are kept of each variable."""
        result = Network()
        for costs, labels in zip(self.unary, keep, strict=True):
            result.add_variable(costs[labels])
        slices: dict[tuple[int, bytes, bytes], Costs] = {}
        for (first, second), table in self.tables.items():
            key = (id(table), keep[first].tobytes(), keep[second].tobytes())
            if key not in slices:
                slices[key] = table[np.ix_(keep[first], keep[second])]
            result.add_table(first, second, slices[key])
        return result

    def bounded(self, most: float) -> Network:
        """The network with no cost above ``most``, so that a search can cross what is forbidden."""
        result = Network()
        for costs in self.unary:
            result.add_variable(np.minimum(costs, most))
        known: dict[int, Costs] = {}
        for (first, second), table in self.tables.items():
            if id(table) not in known:
                known[id(table)] = np.minimum(table, most)
            result.add_table(first, second, known[id(table)])
        return result

"""Orders in which the variables of a network can be eliminated, found on its graph alone, before any table is built.

Sources: for the smallest table first R. Dechter, "Bucket elimination: a unifying framework for reasoning", Artificial
Intelligence 113 (1999); for the least fill first H. Bodlaender and A. Koster, "Treewidth computations I. Upper bounds",
Information and Computation 208 (2010), each new edge weighted by the labels at its ends.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from math import inf, log2

from .network import Network

Order = list[tuple[int, tuple[int, ...]]]
"""Variables as they are eliminated, each with its neighbours at that moment."""

Score = tuple[float, ...]


def smallest_first(network: Network, largest: float, neighbours: int | None = None) -> Order:
    """The variable with the smallest table next, while tables have at most ``largest`` entries.

    neighbours  the most that a variable may have to be eliminated; with 2 a network stays one of pairwise tables
    """
    graph = _Graph(network)

    def score(variable: int) -> Score | None:
        if neighbours is not None and len(graph.neighbours[variable]) > neighbours:
            return None
        entries = graph.entries(variable)
        return (entries,) if entries <= largest else None

    return graph.order(score, far=False)


def least_fill_first(network: Network, largest: float, total: float) -> Order | None:
    """The variable whose elimination joins the fewest labels next: slower to find, and often of far smaller tables.

    None where a table would have more than ``largest`` entries, or all tables more than ``total``.
    """
    graph = _Graph(network)

    def score(variable: int) -> Score | None:
        entries = graph.entries(variable)
        return (graph.fill(variable), entries) if entries <= largest else None

    order = graph.order(score, far=True, total=total)
    return order if len(order) == len(network.unary) else None


class _Graph:
    """The neighbours of each variable while variables are eliminated: those of an eliminated one become neighbours."""

    def __init__(self, network: Network) -> None:
        self.sizes = [len(costs) for costs in network.unary]
        self.bits = [round(16 * log2(max(size, 1))) for size in self.sizes]  # whole, so that sums are exact
        self.neighbours = [set(others) for others in network.neighbours]

    def entries(self, variable: int) -> float:
        """Entries of the table over a variable and its neighbours."""
        entries = float(self.sizes[variable])
        for other in self.neighbours[variable]:
            entries *= self.sizes[other]
        return entries

    def fill(self, variable: int) -> int:
        """The weight of the edges that eliminating a variable adds."""
        scope, bits = self.neighbours[variable], self.bits
        missing = (
            bits[first] * sum(map(bits.__getitem__, scope - self.neighbours[first])) for first in scope
        )
        return (sum(missing) - sum(bits[first] ** 2 for first in scope)) // 2

    def order(self, score: Callable[[int], Score | None], far: bool, total: float = inf) -> Order:
        """Eliminates the variable of the least score, again and again, until none has one.

        far    whether a score depends on the neighbours of neighbours
        total  entries of all tables together that are not exceeded
        """
        scores = [score(variable) for variable in range(len(self.sizes))]
        heap = [(known, variable) for variable, known in enumerate(scores) if known is not None]
        heapq.heapify(heap)
        order: Order = []
        while heap:
            known, variable = heapq.heappop(heap)
            if scores[variable] != known:
                continue
            total -= self.entries(variable)
            if total < 0:
                break
            scope = self.neighbours[variable]
            order.append((variable, tuple(sorted(scope))))
            scores[variable] = None
            for other in scope:
                self.neighbours[other] |= scope
                self.neighbours[other] -= {variable, other}
            changed = set(scope)
            if far and known[0]:  # edges were added: also those change that had both ends as neighbours
                met = Counter(near for other in scope for near in self.neighbours[other])
                changed.update(near for near, times in met.items() if times > 1)
            for other in changed:
                scores[other] = again = score(other)
                if again is not None:
                    heapq.heappush(heap, (again, other))
        return order

"""Breeding: labels within memory limits from parts of solutions that exceed them or waste them.

Two solutions differ in parts that no table joins, so what each part changes in cost and bytes adds up. The merit of labels is
their cost, and for each byte beyond a limit a multiple of what avoiding it would cost. With a small multiple a solution may first
exceed a limit, and come back within it with a large one, better than before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from .memory import Bytes, Residency
from .network import Network

LENIENT, STRICT = 1.3, 6.0
"""The price of a byte beyond a limit, as a multiple of what a byte within is worth."""

ELITE, RECENT = 10, 12
"""Solutions that are kept to breed from: the best within the limits, and the latest of all."""

MOST_PARTS = 400


class Breeding:
    """Solutions of a network under limits: the best ``labels`` within them with their ``cost``, or the ``nearest`` miss."""

    def __init__(self, network: Network, residency: Residency) -> None:
        self.network = network
        self.residency = residency
        self.nearest: list[int] = []
        self._limits = residency.limits[:, None]
        self._worth = np.ones(len(residency.limits))
        self._elite: list[tuple[float, list[int]]] = []
        self._recent: list[list[int]] = []
        self._miss = np.inf
        self._turn = 0

    @property
    def labels(self) -> list[int]:
        """The best labels within the limits."""
        return self._elite[0][1]

    @property
    def any_labels(self) -> list[int]:
        """The best labels, or where none are within the limits the nearest miss."""
        return self.labels if self._elite else self.nearest

    @property
    def cost(self) -> float:
        """Their cost; infinite where none were found."""
        return self._elite[0][0] if self._elite else float("inf")

    def consider(self, labels: list[int], usage: Bytes) -> None:
        """Keeps labels that are within the limits and among the best, else the nearest miss."""
        over = float(self._excess(usage).sum())
        if over > 0:
            if over < self._miss:
                self._miss, self.nearest = over, labels
            return
        cost = self.network.cost(labels)
        if all(cost != known for known, _ in self._elite):
            self._elite = sorted([*self._elite, (cost, labels)], key=lambda pair: pair[0])[:ELITE]

    def add(self, labels: list[int], prices: Bytes) -> None:
        """Breeds from a new solution and those known; ``prices`` tell what a byte is worth."""
        worth = prices.sum(axis=1)
        self._worth = np.where(worth > 0, worth, max(float(worth.max(initial=0.0)), 1e-6))
        self._recent = [*self._recent[1 - RECENT :], labels]
        best = [known for _, known in self._elite]
        self._climb(labels, [*best, *self._recent])
        if best:
            chosen = best[self._turn % len(best)]
            self._turn += 1
            self._climb(chosen, self._recent)
            self._climb(chosen, best)

    def _climb(self, labels: Sequence[int], others: Iterable[list[int]]) -> None:
        """Takes over parts of other solutions wherever these improve the merit, leniently at first."""
        pool = list(others)
        current, usage = list(labels), self.residency.usage(labels)
        for deterrent in (LENIENT, STRICT):
            for other in pool:
                for part in _parts(self.network, current, other)[:MOST_PARTS]:
                    changed = list(current)
                    for variable in part:
                        changed[variable] = other[variable]
                    taken = self._improved(part, current, changed, usage, deterrent)
                    if taken is not None:
                        current, usage = changed, taken
            self.consider(current, usage)

    def _improved(
        self, part: list[int], before: list[int], after: list[int], usage: Bytes, deterrent: float
    ) -> Bytes | None:
        """The usage with a part changed, if that improves the merit."""
        gain = self.network.cost_of(part, before) - self.network.cost_of(part, after)
        excess = self._excess(usage)
        if not np.isfinite(gain) or (gain <= 0 and not excess.any()):
            return None
        changed = usage + self.residency.change(part, before, after)
        relief = deterrent * float((self._worth * (excess - self._excess(changed))).sum())
        return changed if gain + relief > 0 else None

    def _excess(self, usage: Bytes) -> Bytes:
        """By how many bytes each limit is exceeded at most."""
        found: Bytes = np.maximum(0.0, (usage - self._limits).max(axis=1))
        return found


def _parts(network: Network, one: Sequence[int], other: Sequence[int]) -> list[list[int]]:
    """The variables whose labels differ, in groups that no table joins; each sorted, by the least of them."""
    left = {v for v, (a, b) in enumerate(zip(one, other, strict=True)) if a != b}
    found = []
    for start in sorted(left):
        if start not in left:
            continue
        left.discard(start)
        group = [start]
        for variable in group:
            for near in network.neighbours[variable]:
                if near in left:
                    left.discard(near)
                    group.append(near)
        found.append(sorted(group))
    return found

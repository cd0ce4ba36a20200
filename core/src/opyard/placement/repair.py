"""Breeding: labels within memory limits from parts of solutions that exceed them or waste them.

Two solutions differ in parts that no table joins, so what each part changes in cost and bytes adds up. The merit of labels is
their cost, and for each byte beyond a limit a multiple of what avoiding it would cost. With a small multiple a solution may first
exceed a limit, and come back within it with a large one, better than before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .flat import Flat
from .memory import Bytes, Flags, Residency
from .network import Costs, Labels

LENIENT, STRICT = 1.3, 6.0
"""The price of a byte beyond a limit, as a multiple of what a byte within is worth."""

ELITE, RECENT = 10, 12
"""Solutions that are kept to breed from: the best within the limits, and the latest of all."""

MOST_PARTS = 400


@dataclass(slots=True, eq=False)
class Candidate:
    """Labels ``[variable]`` with what they cost alone and in pairs ``[table]``, the terms that are kept, and the bytes."""

    labels: Labels
    alone: Costs
    pairs: Costs
    kept: Flags
    usage: Bytes

    def copy(self) -> Candidate:
        """The same, to be changed."""
        labels, alone, pairs, kept = self.labels, self.alone, self.pairs, self.kept
        return Candidate(labels.copy(), alone.copy(), pairs.copy(), kept.copy(), self.usage)

    def take(self, other: Candidate, variables: Flags, tables: Labels, terms: Labels) -> None:
        """Takes over some labels of another, with all that depends on them but the usage."""
        self.labels[variables] = other.labels[variables]
        self.alone[variables] = other.alone[variables]
        self.pairs[tables] = other.pairs[tables]
        self.kept[terms] = other.kept[terms]


class Breeding:
    """Solutions of a network under limits: the best ``labels`` within them with their ``cost``, or the ``nearest`` miss."""

    def __init__(self, flat: Flat, residency: Residency) -> None:
        self.network = flat.network
        self.residency = residency
        self._flat = flat
        self.nearest: list[int] = []
        self._limits = residency.limits[:, None]
        self._worth = np.ones(len(residency.limits))
        self._elite: list[tuple[float, list[int]]] = []
        self._recent: list[Candidate] = []
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
        new = self._candidate(labels)
        self._recent = [*self._recent[1 - RECENT :], new]
        best = [self._candidate(known) for _, known in self._elite]
        self._climb(new, [*best, *self._recent])
        if best:
            chosen = best[self._turn % len(best)]
            self._turn += 1
            self._climb(chosen, self._recent)
            self._climb(chosen, best)

    def _candidate(self, labels: list[int]) -> Candidate:
        chosen = np.array(labels, np.intp)
        kept = self.residency.holding(chosen)
        return Candidate(chosen, *self._flat.parts(chosen), kept, self.residency.usage(labels))

    def _climb(self, start: Candidate, others: Sequence[Candidate]) -> None:
        """Takes over parts of other solutions wherever these improve the merit, leniently at first."""
        current = start.copy()
        for deterrent in (LENIENT, STRICT):
            for other in others:
                self._cross(current, other, deterrent)
            self.consider(current.labels.tolist(), current.usage)

    def _cross(self, current: Candidate, other: Candidate, deterrent: float) -> None:
        """Takes over those parts of another solution that improve the merit, one after the other."""
        differs = current.labels != other.labels
        if not differs.any():
            return
        flat = self._flat
        groups = _groups(differs, flat.first, flat.second)
        tables = np.where(differs[flat.first], groups[flat.first], groups[flat.second])
        gains = np.bincount(groups[differs], (current.alone - other.alone)[differs])
        touched = np.flatnonzero(differs[flat.first] | differs[flat.second])
        gains += np.bincount(tables[touched], (current.pairs - other.pairs)[touched], len(gains))
        signs = other.kept.astype(np.float64) - current.kept
        changed = np.flatnonzero(signs)
        owners = self.residency.owners(changed, differs, groups)
        order = np.argsort(owners, kind="stable")
        cuts = np.searchsorted(owners[order], np.arange(len(gains) + 1))
        taken = np.zeros(len(gains), bool)
        excess = self._excess(current.usage)
        lightens = np.bincount(owners[signs[changed] < 0], minlength=len(gains)) > 0
        for part in np.flatnonzero((gains > 0) | lightens)[:MOST_PARTS].tolist():
            if gains[part] <= 0 and not excess.any():
                continue
            terms = changed[order[cuts[part] : cuts[part + 1]]]
            usage = current.usage + self.residency.total(terms, signs[terms])
            after = self._excess(usage)
            if gains[part] + deterrent * float((self._worth * (excess - after)).sum()) > 0:
                taken[part] = True
                current.usage, excess = usage, after
        current.take(other, differs & taken[groups], touched[taken[tables[touched]]], changed[taken[owners]])

    def _excess(self, usage: Bytes) -> Bytes:
        """By how many bytes each limit is exceeded at most."""
        found: Bytes = np.maximum(0.0, (usage - self._limits).max(axis=1))
        return found


def _groups(differs: Flags, first: Labels, second: Labels) -> Labels:
    """Numbers of the parts in which variables differ that no table joins, by their least variables; others have part 0."""
    least = np.arange(len(differs))
    both = differs[first] & differs[second]
    first, second = first[both], second[both]
    while len(first):
        near = np.minimum(least[first], least[second])
        before = least.copy()
        np.minimum.at(least, first, near)
        np.minimum.at(least, second, near)
        least = least[least]
        if (least == before).all():
            break
    found = np.zeros(len(differs), np.intp)
    found[differs] = np.unique(least[differs], return_inverse=True)[1]
    return found

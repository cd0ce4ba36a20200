"""Counting: the limit of one address space kept by every solution, and not in the mean of several, as prices keep it.

At some prices many weights are worth their bytes together or not at all, so solutions that exceed a limit many times are mixed with
solutions that leave the space empty. Where a few of the weights fill a space, variables beside those of the nodes count the units
of bytes that lie there, from the first weight to the last, up to what is allowed. Bytes are rounded down to units, so nothing that
fits is forbidden.

Sources: A. Geoffrion, "Lagrangean relaxation for integer programming", Mathematical Programming Study 2 (1974), for bounds where
some constraints are kept; V. Chvatal, "Edmonds polytopes and a hierarchy of combinatorial problems", Discrete Mathematics 4 (1973),
for the rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .memory import Bytes, Residency, Term
from .network import Costs, Network

MOST_UNITS = 12
"""Units up to which is counted."""


@dataclass(frozen=True, slots=True)
class Count:
    """At most so many units of so many bytes, in the address space of a row."""

    row: int
    unit: float
    most: int

    def holds(self, residency: Residency, labels: Sequence[int]) -> bool:
        """Whether an assignment keeps no more."""
        kept = residency.holding(labels)
        return (
            sum(int(term.nbytes // self.unit) for n, term in lasting(residency, self.row) if kept[n])
            <= self.most
        )


def lasting(residency: Residency, row: int) -> list[tuple[int, Term]]:
    """The numbered terms of what lies in an address space all the time."""
    return [(n, t) for n, t in enumerate(residency.terms) if t.row == row and t.end > residency.steps]


def best_count(
    residency: Residency, room: Costs, mixture: Sequence[tuple[Sequence[int], float]], worth: Costs
) -> Count | None:
    """What to count so that the solutions of a mixture that exceed it do so by what is worth most; None where none does.

    room  the bytes ``[row]`` that are needed beside weights;  worth  the price of a byte ``[row]``
    """
    best, found = 0.0, None
    held = [(residency.holding(labels), weight) for labels, weight in mixture]
    for row, limit in enumerate(residency.limits):
        left = float(limit - max(0.0, room[row]) - residency.fixed[row, -1])
        terms = lasting(residency, row)
        sizes = np.array([term.nbytes for _, term in terms])
        numbers = np.array([n for n, _ in terms], np.intp)
        for unit in np.unique(sizes[sizes * (MOST_UNITS + 1) > max(left, 0.0)]):
            most = int(max(left, 0.0) // unit)
            units = sizes // unit
            over = sum(weight * max(0.0, float(units @ kept[numbers]) - most) for kept, weight in held)
            if (score := float(worth[row]) * float(unit) * over) > best:
                best, found = score, Count(row, float(unit), most)
    return found


def counted(network: Network, residency: Residency, count: Count) -> None:
    """Adds to a network the variables that count, one for each weight that has a unit: its labels are what was counted so far."""
    before: tuple[int, Bytes] | None = None
    for _, term in sorted(lasting(residency, count.row), key=lambda pair: pair[1].first):
        units = int(term.nbytes // count.unit)
        if not units:
            continue
        sums, added = _labels(units, count.most, is_first=before is None)
        here = network.add_variable(np.zeros(len(sums)))
        network.add_table(here, term.first, np.where((added > 0)[:, None] == term.mask[None, :], 0.0, np.inf))
        if before is not None:
            last, known = before
            network.add_table(last, here, np.where(known[:, None] == (sums - added)[None, :], 0.0, np.inf))
        before = here, sums


def _labels(units: int, most: int, is_first: bool) -> tuple[Bytes, Bytes]:
    """For each label of a counting variable the sum, this weight included, and what the weight adds: nothing, or its units."""
    without = range(1 if is_first else most + 1)
    pairs = [(sum_, 0) for sum_ in without] + [(s + units, units) for s in without if s + units <= most]
    return np.array([float(s) for s, _ in pairs]), np.array([float(a) for _, a in pairs])

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

from .memory import Bytes, Residency
from .network import Costs, Network

MOST_UNITS = 12
"""Units up to which is counted."""


@dataclass(frozen=True, slots=True)
class Count:
    """At most so many units of so many bytes, in the address space of a row."""

    row: int
    unit: float
    most: int

    def units(self, residency: Residency) -> Costs:
        """For each term of the residency the units that are counted, if it holds."""
        found = np.zeros(len(residency.terms))
        numbers = residency.lasting(self.row)
        found[numbers] = residency.nbytes[numbers] // self.unit
        return found


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
        numbers = residency.lasting(row)
        sizes = residency.nbytes[numbers]
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
    units = count.units(residency)
    for number in sorted(np.flatnonzero(units).tolist(), key=lambda n: residency.terms[n].first):
        term, added_units = residency.terms[number], int(units[number])
        sums, added = _labels(added_units, count.most, is_first=before is None)
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

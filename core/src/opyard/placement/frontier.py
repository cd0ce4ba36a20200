"""Bounded dynamic programming: a sweep over the variables that keeps the cheapest ways to label those passed so far.

A state is a labelling of the frontier, the variables that have been passed and still have neighbours ahead. Of the ways
that lead to one state only the cheapest goes on. What a state costs, with what message passing knows about the rest, is a
lower bound of all that can become of it: a state that cannot beat the best known labels is dropped. So few states are left
where the bound is good, however wide the frontier. If more than allowed are left, those with the least bounds go on, and
the least bound among the others limits what is proven.

Source: T. Morin and R. Marsten, "Branch-and-bound strategies for dynamic programming", Operations Research 24 (1976).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .dual import TreeReweighted

Whole = npt.NDArray[np.int64]
Column = npt.NDArray[np.int16]

SPARE = 4
"""Ways per state that are compared in detail, before those that lead to one state are merged."""

MOST_CELLS = 2**24
"""States times variables that are remembered for the way back: 100 MB."""


def sweep(dual: TreeReweighted, best: float, states: int) -> tuple[list[int] | None, float]:
    """Labels that cost less than ``best``, where a sweep with so many states finds some, and a bound of all labels' cost.

    The network is that of ``dual``; costs are whole numbers. Equal inputs give equal labels on any machine.
    """
    network = dual.network
    states = max(1, min(states, MOST_CELLS // len(network.unary)))
    last = [max({variable, *others}) for variable, others in enumerate(network.neighbours)]
    front: list[int] = []
    columns: list[Column] = []  # for each variable of the front the labels [state]
    terms = list(dual.terms())
    bounds = np.full(1, sum(term.least for term in terms))
    steps = []
    proven = best
    for variable, term in enumerate(terms):
        total = bounds[:, None] + (term.costs - term.least)
        for other, table in term.tables:
            total += table[columns[front.index(other)]]
        found, values, lost = _cheapest(total, best - 0.5, SPARE * states)
        rows, labels = np.divmod(found, len(term.costs))
        stay = [number for number, passed in enumerate(front) if last[passed] > variable]
        keys = np.arange(len(bounds))
        if len(stay) < len(front):  # else no two states become one
            keys = _keys([(columns[n], len(terms[front[n]].costs)) for n in stay], keys)
        keys = keys[rows]
        if last[variable] > variable:
            keys = keys * len(term.costs) + labels
        kept = np.sort(np.unique(keys, return_index=True)[1])  # each key at its first, least value
        proven = min(proven, lost, *values[kept[states : states + 1]])
        kept = kept[:states]
        if not len(kept):
            return None, float(proven)
        rows, labels, bounds = rows[kept], labels[kept], values[kept]
        front, columns = [front[number] for number in stay], [columns[number][rows] for number in stay]
        if last[variable] > variable:
            front.append(variable)
            columns.append(labels.astype(np.int16))
        steps.append((rows.astype(np.int32), labels.astype(np.int16)))
    chosen, at = [], 0  # at the end nothing is open: there is one state
    for before, labels in reversed(steps):
        chosen.append(int(labels[at]))
        at = int(before[at])
    return chosen[::-1], float(min(proven, bounds[0]))


def _cheapest(
    total: npt.NDArray[np.float64], below: float, most: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64], float]:
    """Flat indices and values of at most so many entries, cheapest first, and the least value left out in their favour."""
    flat = total.reshape(-1)
    found = np.flatnonzero(flat <= below)
    if len(found) > most:
        found = found[flat[found] <= np.partition(flat[found], most)[most]]
    found = found[np.argsort(flat[found], kind="stable")]  # of equal ones the first go on
    lost = float(flat[found[most]]) if len(found) > most else np.inf
    return found[:most], flat[found[:most]], lost


def _keys(columns: list[tuple[Column, int]], numbers: Whole) -> Whole:
    """A number for each state, one below their count, equal where all labels are. Columns come with their number of labels."""
    keys, most = np.zeros_like(numbers), 1
    for column, size in columns:
        if most * size >= 2**63:
            keys, most = np.unique(keys, return_inverse=True)[1], len(numbers)
        keys, most = keys * size + column, most * size
    return np.asarray(np.unique(keys, return_inverse=True)[1])

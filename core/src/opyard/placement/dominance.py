"""Dominance: leaves out labels that another label of the same variable is never worse than.

Source: R. F. Goldstein, "Efficient rotamer elimination applied to protein side-chains and related spin glasses",
Biophysical Journal 66 (1994).
"""

from __future__ import annotations

import numpy as np

from .network import Costs, Labels, Network

ROUNDS = 3
LARGEST = 48
"""Labels of a variable beyond which the test, cubic in them, costs more than it saves."""


def useful_labels(network: Network, rounds: int = ROUNDS) -> list[Labels]:
    """For each variable the labels that some optimum may need. At least one optimum is kept; ties keep the lowest label."""
    keep = [_possible(costs) for costs in network.unary]
    advantages: dict[tuple[int, bool, bytes, bytes], Costs] = {}
    pending = set(range(len(keep)))
    for _ in range(rounds):
        changed: set[int] = set()
        for variable in sorted(pending):
            if not 1 < len(keep[variable]) <= LARGEST:
                continue
            left = _undominated(network, variable, keep, advantages)
            if len(left) < len(keep[variable]):
                keep[variable] = left
                changed |= network.neighbours[variable] | {variable}
        pending = changed
        if not pending:
            break
    return keep


def _possible(costs: Costs) -> Labels:
    finite = np.flatnonzero(np.isfinite(costs))
    return finite if len(finite) else np.arange(1)  # all are forbidden: one is as good as the others


def _undominated(
    network: Network,
    variable: int,
    keep: list[Labels],
    advantages: dict[tuple[int, bool, bytes, bytes], Costs],
) -> Labels:
    rows = keep[variable]
    costs = network.unary[variable][rows]
    excess = costs[:, None] - costs[None, :]  # excess[b, a]: how much b may cost beyond a
    for other in network.neighbours[variable]:
        first = variable < other
        table = network.tables[min(variable, other), max(variable, other)]
        key = (id(table), first, rows.tobytes(), keep[other].tobytes())
        if key not in advantages:
            advantages[key] = _advantage(table if first else table.T, rows, keep[other])
        excess = excess + advantages[key]
    dominates = excess <= 0
    np.fill_diagonal(dominates, False)
    ties = np.tril(dominates & dominates.T, -1)  # of two equal labels the lower one stays
    return rows[~(dominates & ~ties).any(axis=0)]


def _advantage(table: Costs, rows: Labels, columns: Labels) -> Costs:
    """The most by which label b (first axis) can be worse than a (second axis), whatever label the neighbour has."""
    part = table[np.ix_(rows, columns)]
    with np.errstate(invalid="ignore"):
        gaps = part[:, None, :] - part[None, :, :]
    gaps[np.isnan(gaps)] = -np.inf  # both are forbidden there: no objection
    worst: Costs = gaps.max(axis=2)
    return np.where(np.isneginf(worst), -1e300, worst)  # finite, so that sums of several stay defined

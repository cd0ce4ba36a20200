"""The exact minimum of networks whose tables are submodular: of any width, by a minimum cut.

A table is submodular (a Monge array) if for labels x < x' and y < y' ``T[x, y] + T[x', y'] <= T[x, y'] + T[x', y]``. With
two places all tables become so when labels are ordered by how near they are to one of the places: {A} < {A, B} < {B}.

Sources: H. Ishikawa, "Exact optimization for Markov random fields with convex priors", IEEE Transactions on Pattern Analysis
and Machine Intelligence 25 (2003), for the chain of nodes of each variable; D. Schlesinger and B. Flach, "Transforming an
arbitrary MinSum problem into a binary one", TU Dresden, report TUD-FI06-01 (2006), for the arcs of any submodular table.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .maxflow import sink_side
from .network import Costs, Labels, Network

Flags = npt.NDArray[np.bool_]

MOST_LABELS = 16
"""Labels of a variable up to which an order is looked for; the comparison of two variables is quartic in them."""


def submodular_labels(network: Network) -> list[int] | None:
    """The best labels, or None where no order of the labels is found in which all tables are submodular.

    Costs must be finite, or infinite in tables. None, too, if everything is forbidden.
    """
    orders = _label_orders(network)
    if orders is None:
        return None
    ordered = network.restricted(orders)
    cut = _Cut(ordered)
    for (first, second), table in ordered.tables.items():
        if not cut.add(first, second, table):
            return None
    labels = [int(order[label]) for order, label in zip(orders, cut.labels(), strict=True)]
    return labels if np.isfinite(network.cost(labels)) else None


def _label_orders(network: Network) -> list[Labels] | None:
    """An order of the labels of each variable in which tables can be submodular, or None where there is none.

    Where two labels of a variable come in one order, a table says in which its neighbours' labels come. Where none says,
    the lower label comes first; that may be wrong, so whoever uses the orders has to look at the tables again.
    """
    sizes = [len(costs) for costs in network.unary]
    if max(sizes, default=0) > MOST_LABELS:
        return None
    before = [np.ones((size, size), bool) for size in sizes]  # [a, b]: a may come before b
    for start in sorted(range(len(sizes)), key=lambda variable: (sizes[variable], variable)):
        while len(choices := np.argwhere(np.triu(before[start] & before[start].T, 1))):
            first, second = choices[0]
            before[start][second, first] = False
            changed = deque([start])
            while changed:
                variable = changed.popleft()
                settled = np.nonzero(before[variable] & ~before[variable].T)
                for other in sorted(network.neighbours[variable]):
                    known = before[other]
                    if 2 * known.sum() == sizes[other] * (sizes[other] + 1):
                        continue
                    table = network.tables[min(variable, other), max(variable, other)]
                    now = _closed(known & _may_precede(table if variable < other else table.T, *settled))
                    if not (now | now.T).all():
                        return None
                    if (now != known).any():
                        before[other] = now
                        changed.append(other)
    return [np.argsort((~may).sum(axis=1), kind="stable") for may in before]  # by the number that come before


def _may_precede(table: Costs, upper: Labels, lower: Labels) -> Flags:
    """``[a, b]``: whether column a may come before b, given that each row of ``upper`` does so to that of ``lower``."""
    straight = table[upper][:, :, None] + table[lower][:, None, :]
    return np.asarray((straight <= straight.transpose(0, 2, 1)).all(axis=0))


def _closed(before: Flags) -> Flags:
    """If a comes before b, and b before c, then c does not come before a."""
    settled = before & ~before.T
    return before & ~(settled @ settled).T


class _Cut:
    """A graph whose cuts are labellings. A variable of k labels is a chain of k - 1 nodes; its label is the number of them
    that lie on the side of the source. Node 0 is the source, node 1 the sink."""

    def __init__(self, network: Network) -> None:
        self.unary = [costs.copy() for costs in network.unary]
        self.start = np.cumsum([2, *(len(costs) - 1 for costs in self.unary)]).tolist()
        self.tails: list[npt.NDArray[np.int64]] = []
        self.heads: list[npt.NDArray[np.int64]] = []
        self.capacities: list[Costs] = []

    def _nodes(self, variable: int) -> npt.NDArray[np.int64]:
        return np.arange(self.start[variable], self.start[variable + 1])

    def _arcs(self, tails: npt.NDArray[np.int64], heads: npt.NDArray[np.int64], capacities: Costs) -> None:
        used = capacities > 0
        self.tails.append(tails[used])
        self.heads.append(heads[used])
        self.capacities.append(capacities[used])

    def add(self, first: int, second: int, table: Costs) -> bool:
        """Adds a table, unless it is not submodular."""
        parts = _parts(table)
        if parts is None:
            return False
        self.unary[first] += parts.rows
        self.unary[second] += parts.columns
        tails, heads = np.meshgrid(self._nodes(first), self._nodes(second), indexing="ij")
        self._arcs(tails, heads, parts.forward)
        self._arcs(heads, tails, parts.backward)
        return True

    def labels(self) -> list[int]:
        """The labels of the cheapest cut."""
        for variable, costs in enumerate(self.unary):
            chain = np.concatenate([[0], self._nodes(variable), [1]])
            self._arcs(chain[:-1], chain[1:], costs - costs.min())
            inner = self._nodes(variable)
            self._arcs(inner[1:], inner[:-1], np.full(max(0, len(inner) - 1), np.inf))
        capacities = np.concatenate(self.capacities)
        finite = np.isfinite(capacities)
        most = capacities[finite].sum() + 1  # never the cheapest to cut
        whole = np.where(finite, capacities, most).astype(np.int64)
        away = sink_side(self.start[-1], np.concatenate(self.tails), np.concatenate(self.heads), whole)
        return [int((~away[self._nodes(variable)]).sum()) for variable in range(len(self.unary))]


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """A table as costs of its rows and columns, and of arcs ``[step of the first variable, step of the second]``.

    ``forward`` is paid if the first variable is past its step and the second is not, ``backward`` the other way round.
    """

    rows: Costs
    columns: Costs
    forward: Costs
    backward: Costs


def _parts(table: Costs) -> _Parts | None:
    """The parts that sum to a table, or None where it is not submodular, or has a row or column that is all forbidden.

    What is forbidden becomes arcs that no cut crosses; the finite values put in its place are raised to fit the others.
    """
    allowed = np.isfinite(table)
    flip = (slice(None, None, -1), slice(None))
    reach = np.logical_or.accumulate(np.logical_or.accumulate(allowed[flip], 0), 1)[flip]
    no_forward = ~reach[1:, :-1]  # nothing is allowed where the first is past the step, and the second not
    back = np.logical_or.accumulate(np.logical_or.accumulate(allowed[:, ::-1], 0), 1)[:, ::-1]
    no_backward = ~back[:-1, 1:]
    covered = np.zeros_like(allowed)
    covered[1:, :-1] |= no_forward
    covered[:-1, 1:] |= no_backward
    filled = np.where(allowed, table, 0.0)
    bend = filled[:-1, 1:] + filled[1:, :-1] - filled[1:, 1:] - filled[:-1, :-1]
    if (~allowed & ~covered).any() or ((bend < 0) & ~no_forward & ~no_backward).any():
        return None
    raised = np.zeros_like(filled)
    raised[:-1, 1:] = np.where(no_backward & ~no_forward, np.maximum(-bend, 0.0), 0.0)
    filled += np.cumsum(np.cumsum(raised[::-1], 0)[::-1], 1)
    return _Parts(
        filled[:, -1],
        filled[0] - filled[0, -1],
        np.where(no_forward, np.inf, np.maximum(bend, 0.0)),
        np.where(no_backward, np.inf, 0.0),
    )

"""The minimum cut of a directed graph with whole capacities, by maximum flow.

Source: A. Goldberg and R. Tarjan, "A new approach to the maximum-flow problem", Journal of the ACM 35 (1988): push-relabel,
here with all active nodes at once, and with heights that are set anew by breadth-first search every few rounds, as in
B. Cherkassky and A. Goldberg, "On implementing the push-relabel method for the maximum flow problem", Algorithmica 19 (1997).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Whole = npt.NDArray[np.int64]

ROUNDS = 16
"""Rounds of pushing between two searches for the heights."""


def sink_side(count: int, tails: Whole, heads: Whole, capacities: Whole) -> npt.NDArray[np.bool_]:
    """Which of ``count`` nodes lie on the sink's side of the minimum cut that has the fewest there.

    Node 0 is the source, node 1 the sink; ``capacities`` belong to the arcs from ``tails`` to ``heads``, and their sum is
    below 2**62. The cut does not depend on the order of the arcs.
    """
    flow = _Preflow(count, tails, heads, capacities)
    while len(active := flow.search()):
        for _ in range(ROUNDS):
            active = flow.push(active)
    return flow.heights < count


class _Preflow:
    """Arcs, each followed by its reverse somewhere, sorted by their tails; ``residual`` is what they can still carry."""

    def __init__(self, count: int, tails: Whole, heads: Whole, capacities: Whole) -> None:
        both = np.concatenate([tails, heads])
        order = np.argsort(both, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        self.count = count
        self.mate = place[(order + len(tails)) % len(order)]
        self.heads = np.concatenate([heads, tails])[order]
        self.residual = np.concatenate([capacities, np.zeros_like(capacities)])[order]
        self.first = np.searchsorted(both[order], np.arange(count + 1))
        self.excess = np.zeros(count, np.int64)
        self.heights = np.zeros(count, np.int64)
        leaving = np.arange(self.first[0], self.first[1])  # the source gives all that it can
        given = self.residual[leaving]
        np.add.at(self.excess, self.heads[leaving], given)
        self.residual[self.mate[leaving]] += given
        self.residual[leaving] = 0

    def _arcs(self, nodes: Whole) -> tuple[Whole, Whole]:
        """All arcs that leave the nodes, and where those of each node start among them."""
        sizes = self.first[nodes + 1] - self.first[nodes]
        starts = np.cumsum(sizes) - sizes
        return np.arange(sizes.sum()) + np.repeat(self.first[nodes] - starts, sizes), starts

    def search(self) -> Whole:
        """Sets heights to the distance from the sink, ``count`` where there is no way; gives the active nodes."""
        self.heights[:] = self.count
        self.heights[1], layer, distance = 0, np.array([1]), 0
        while len(layer):
            distance += 1
            arcs, _ = self._arcs(layer)
            found = self.heads[arcs[self.residual[self.mate[arcs]] > 0]]
            layer = np.unique(found[self.heights[found] == self.count])
            layer = layer[layer != 0]
            self.heights[layer] = distance
        return self._active(np.arange(self.count))

    def _active(self, nodes: Whole) -> Whole:
        usable = (self.excess[nodes] > 0) & (self.heights[nodes] < self.count) & (nodes > 1)
        return np.asarray(nodes[usable])

    def push(self, active: Whole) -> Whole:
        """Every active node pushes all it can one step down; those with something left rise. Gives who is active then."""
        if not len(active):
            return active
        arcs, starts = self._arcs(active)
        owners = np.repeat(np.arange(len(active)), np.diff(np.append(starts, len(arcs))))
        heads, heights = self.heads[arcs], self.heights
        down = heights[active][owners] == heights[heads] + 1
        room = np.where(down, self.residual[arcs], 0)
        passed = np.cumsum(room)
        before = passed - room - (passed - room)[starts][owners]
        pushed = np.clip(self.excess[active][owners] - before, 0, room)
        self.residual[arcs] -= pushed
        self.residual[self.mate[arcs]] += pushed
        self.excess[active] -= np.add.reduceat(pushed, starts)
        np.add.at(self.excess, heads, pushed)
        above = np.where(self.residual[arcs] > 0, heights[heads] + 1, self.count)
        rise = np.minimum(np.minimum.reduceat(above, starts), self.count)
        stuck = self.excess[active] > 0
        self.heights[active[stuck]] = np.maximum(heights[active], rise)[stuck]
        return self._active(np.unique(np.concatenate([active, heads[pushed > 0]])))

"""Levels: the most bytes that a placement keeps for a time in each limited address space, and parts of a problem by them.

Weights lie on a device all the time, tensors for a few steps. Prices see the mean of several solutions, and a tensor that half
of them keep counts as half of one, at no step more; but a placement that uses it at all must leave room for all of it.
So the problem is divided by that room: where it is small, all labels that need more are forbidden, and where it is large, so much
less is left for weights. A node needs room for its inputs and outputs together, which each of its labels tells by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .bundle import Plane
from .memory import Bytes, Residency, Term
from .network import Costs, Network

UNKNOWN = -(2.0**50)
"""Less than any bytes, and still exact when bytes are added."""

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Room:
    """By address space the bytes ``[row]`` that a part of a problem keeps for a time: at most ``high``, and at some step ``low``."""

    low: Costs
    high: Costs

    @staticmethod
    def unknown(rows: int) -> Room:
        """Nothing is known of any of so many address spaces."""
        return Room(np.full(rows, UNKNOWN), np.full(rows, np.inf))


class Levels:
    """What each label ``[row, label]`` of each variable keeps, whatever the others are, in bytes.

    needed  what lies there at one step for a time;  kept  what lies there all the time
    """

    def __init__(self, network: Network, residency: Residency) -> None:
        rows = len(residency.limits)
        self._network = network
        self.needed = [np.zeros((rows, len(costs))) for costs in network.unary]
        self.kept = [np.zeros((rows, len(costs))) for costs in network.unary]
        for term in residency.terms:
            if term.end > residency.steps and term.second < 0:
                self.kept[term.first][term.row] += term.nbytes * term.mask
        self._limits = residency.limits[:, None]
        self._finite: dict[tuple[int, int], Flags] = {}
        for (first, second), table in network.tables.items():
            self._finite[first, second] = np.isfinite(table)
            self._finite[second, first] = self._finite[first, second].T
        for row, terms in _together(residency):
            self._note(row, terms)
        self.steps = [
            np.unique(np.concatenate([needed[row] for needed in self.needed])) for row in range(rows)
        ]

    def peaks(self, labels: Sequence[int]) -> Costs:
        """The bytes ``[row]`` that an assignment keeps for a time at least, at the step at which these are most."""
        found: Costs = np.max(
            [needed[:, label] for needed, label in zip(self.needed, labels, strict=True)], axis=0
        )
        return found

    def halves(self, room: Room, mixture: list[tuple[Plane, float]], worth: Costs) -> list[Room]:
        """The room divided where the solutions of a mixture differ most by what bytes are worth; empty where it cannot be.

        mixture  solutions with their weights;  worth  the price of a byte ``[row]``
        """
        weights = np.array([weight for _, weight in mixture])
        peaks = np.array([self.peaks(plane.labels) for plane, _ in mixture])
        mean = weights @ peaks
        spread = worth * (weights @ np.abs(peaks - mean))
        for row in np.argsort(-spread, kind="stable"):
            steps = self.steps[row]
            inside = steps[(steps >= room.low[row]) & (steps <= room.high[row])]
            if len(inside) > 1:
                at = min(max(int(np.searchsorted(inside, mean[row], "right")), 1), len(inside) - 1)
                low, high = room.low.copy(), room.high.copy()
                low[row], high[row] = inside[at], inside[at - 1]
                return [Room(room.low, high), Room(low, room.high)]
        return []

    def within(self, network: Network, room: Room) -> Network:
        """The network with labels forbidden that need more room, or whose weights leave too little."""
        high, low = room.high[:, None], room.low[:, None]
        unary = []
        for costs, needed, kept in zip(network.unary, self.needed, self.kept, strict=True):
            forbidden = (needed > high) | (kept + np.maximum(needed, low) > self._limits)
            unary.append(np.where(forbidden.any(axis=0), np.inf, costs))
        return network.with_unary(unary)

    def least(self, room: Room, rows: list[Costs]) -> float:
        """What reaching the room costs at least, given for each label of each variable what forcing it costs at least."""
        found = 0.0
        for row in np.flatnonzero(room.low > 0):
            reaching = (
                costs[needed[row] >= room.low[row]] for costs, needed in zip(rows, self.needed, strict=False)
            )
            found = max(found, min(float(np.min(costs, initial=np.inf)) for costs in reaching))
        return found

    def _note(self, row: int, terms: list[Term]) -> None:
        """Adds up, for each label, the bytes of terms of one step that hold whenever it is chosen."""
        masks: dict[tuple[int, int, int], Flags] = {}
        for term in terms:  # those of one tensor differ by when it is made
            key = term.first, term.second, term.nbytes
            masks[key] = masks[key] | term.mask if key in masks else term.mask
        total: dict[int, Bytes] = {}
        for (first, second, nbytes), mask in masks.items():
            for variable, sure in self._sure(first, second, mask).items():
                total[variable] = total.get(variable, np.zeros(len(sure))) + nbytes * sure
        for variable, needed in total.items():
            np.maximum(self.needed[variable][row], needed, out=self.needed[variable][row])

    def _sure(self, first: int, second: int, mask: Flags) -> dict[int, Flags]:
        """For variables near a term their labels with which it holds, whatever the others are."""
        found: dict[int, Flags] = {first: mask}
        if second >= 0:
            possible = self._possible(first, second)
            sure = mask | ~possible
            found = {first: np.asarray(sure.all(axis=1)), second: np.asarray(sure.all(axis=0))}
        for near, sure in list(found.items()):
            for other in self._network.neighbours[near] - {first, second}:
                here = np.asarray((sure[None, :] | ~self._possible(other, near)).all(axis=1))
                found[other] = found[other] | here if other in found else here
        return found

    def _possible(self, first: int, second: int) -> Flags:
        """Pairs of labels of two variables that nothing forbids."""
        here, there = self._network.unary[first], self._network.unary[second]
        either: Flags = np.isfinite(here)[:, None] & np.isfinite(there)[None, :]
        known = self._finite.get((first, second))
        return either if known is None else either & known


def _together(residency: Residency) -> Iterator[tuple[int, list[Term]]]:
    """For each row and step the terms that lie there then for a time."""
    found: dict[tuple[int, int], list[Term]] = {}
    for term in residency.terms:
        if term.end <= residency.steps:
            for step in range(term.begin, term.end + 1):
                found.setdefault((term.row, step), []).append(term)
    for (row, _), terms in found.items():
        yield row, terms

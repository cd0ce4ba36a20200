"""A lower bound for networks that are too wide to eliminate, and labels that come near it.

Source: V. Kolmogorov, "Convergent tree-reweighted message passing for energy minimization", IEEE Transactions on Pattern
Analysis and Machine Intelligence 28 (2006): the sequential algorithm TRW-S. Its bound is often the optimum itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .network import Costs, Network

FORBIDDEN = 1e12
"""Stands for infinity, so that differences are defined; a bound stays a bound when forbidden costs are lowered."""

DECODE_EVERY = 8
"""Sweeps between two decodings."""


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """The part of the total cost that a variable adds to those before it: never below ``least``, whatever their labels.

    ``costs`` are those of its labels, ``tables`` are ``[label of an earlier variable, label]``.
    """

    least: float
    costs: Costs
    tables: list[tuple[int, Costs]]


class TreeReweighted:
    """Messages between the variables of a network; ``bound`` and the best ``labels`` with their ``cost`` so far."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.unary = [np.minimum(costs, FORBIDDEN) for costs in network.unary]
        self.forward: list[list[tuple[int, Costs]]] = [[] for _ in self.unary]
        self.backward: list[list[tuple[int, Costs]]] = [[] for _ in self.unary]
        self.messages: dict[tuple[int, int], Costs] = {}
        finite: dict[int, Costs] = {}
        for (first, second), table in network.tables.items():
            known = finite.setdefault(id(table), np.minimum(table, FORBIDDEN))
            self.forward[first].append((second, known))
            self.backward[second].append((first, known))
            self.messages[first, second] = np.zeros(table.shape[1])
            self.messages[second, first] = np.zeros(table.shape[0])
        self.weights = [
            1.0 / max(len(f), len(b), 1) for f, b in zip(self.forward, self.backward, strict=True)
        ]
        self.bound = -np.inf
        self.cost = np.inf
        self.labels = [0] * len(self.unary)

    def run(self, sweeps: int) -> None:
        """Sweeps until the bound meets the labels' cost, or as often as told."""
        for sweep in range(sweeps):
            self._forward_sweep(decode=sweep % DECODE_EVERY == DECODE_EVERY - 1)
            self.bound = max(self.bound, self._backward_sweep())
            if self.cost - self.bound < 0.5:  # costs are whole numbers: this is the optimum
                self.bound = self.cost
                return

    def _belief(self, variable: int) -> Costs:
        belief = self.unary[variable]
        for other, _ in self.backward[variable]:
            belief = belief + self.messages[other, variable]
        for other, _ in self.forward[variable]:
            belief = belief + self.messages[other, variable]
        return belief

    def _forward_sweep(self, decode: bool) -> None:
        labels = [0] * len(self.unary)
        for variable in range(len(self.unary)):
            if decode:
                labels[variable] = self._decoded(variable, labels)
            share = self.weights[variable] * self._belief(variable)
            for other, table in self.forward[variable]:
                message = ((share - self.messages[other, variable])[:, None] + table).min(axis=0)
                self.messages[variable, other] = message - message.min()
        if decode and (cost := self.network.cost(labels)) < self.cost:
            self.cost, self.labels = cost, labels

    def _decoded(self, variable: int, labels: list[int]) -> int:
        """The best label given those of earlier variables, and the messages of later ones."""
        costs = self.unary[variable]
        for other, table in self.backward[variable]:
            costs = costs + table[labels[other]]
        for other, _ in self.forward[variable]:
            costs = costs + self.messages[other, variable]
        return int(costs.argmin())

    def _backward_sweep(self) -> float:
        bound = 0.0
        for variable in reversed(range(len(self.unary))):
            belief = self._belief(variable)
            share = self.weights[variable] * belief
            for other, table in self.backward[variable]:
                message = ((share - self.messages[other, variable])[None, :] + table).min(axis=1)
                least = float(message.min())
                self.messages[variable, other] = message - least
                bound += least
            bound += float(belief.min()) * (1 - len(self.backward[variable]) * self.weights[variable])
        return bound

    def terms(self) -> Iterator[Term]:
        """The network's costs with the messages moved in: for any labels they sum to the same, and the least to the bound."""
        for variable, weight in enumerate(self.weights):
            belief = self._belief(variable)
            least = float(belief.min()) * (1 - len(self.backward[variable]) * weight)
            tables = []
            for other, table in self.backward[variable]:
                moved = table - self.messages[other, variable] - self.messages[variable, other][:, None]
                least += float((weight * belief + moved).min())
                tables.append((other, moved))
            yield Term(least, belief, tables)

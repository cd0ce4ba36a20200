"""Bucket elimination: the exact minimum of a network, and the price of every label.

Sources: R. Dechter, "Bucket elimination: a unifying framework for reasoning", Artificial Intelligence 113 (1999); for the
second pass G. Shafer and P. Shenoy, "Probability propagation", Annals of Mathematics and AI 2 (1990), with minimum for sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .network import Costs, Network
from .orders import Order, smallest_first

Scope = tuple[int, ...]
Factor = tuple[Scope, Costs]

LARGEST_TABLE = 2.0**25
"""Entries of the largest table that is built: 256 MiB."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A variable as it was when it was eliminated: its costs, the factors over it, and the message that replaced them."""

    variable: int
    scope: Scope
    unary: Costs
    factors: tuple[Factor, ...]
    message: Costs


class Elimination:
    """Eliminates the variables of a network in an order; by default those with the smallest tables first, as far as possible.

    ``left`` are the variables that remain; when none does, ``optimum`` is the minimum.
    """

    def __init__(self, network: Network, order: Order | None = None) -> None:
        self.unary = list(network.unary)
        self.sizes = [len(costs) for costs in self.unary]
        self.left = set(range(len(self.unary)))
        self.buckets: list[Bucket] = []
        self.optimum = 0.0
        self.factors: dict[int, Factor] = {}
        self._touching: list[list[int]] = [[] for _ in self.unary]
        self._made = 0
        for pair, table in network.tables.items():
            self._add(pair, table)
        for variable, scope in smallest_first(network, LARGEST_TABLE) if order is None else order:
            self._eliminate(variable, scope)

    def _add(self, scope: Scope, table: Costs) -> None:
        self.factors[self._made] = (scope, table)
        for variable in scope:
            self._touching[variable].append(self._made)
        self._made += 1

    def _eliminate(self, variable: int, scope: Scope) -> None:
        numbers = [n for n in self._touching[variable] if n in self.factors]
        factors = tuple(self.factors.pop(number) for number in numbers)
        message = self._joint((*scope, variable), self.unary[variable], factors).min(axis=-1)
        self.buckets.append(Bucket(variable, scope, self.unary[variable], factors, message))
        self.left.discard(variable)
        if not scope:
            self.optimum += float(message)
        elif len(scope) == 1:
            self.unary[scope[0]] = self.unary[scope[0]] + message
        else:
            self._add(scope, message)

    def _joint(self, scope: Scope, unary: Costs, factors: tuple[Factor, ...]) -> Costs:
        """The costs of all combinations of the variables in ``scope``; ``unary`` belongs to the last one."""
        total = unary
        for inner, table in sorted(factors, key=lambda factor: factor[1].size):
            total = total + spread(table, inner, scope)
        return np.broadcast_to(total, tuple(self.sizes[variable] for variable in scope))

    def labels(self, fixed: dict[int, int] | None = None) -> list[int]:
        """The best labels, given those of the variables that are left. Ties go to the lowest label."""
        labels = [0] * len(self.sizes)
        for variable, label in (fixed or {}).items():
            labels[variable] = label
        for bucket in reversed(self.buckets):
            costs = bucket.unary
            for scope, table in bucket.factors:
                costs = (
                    costs + table[tuple(slice(None) if v == bucket.variable else labels[v] for v in scope)]
                )
            labels[bucket.variable] = int(np.argmin(costs))
        return labels

    def marginals(self) -> list[Costs]:
        """For every label of every variable the least total cost of an assignment with it. Nothing must be left."""
        result: list[Costs] = [np.empty(0)] * len(self.sizes)
        order = {bucket.variable: number for number, bucket in enumerate(self.buckets)}
        beliefs: dict[int, tuple[Scope, Costs]] = {}
        waiting = {bucket.variable: 0 for bucket in self.buckets}
        for bucket in self.buckets:
            if bucket.scope:
                waiting[min(bucket.scope, key=order.__getitem__)] += 1
        for bucket in reversed(self.buckets):
            scope = (*bucket.scope, bucket.variable)
            belief = (
                self._joint(scope, bucket.unary, bucket.factors)
                + self._outside(bucket, beliefs, order)[..., None]
            )
            result[bucket.variable] = belief.min(axis=tuple(range(len(scope) - 1)))
            if waiting[bucket.variable]:
                beliefs[bucket.variable] = (scope, belief)
            if bucket.scope:
                parent = min(bucket.scope, key=order.__getitem__)
                waiting[parent] -= 1
                if not waiting[parent]:
                    del beliefs[parent]
        return result

    def _outside(
        self, bucket: Bucket, beliefs: dict[int, tuple[Scope, Costs]], order: dict[int, int]
    ) -> Costs:
        """The least cost of everything but this bucket and what lies below it, for each combination of its scope."""
        if not bucket.scope:
            return np.asarray(self.optimum - float(bucket.message))
        outer, belief = beliefs[min(bucket.scope, key=order.__getitem__)]
        best = belief.min(axis=tuple(i for i, v in enumerate(outer) if v not in bucket.scope))
        inside = spread(best, tuple(v for v in outer if v in bucket.scope), bucket.scope)
        with np.errstate(invalid="ignore"):
            return np.where(np.isfinite(bucket.message), inside - bucket.message, np.inf)


def spread(table: Costs, inner: Scope, outer: Scope) -> Costs:
    """``table`` over the variables ``inner`` with axes in the order of ``outer``, and of size 1 where a variable is missing."""
    places = [outer.index(variable) for variable in inner]
    axes = sorted(range(len(inner)), key=places.__getitem__)
    shape = [1] * len(outer)
    for axis in axes:
        shape[places[axis]] = table.shape[axis]
    return table.transpose(axes).reshape(shape)

"""Disjoint sets: things that belong together because they were joined, directly or by way of others.

Source: R. E. Tarjan, "Efficiency of a good but not linear set union algorithm", Journal of the ACM 22 (1975).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class DisjointSets(Generic[T]):
    """Each thing is a set of its own until it is joined with another."""

    def __init__(self) -> None:
        self._above: dict[T, T] = {}

    def of(self, thing: T) -> T:
        """A member of the thing's set, the same one for all its members."""
        above = self._above
        while (higher := above.get(thing, thing)) != thing:
            above[thing] = above.get(higher, higher)
            thing = above[thing]
        return thing

    def join(self, one: T, other: T) -> None:
        """Makes the sets of both one set, which the first one's member stands for."""
        first, second = self.of(one), self.of(other)
        if first != second:
            self._above[second] = first

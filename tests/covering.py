"""Every cover of a graph by matches, for tests that compare a placement with brute force."""

from __future__ import annotations

from collections.abc import Iterator

import opyard as oy
from opyard.placement.match import Match
from opyard.selection import Candidate

Covered = list[tuple[Match, Candidate]]


def covers(graph: oy.Graph, ways: dict[oy.Node, Covered]) -> Iterator[Covered]:
    """Every way to cover the nodes from the first on, one way for each."""

    def rest(done: frozenset[oy.Node]) -> Iterator[Covered]:
        node = next((n for n in graph.nodes if n not in done), None)
        if node is None:
            yield []
            return
        for match, candidate in ways[node]:
            if done.isdisjoint(match.nodes):
                for others in rest(done | set(match.nodes)):
                    yield [(match, candidate), *others]

    return rest(frozenset())

"""What binds: for each kind of constraint, how much faster the best placement without it would be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..graph import Graph
from ..rewrite import Rewrite
from .memory import Limits
from .model import Binding, Placement

Seconds = Callable[[Graph, Limits], float]
"""What is minimised, in seconds, of the best placement of a graph within memory limits."""


def bindings(placement: Placement, graph: Graph, memory: Limits, seconds: Seconds) -> tuple[Binding, ...]:
    """What the pins, the colocation and the memory limits of a placed graph cost, those that there are.

    graph, memory  what was placed; seconds  places again, with some of it left out
    """
    return tuple(
        Binding(constraint, max(0.0, placement.minimised - seconds(other, limits)))
        for constraint, other, limits in _without(graph, memory)
    )


def _without(graph: Graph, memory: Limits) -> Iterator[tuple[str, Graph, Limits]]:
    if any(node.mark.scope is not None for node in graph.nodes):
        yield "pins", _unmarked(graph, scope=None), memory
    if any(node.mark.group is not None for node in graph.nodes):
        yield "colocation", _unmarked(graph, group=None), memory
    if memory:
        yield "memory limits", graph, {}


def _unmarked(graph: Graph, **cleared: Any) -> Graph:
    """A copy of the graph in which the marks of all nodes lack some constraint."""
    rewrite = Rewrite(graph)
    for node in graph.nodes:
        for value in rewrite.copy(node):
            assert value.node is not None
            value.node.mark = node.mark._replace(**cleared)
    return rewrite.finish()

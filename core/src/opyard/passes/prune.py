"""Prune: leaves out nodes and constants that no output needs. Inputs stay, for they are the graph's interface."""

from __future__ import annotations

from ..graph import Graph, Node
from ..rewrite import Rewrite


def prune(graph: Graph) -> Graph:
    """The graph with only the nodes that its outputs need."""
    needed: set[Node] = set()
    stack = [value.node for value in graph.outputs.values()]
    while stack:
        node = stack.pop()
        if node is not None and node not in needed:
            needed.add(node)
            stack += [value.node for value in node.inputs if value is not None]
    rewrite = Rewrite(graph)
    for node in graph.nodes:
        if node in needed:
            rewrite.copy(node)
    return rewrite.finish()

"""Removal of bypasses: ops that only pass their inputs on give way to these inputs."""

from __future__ import annotations

from ..bypass import PassOn
from ..graph import Graph
from ..rewrite import Rewrite


def skip_bypasses(graph: Graph) -> Graph:
    """The graph without the marks that gradients left in it."""
    if not any(isinstance(node.op.decompose, PassOn) for node in graph.nodes):
        return graph
    rewrite = Rewrite(graph)
    for node in graph.nodes:
        if isinstance(node.op.decompose, PassOn):
            for old, new in zip(node.outputs, node.op.decompose(*rewrite.inputs(node)), strict=True):
                rewrite[old] = new
        else:
            rewrite.copy(node)
    return rewrite.finish()

"""Decompose: replaces composite ops by the ops that they are made of, where nobody has a kernel for them."""

from __future__ import annotations

from collections.abc import Callable

from ..graph import Graph, Node, Value, recording
from ..nest import leaves
from ..operation import Call
from ..rewrite import Rewrite


def decompose(graph: Graph, keep: Callable[[Call], bool]) -> Graph:
    """The graph with every composite call expanded, again and again, unless ``keep`` says that it stays whole."""
    if not any(node.op.decompose is not None and not keep(node.call) for node in graph.nodes):
        return graph
    rewrite = Rewrite(graph)
    for node in graph.nodes:
        if node.op.decompose is None or keep(node.call):
            rewrite.copy(node)
        else:
            expand(rewrite, node)
    return decompose(rewrite.finish(), keep)


def expand(rewrite: Rewrite, node: Node) -> None:
    """Appends what a composite call is made of to the new graph."""
    inputs = rewrite.inputs(node)
    before = len(rewrite.graph.nodes)
    assert node.op.decompose is not None
    with recording(rewrite.graph):
        result = node.op.decompose(*inputs, **node.call.attrs)
    for made in rewrite.graph.nodes[before:]:
        made.mark = node.mark  # the user wrote the composite, not its parts
    outputs = [leaf if isinstance(leaf, Value) else rewrite.graph.constant(leaf) for leaf in leaves(result)]
    for old, new in zip(node.outputs, outputs, strict=True):
        rewrite[old] = new

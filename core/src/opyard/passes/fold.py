"""Constant folding: calls whose inputs are all constants are computed once, by the reference."""

from __future__ import annotations

from ..graph import Graph
from ..rewrite import Rewrite

LIMIT = 16 * 2**20
"""Bytes of a result beyond which folding would cost more memory than it saves time."""


def fold_constants(graph: Graph) -> Graph:
    """The graph with constant calls replaced by their results. A call that raises stays, to raise when it runs; so do loops."""
    rewrite = Rewrite(graph)
    for node in graph.nodes:
        inputs = rewrite.inputs(node)
        constants = rewrite.graph.constants
        foldable = all(value is None or value in constants for value in inputs) and all(
            spec.is_concrete for spec in node.call.outputs
        )
        if not foldable or node.call.programs or sum(spec.nbytes for spec in node.call.outputs) > LIMIT:
            rewrite.copy(node)
            continue
        try:
            results = node.call.reference(*(None if value is None else constants[value] for value in inputs))
        except Exception:
            rewrite.copy(node)
            continue
        for old, result in zip(node.outputs, results, strict=True):
            rewrite[old] = rewrite.graph.constant(result, old.name)
    return rewrite.finish()

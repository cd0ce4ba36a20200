"""Passes: functions from Graph to Graph. Each leaves the meaning of every output as it was, to the bit; a NaN stays a NaN."""

from __future__ import annotations

from ..graph import Graph
from .bypasses import skip_bypasses
from .common import eliminate_common
from .decompose import decompose
from .dense import merge_linear
from .fold import fold_constants
from .movement import merge_movement
from .prune import prune
from .shared import share_parts
from .trivial import skip_trivial

__all__ = [
    "decompose",
    "eliminate_common",
    "fold_constants",
    "merge_linear",
    "merge_movement",
    "prune",
    "share_parts",
    "simplify",
    "simplify_parts",
    "skip_trivial",
]


def simplify(graph: Graph) -> Graph:
    """The standard sequence: what ``simplify_parts`` does, then dense layers, prune."""
    return prune(merge_linear(simplify_parts(graph)))


def simplify_parts(graph: Graph) -> Graph:
    """Prune, shared parts, constant folding, trivial calls, movement, common subexpressions, prune: nothing becomes a composite.

    What marks a place in the graph for gradients alone is left out first. What folding made equal is merged, too.
    """
    merged = eliminate_common(prune(skip_bypasses(graph)))
    folded = fold_constants(eliminate_common(share_parts(merged)))
    return prune(eliminate_common(merge_movement(skip_trivial(folded))))

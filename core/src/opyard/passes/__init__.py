"""Passes: functions from Graph to Graph. Each leaves the meaning of every output as it was."""

from __future__ import annotations

from ..graph import Graph
from .bypasses import skip_bypasses
from .common import eliminate_common
from .decompose import decompose
from .fold import fold_constants
from .prune import prune

__all__ = ["decompose", "eliminate_common", "fold_constants", "prune", "simplify"]


def simplify(graph: Graph) -> Graph:
    """The standard sequence: prune, common subexpressions, constant folding, and what folding made equal, prune.

    What marks a place in the graph for gradients alone is left out first.
    """
    folded = fold_constants(eliminate_common(prune(skip_bypasses(graph))))
    return prune(eliminate_common(folded))

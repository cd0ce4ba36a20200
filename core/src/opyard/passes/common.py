"""Common subexpression elimination: equal calls on equal inputs are made once, equal small constants are kept once."""

from __future__ import annotations

from typing import Any

from ..graph import Graph, Value
from ..rewrite import Rewrite

SMALL = 4096
"""Bytes up to which constants are compared by contents; larger ones only by identity."""


def eliminate_common(graph: Graph) -> Graph:
    """The graph with equal nodes merged. Every op is a function of its inputs, random ones too (they take a key)."""
    rewrite = Rewrite(graph)
    constants: dict[Any, Value] = {}
    for value, array in graph.constants.items():
        if array.nbytes <= SMALL:
            contents = (array.dtype.name, array.shape, array.tobytes())
            if contents not in constants:
                constants[contents] = rewrite[value]
            rewrite[value] = constants[contents]
    made: dict[Any, tuple[Value, ...]] = {}
    for node in graph.nodes:
        written = tuple(map(repr, node.call.attributes))  # 1 == 1.0 == True
        key = (node.op, node.call.attributes, written, rewrite.inputs(node), *node.mark[1:])
        if key in made:
            for old, new in zip(node.outputs, made[key], strict=True):
                rewrite[old] = new
        else:
            made[key] = rewrite.copy(node)
    return rewrite.finish()

"""Shared parts: what several composites would make anew of the same few numbers, such as random masks, is made once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from ..graph import Graph, Node, Value, recording
from ..rewrite import Rewrite
from .decompose import expand

RATIO = 64
"""Bytes that a part makes of each byte that it takes, from which on it pays to keep them, and not to make them again."""


def share_parts(graph: Graph) -> Graph:
    """The graph with composites decomposed that have such a part in common; merging equal calls then makes it one.

    The masks of dropout are an example: a step of training needs the same one forward and backward.
    """
    parts = {node: set(_generators(node)) for node in graph.nodes if node.op.decompose is not None}
    counts = Counter(key for found in parts.values() for key in found)
    chosen = {node for node, found in parts.items() if any(counts[key] > 1 for key in found)}
    if not chosen:
        return graph
    rewrite = Rewrite(graph)
    for node in graph.nodes:
        if node in chosen:
            expand(rewrite, node)
        else:
            rewrite.copy(node)
    return rewrite.finish()


def _generators(node: Node) -> Iterator[Any]:
    """What identifies each call in the decomposition that makes much of little, and takes nothing but inputs of the composite."""
    if node.call.programs or not all(value is None or value.spec.is_concrete for value in node.inputs):
        return
    body = Graph()
    given: dict[Value, Value] = {}
    inputs: list[Value | None] = []
    for number, value in enumerate(node.inputs):
        inputs.append(None if value is None else body.input(f"input_{number}", value.spec))
        if value is not None:
            given[body.inputs[f"input_{number}"]] = value
    assert node.op.decompose is not None
    with recording(body):
        node.op.decompose(*inputs, **node.call.attrs)
    for part in body.nodes:
        taken = tuple(given[value] for value in part.inputs if value in given)
        small, large = sum(v.spec.nbytes for v in taken), sum(v.spec.nbytes for v in part.outputs)
        if taken and len(taken) == sum(v is not None for v in part.inputs) and large >= RATIO * small:
            yield part.op, part.call.attributes, taken, node.mark[1:]

"""In which steps a region is computed: at once, or up to its first reductions, which are made in parts, and then what is left.

In parts are made the reductions of columns, and those of one long row: each thread reduces some of it, and the parts are
reduced at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from opyard.graph import Node, Value
from opyard.region import Region

from .scalars import Untranslatable
from .space import REDUCTIONS, Space, space_of

LONG_ROW = 1 << 16
"""Elements of a single row from which on it is reduced in parts."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A region that is one nest of loops. ``in_parts``: its outputs are reductions, of which there is one for each thread.

    inputs, outputs  values of the graph of the whole region
    """

    region: Region
    space: Space
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    in_parts: bool


@lru_cache(maxsize=512)
def steps_of(region: Region) -> tuple[Step, ...]:
    """The steps of a region. Raises Untranslatable."""
    graph = region.graph
    outputs = tuple(graph.outputs.values())
    reason = Untranslatable("")
    try:
        space = space_of(graph)
    except Untranslatable as error:
        reason = error
    else:
        if not _is_in_parts(space):
            return (Step(region, space, tuple(graph.inputs.values()), outputs, False),)
    first = _first_reductions(graph.nodes)
    if not first:
        raise reason
    sums = tuple(node.outputs[0] for node in first)
    head = _cut(graph.nodes, sums, set())
    space = space_of(head.region.graph)
    if not _is_in_parts(space):
        raise reason
    step = Step(head.region, space, head.inputs, sums, True)
    known = set(sums)
    rest = tuple(value for value in outputs if value not in known)
    return (step, *_following(_cut(graph.nodes, rest, known))) if rest else (step,)


def _following(cut: _Cut) -> list[Step]:
    """The steps of what is left, a region of its own, with the values of the whole."""
    graph = cut.region.graph
    back: dict[Value, Value] = dict(zip(graph.inputs.values(), cut.inputs, strict=True))
    for new, old in zip(graph.nodes, cut.nodes, strict=True):
        back.update(zip(new.outputs, old.outputs, strict=True))
    found = []
    for step in steps_of(cut.region):
        inputs, outputs = (tuple(back[value] for value in side) for side in (step.inputs, step.outputs))
        found.append(Step(step.region, step.space, inputs, outputs, step.in_parts))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    region: Region
    inputs: tuple[Value, ...]
    nodes: tuple[Node, ...]


def _cut(nodes: Sequence[Node], outputs: tuple[Value, ...], known: set[Value]) -> _Cut:
    """What computes some values from inputs, and from values that are known."""
    maker = {node.outputs[0]: node for node in nodes}
    needed: set[Value] = set()
    waiting = list(outputs)
    while waiting:
        value = waiting.pop()
        if value not in needed:
            needed.add(value)
            if value in maker and value not in known:
                waiting += [v for v in maker[value].inputs if v is not None]
    chosen = tuple(node for node in nodes if node.outputs[0] in needed and node.outputs[0] not in known)
    made = {node.outputs[0] for node in chosen}
    taken = dict.fromkeys(v for node in chosen for v in node.inputs if v is not None and v not in made)
    inputs = tuple(value for value in taken if value not in value.graph.constants)
    return _Cut(Region.of(chosen, inputs, outputs), inputs, chosen)


def _is_in_parts(space: Space) -> bool:
    long = space.reduces == "row" and len(space.sizes) == 1 and space.sizes[0] > LONG_ROW
    return long or space.reduces == "column"


def _first_reductions(nodes: Sequence[Node]) -> list[Node]:
    """The reductions that no other comes before."""
    behind: set[Value] = set()
    found = []
    for node in nodes:
        if any(value in behind for value in node.inputs if value is not None):
            behind.add(node.outputs[0])
        elif node.op.name in REDUCTIONS:
            found.append(node)
            behind.add(node.outputs[0])
    return found

"""A graph as a function over the arrays of another library: its ops by name, from a table of that library's functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import opyard as oy
from opyard.errors import GraphError

Table = Mapping[str, Callable[..., Any]]
"""By the name of an op what computes it: arrays by position, None where one is left out, attributes as keywords."""


def translate(
    graph: oy.Graph, table: Table, library: str
) -> Callable[[Sequence[Any], Sequence[Any]], list[Any]]:
    """What computes the outputs of the graph from its constants and inputs, each in the order of the graph.

    ``library`` is what messages call the other side. Raises GraphError for an op that the table does not have.
    """
    places = {value: number for number, value in enumerate((*graph.constants, *graph.inputs.values()))}
    steps = []
    for node in graph.nodes:
        function = table.get(node.op.name)
        if function is None:
            raise GraphError(
                f"the translation to {library} has no op {node.op.name!r}; add it to the table of {library} in opyard_bench.peers."
            )
        taken = [None if value is None else places[value] for value in node.inputs]
        made = [places.setdefault(value, len(places)) for value in node.outputs]
        steps.append((function, taken, dict(node.call.attrs), made, node.call.is_tuple))
    results = [places[value] for value in graph.outputs.values()]
    last: dict[int, int] = {}
    for number, (_, taken, _, made, _) in enumerate(steps):
        last.update(dict.fromkeys([p for p in (*taken, *made) if p is not None], number))
    kept = {*results, *range(len(graph.constants) + len(graph.inputs))}
    frees = [
        [place for place, end in last.items() if end == n and place not in kept] for n in range(len(steps))
    ]

    def run(constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        known: dict[int, Any] = dict(enumerate((*constants, *inputs)))
        for (function, taken, attributes, made, is_tuple), free in zip(steps, frees, strict=True):
            found = function(*(None if place is None else known[place] for place in taken), **attributes)
            known.update(zip(made, found if is_tuple else (found,), strict=True))
            for place in free:
                del known[place]
        return [known[place] for place in results]

    return run


def split_sizes(sections: Any, size: int) -> list[int]:
    """The sizes of the parts of an axis, as the op ``split`` has them."""
    return [size // sections] * sections if isinstance(sections, int) else list(sections)


def plain_padding(padding: Any, rank: int) -> list[tuple[int, int]]:
    """Padding before and behind each spatial axis, from the forms of ``conv`` and the pools that are no text."""
    if isinstance(padding, int):
        return [(padding, padding)] * rank
    return [(pad, pad) if isinstance(pad, int) else (pad[0], pad[1]) for pad in padding]


def per_axis(number: Any, rank: int) -> list[int]:
    """One number for each spatial axis."""
    return [number] * rank if isinstance(number, int) else list(number)

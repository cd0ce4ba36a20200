"""Wholes: composite ops decomposed for placement, with the record that lets a kernel still compute one as a whole.

``expand`` replaces every composite call by what it is made of. Whether one kernel computes a composite, or several
compute its parts, is then a matter of cost like any other: the composite's kernels compete over ``Whole.nodes``.

The parts of one composite are never merged with those of another, so that what lies inside is used only inside, and
each composite can be taken as a whole whatever becomes of the others. Within one composite they are simplified.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..graph import Graph, Node, Value
from ..nest import leaves
from ..operation import Call
from ..passes import simplify_parts
from ..rewrite import Rewrite
from ..scope import Mark


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """A composite call and the nodes, adjacent and in order, that it became. Wholes may lie within each other.

    ``call`` is as the user made it; ``node`` stands for it, as a node that is not in the graph. An output that nothing in
    the graph needs of this call (it is unused, or it is an input passed on, or a constant) is a value that no node uses.
    """

    node: Node
    nodes: tuple[Node, ...]

    @property
    def call(self) -> Call:
        """The composite call."""
        return self.node.call

    @property
    def inputs(self) -> tuple[Value | None, ...]:
        """Values of the expanded graph that the call takes."""
        return self.node.inputs

    @property
    def outputs(self) -> tuple[Value, ...]:
        """Values of the expanded graph that the call makes."""
        return self.node.outputs


def expand(graph: Graph) -> tuple[Graph, list[Whole]]:
    """The graph with every composite op decomposed, again and again, and a Whole for each; inner ones come first.

    A composite that needs no nodes at all, such as one that passes its input on, has none. ``source`` of all parts is the
    line of the outermost composite, for that is what the user wrote.
    """
    expansion = _Expansion()
    new = {value: expansion.graph.input(name, value.spec) for name, value in graph.inputs.items()}
    expansion.add(graph, new, None)
    for name, value in graph.outputs.items():
        expansion.graph.output(name, new[value])
    return expansion.graph, expansion.wholes


def remainder(
    graph: Graph, wholes: Sequence[Whole], known: Container[Value]
) -> tuple[Graph, tuple[Value, ...]]:
    """What of an expanded graph remains to be computed when some of its values are known: they become its inputs.

    Gives the graph, with the same outputs, and the known values in the order of its inputs. A composite of whose parts none
    is known is a composite again; so its own kernels may compute it, and pins of its op hold.
    """
    part, nodes = Graph(), list[Node]()
    needed = set(graph.outputs.values())
    ending: dict[Node, Whole] = {}
    for whole in wholes:  # outer ones come last, so they win
        if not any(value in known for node in whole.nodes for value in node.outputs):
            ending[whole.nodes[-1]] = whole
    number = len(graph.nodes)
    while number:
        found = ending.get(graph.nodes[number - 1])
        node, size = (found.node, len(found.nodes)) if found else (graph.nodes[number - 1], 1)
        number -= size
        if any(value in needed and value not in known for value in node.outputs):
            nodes.append(node)
            needed.update(value for value in node.inputs if value is not None)
    remade = {value for node in nodes for value in node.outputs}
    part.inputs = {v.name: v for v in graph.values() if v in needed and v in known and v not in remade}
    part.constants, part.nodes, part.outputs = graph.constants, nodes[::-1], graph.outputs
    rewrite = Rewrite(part)
    for node in part.nodes:
        rewrite.copy(node)
    return rewrite.finish(), tuple(part.inputs.values())


class _Expansion:
    """The new graph and its wholes while they grow; ``bodies`` remembers what equal calls became."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.wholes: list[Whole] = []
        self.bodies: dict[Any, Graph] = {}

    def add(self, source: Graph, new: dict[Value, Value], mark: Mark | None) -> None:
        """Appends the nodes of ``source``. ``new`` has its inputs in terms of the new graph, and gets all its values."""
        used = {v for node in source.nodes for v in node.inputs if v is not None}
        used.update(source.outputs.values())
        for value, array in source.constants.items():
            if value in used:
                new[value] = self.graph.constant(array, value.name)
        for node in source.nodes:
            inputs = tuple(None if value is None else new[value] for value in node.inputs)
            where = mark or node.mark
            if node.op.decompose is None:
                new.update(zip(node.outputs, self.graph.append(node.call, inputs, where), strict=True))
            else:
                wanted = tuple(value in used for value in node.outputs)
                found = self._add_whole(node.call, inputs, wanted, where)
                new.update({node.outputs[index]: value for index, value in found.items()})

    def _add_whole(
        self, call: Call, inputs: tuple[Value | None, ...], wanted: tuple[bool, ...], where: Mark
    ) -> dict[int, Value]:
        """Appends the parts of a composite call and gives its wanted outputs by index."""
        first = len(self.graph.nodes)
        body = self._body(call, inputs, wanted)
        new = {value: _given(inputs[int(name)]) for name, value in body.inputs.items()}
        self.add(body, new, where)
        found = {int(name): new[value] for name, value in body.outputs.items()}
        nodes = tuple(self.graph.nodes[first:])
        if nodes:
            made = {value for node in nodes for value in node.outputs}
            whole = Node(call, inputs, where)
            outputs: dict[Value, None] = {}
            for index, spec in enumerate(call.outputs):
                value = found.get(index)
                if value is None or value not in made or any(value is v for v in outputs):
                    value = Value(self.graph, f"{call.op.name}_{index}_unused", spec, whole, index)
                outputs[value] = None
            whole.outputs = tuple(outputs)
            self.wholes.append(Whole(whole, nodes))
        return found

    def _body(self, call: Call, inputs: tuple[Value | None, ...], wanted: tuple[bool, ...]) -> Graph:
        """What the call is made of: inputs and wanted outputs are named by their positions, constants are inside."""
        constants: Mapping[Value, np.ndarray[Any, Any]] = self.graph.constants
        arrays = [None if value is None else constants.get(value) for value in inputs]
        # by repr, too, because 1 == 1.0 == True; and by identity of arrays, which live as long as the new graph
        key = (call, repr(call.attributes), tuple(map(id, arrays)), wanted)
        if key not in self.bodies:
            self.bodies[key] = _trace(call, arrays, wanted)
        return self.bodies[key]


def _trace(call: Call, arrays: list[np.ndarray[Any, Any] | None], wanted: tuple[bool, ...]) -> Graph:
    graph = Graph()
    arguments: list[Value | None] = []
    for number, (spec, array) in enumerate(zip(call.inputs, arrays, strict=True)):
        if array is not None:
            arguments.append(graph.constant(array))
        else:
            arguments.append(None if spec is None else graph.input(str(number), spec))
    assert call.op.decompose is not None
    results = leaves(call.op.decompose(*arguments, **call.attrs))
    for number, (result, is_wanted) in enumerate(zip(results, wanted, strict=True)):
        if is_wanted:
            graph.output(str(number), result if isinstance(result, Value) else graph.constant(result))
    return simplify_parts(graph)


def _given(value: Value | None) -> Value:
    assert value is not None  # an input that was left out is no input of the body
    return value

"""Bodies: graphs inside of graphs, for branches and loops. What a body uses of the graph around it becomes its input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np

from .cases import Cost
from .dim import symbols
from .driver import plain_array
from .graph import Graph, Value, recording
from .nest import map_leaves
from .operation import Program
from .ops.arithmetic import add
from .ops.indexing import gather
from .region import Region
from .rewrite import Rewrite
from .spec import TensorSpec

FEW = 8
"""Elements up to which a constant lies in the body; larger ones are inputs, and uploaded once for all steps."""


class BodyGraph(Graph):
    """A graph that is a body while it is traced. ``captured`` are its inputs for values of the graph around it."""

    def __init__(self, outer: Graph) -> None:
        super().__init__()
        self.around = (outer, *outer.around)
        self.captured: dict[Value, Value] = {}

    def constant(self, array: Any, name: str = "") -> Value:
        """As in other graphs; one that is not small becomes a constant of the graph around."""
        array = np.asarray(plain_array(array))
        if array.size <= FEW:
            return super().constant(array, name)
        return self.capture(self.around[0].constant(array, name))

    def adopt(self, value: Value, user: str) -> Value:
        """As in other graphs; values of the graphs around it are captured."""
        return value if value.graph is self else self.capture(self.around[0].adopt(value, user))

    def outside(self, value: Value) -> Value | None:
        """The value of the graph around that a captured input stands for."""
        return next((outer for outer, inner in self.captured.items() if inner is value), None)

    def capture(self, found: Value) -> Value:
        """The value of this graph for one of the graph around it."""
        array = self.around[0].constants.get(found)
        if array is not None and array.size <= FEW:
            return super().constant(array, found.name)
        if found not in self.captured:
            self.captured[found] = self.input(f"captured_{len(self.captured)}", found.spec)
        return self.captured[found]


class Body(Program):
    """A graph as an attribute of a call. Equal bodies compute the same on the same devices, whatever their names are."""

    def __init__(self, graph: Graph) -> None:
        self.region = Region(graph)
        marks = tuple((node.mark.scope, node.mark.group) for node in graph.nodes)
        self._key = (self.region.text, marks)
        self._hash = hash(self._key)

    @property
    def graph(self) -> Graph:
        """The graph."""
        return self.region.graph

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Specs of what it takes."""
        return tuple(value.spec for value in self.graph.inputs.values())

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Specs of what it gives."""
        return self.region.outputs

    @property
    def cost(self) -> Cost:
        """Operations and bytes of all nodes."""
        costs = [node.call.cost for node in self.graph.nodes]
        return Cost(sum(cost.flops for cost in costs), sum(cost.bytes for cost in costs))

    def reference(self, *arrays: Any) -> tuple[np.ndarray[Any, Any], ...]:
        """Computes the outputs with the references of its ops."""
        return self.region.reference(*map(np.asarray, arrays))

    @cached_property
    def symbols(self) -> frozenset[str]:
        """The symbolic sizes that it mentions."""
        shapes = symbols([value.shape for value in self.graph.values()])
        return shapes.union(*(node.call.symbols for node in self.graph.nodes))

    def bind(self, sizes: Mapping[str, int]) -> Body:
        """The body with its symbolic sizes bound."""
        rewrite = Rewrite(self.graph, sizes)
        for node in self.graph.nodes:
            rewrite.copy(node)
        return Body(rewrite.finish())

    def record(self, graph: Graph, values: Iterable[Value]) -> tuple[Value, ...]:
        """Appends what it does to a graph, on values of that graph for its inputs, and gives its outputs."""
        new = dict(zip(self.graph.inputs.values(), values, strict=True))
        new.update((value, graph.constant(array)) for value, array in self.graph.constants.items())
        for node in self.graph.nodes:
            arguments = tuple(None if value is None else new[value] for value in node.inputs)
            made = graph.append(node.call, arguments, node.mark)
            new.update(zip(node.outputs, made, strict=True))
        return tuple(new[value] for value in self.graph.outputs.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Body) and self._key == other._key

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"<{self.region}>"


def trace_body(
    function: Callable[..., Any], arguments: tuple[Any, ...], outer: Graph
) -> tuple[BodyGraph, Any]:
    """The graph of a function of nested specs, whose inputs are their leaves, in order; and the nested result.

    None stands for nothing.
    """
    graph, numbers = BodyGraph(outer), count()

    def enter(spec: TensorSpec | None) -> Value | None:
        return None if spec is None else graph.input(f"input_{next(numbers)}", spec)

    values = map_leaves(enter, arguments)
    with recording(graph):
        return graph, function(*values)


def finish_bodies(
    graphs: Iterable[tuple[BodyGraph, Iterable[Value]]],
) -> tuple[list[Body], tuple[Value, ...]]:
    """Bodies that all take the same values of the graph around, behind their own inputs, and give these results.

    The second result is the values that they take.
    """
    pairs = [(graph, list(results)) for graph, results in graphs]
    taken = tuple(dict.fromkeys(value for graph, _ in pairs for value in graph.captured))
    bodies = []
    for graph, results in pairs:
        captured = [graph.capture(value) for value in taken]
        own = [value for value in graph.inputs.values() if value not in set(captured)]
        graph.inputs = {value.name: value for value in (*own, *captured)}
        for number, value in enumerate(results):
            graph.output(f"output_{number}", value)
        bodies.append(Body(graph))
    return bodies, taken


def indexed(body: Body, carries: int, sequences: int, length: Any, reverse: bool) -> Body:
    """The body of a scan with the number of the item before all else, which takes its items from whole sequences."""
    graph = Graph()
    number = graph.input("number", TensorSpec((), "int64"))
    given = list(body.graph.inputs.values())
    carried = [graph.input(v.name, v.spec) for v in given[:carries]]
    items = given[carries : carries + sequences]
    whole = [graph.input(v.name, TensorSpec((length, *v.shape), v.dtype)) for v in items]
    rest = [graph.input(v.name, v.spec) for v in given[carries + sequences :]]
    results = body.record(graph, [*carried, *(gather(x, number, axis=0) for x in whole), *rest])
    after = add(number, -1 if reverse else 1)
    for position, value in enumerate((after, *results)):
        graph.output(f"output_{position}", value)
    return Body(graph)

"""Rewriting graphs: the tool of the passes, the part that makes some values, and the binding of symbolic dimensions."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from .dim import Dim, symbols
from .errors import GraphError, SpecError
from .graph import Graph, Node, Value
from .operation import Program
from .spec import TensorSpec


class Rewrite:
    """Builds a new graph from an old one, node by node: the tool of the passes.

    ``sizes`` binds symbolic dimensions; specs are inferred again where inputs changed.
    """

    def __init__(self, source: Graph, sizes: Mapping[str, int] | None = None) -> None:
        self.source = source
        self.graph = Graph()
        self.sizes = sizes or {}
        self._new: dict[Value, Value] = {
            v: self.graph.input(name, v.spec.bind(self.sizes) if self.sizes else v.spec)
            for name, v in source.inputs.items()
        }

    def __getitem__(self, value: Value) -> Value:
        if value not in self._new and value in self.source.constants:
            self._new[value] = self.graph.constant(self.source.constants[value], value.name)
        return self._new[value]

    def __setitem__(self, old: Value, new: Value) -> None:
        self._new[old] = new

    def inputs(self, node: Node) -> tuple[Value | None, ...]:
        """The new values for a node's inputs."""
        return tuple(None if value is None else self[value] for value in node.inputs)

    def copy(self, node: Node) -> tuple[Value, ...]:
        """Appends the node to the new graph."""
        inputs = self.inputs(node)
        specs = tuple(None if value is None else value.spec for value in inputs)
        call = node.call
        if specs != call.inputs or self.sizes:
            attributes = {key: _bind_attribute(value, self.sizes) for key, value in call.attributes}
            try:
                call = node.op.call(*specs, **attributes)
            except SpecError as error:
                raise SpecError(f"{error} (at {node.source})") from None
        outputs = self.graph.append(call, inputs, node.mark)
        self._new.update(zip(node.outputs, outputs, strict=True))
        return outputs

    def finish(self) -> Graph:
        """The new graph with the outputs of the old one."""
        for name, value in self.source.outputs.items():
            self.graph.outputs[name] = self[value]
        return self.graph


def _bind_attribute(value: Any, sizes: Mapping[str, int]) -> Any:
    if isinstance(value, Dim):
        return value.evaluate(sizes)
    if isinstance(value, Program):
        return value.bind(sizes)
    return tuple(_bind_attribute(item, sizes) for item in value) if isinstance(value, tuple) else value


def ancestors(values: Iterable[Value]) -> set[Value]:
    """The values and everything that they are made of."""
    seen: set[Value] = set()
    stack = list(values)
    while stack:
        value = stack.pop()
        if value not in seen:
            seen.add(value)
            stack += [v for v in (value.node.inputs if value.node else ()) if v is not None]
    return seen


def needed_inputs(graph: Graph, wanted: Iterable[Value], given: Container[str] = ()) -> tuple[str, ...]:
    """Names of the inputs that the values depend on: by their contents, or because they alone say how large something is.

    Where several inputs have the symbolic size that is looked for, one of those ``given`` is enough.
    """
    seen = ancestors(wanted)
    names = {name for name, value in graph.inputs.items() if value in seen}
    nodes = {value.node for value in seen if value.node is not None}
    mentioned = symbols([v.shape for v in seen]).union(*(node.call.symbols for node in nodes))
    sizes = {name: {n.name for n in v.shape if isinstance(n, Dim)} for name, v in graph.inputs.items()}
    for symbol in sorted(mentioned.difference(*(sizes[name] for name in names))):
        tellers = [name for name in graph.inputs if symbol in sizes[name]]
        names.update(sorted(tellers, key=lambda name: name not in given)[:1])
    return tuple(name for name in graph.inputs if name in names)


def extract(graph: Graph, wanted: Sequence[Value], inputs: Iterable[str]) -> Graph:
    """The part of a graph that makes the wanted values, with these as its outputs and the named inputs only.

    Variables are named among the inputs.
    """
    needed = ancestors(wanted)
    part = Graph()
    known = {**graph.inputs, **{value.name: value for value in graph.state.reads.values()}}
    part.inputs = {name: known[name] for name in inputs}
    part.constants = {v: array for v, array in graph.constants.items() if v in needed}
    part.nodes = [node for node in graph.nodes if any(v in needed for v in node.outputs)]
    part.outputs = {f"fetch_{number}": value for number, value in enumerate(wanted)}
    rewrite = Rewrite(part)
    for node in part.nodes:
        rewrite.copy(node)
    return rewrite.finish()


def bind(graph: Graph, specs: Mapping[str, TensorSpec]) -> Graph:
    """The graph with its symbolic dimensions bound so that its inputs have these concrete specs.

    Raises GraphError when a spec does not fit its input.
    """
    sizes: dict[str, int] = {}
    for name, spec in specs.items():
        declared = graph.inputs[name].spec
        if declared.dtype != spec.dtype or declared.ndim != spec.ndim:
            hint = (
                f"; convert it: {name}.astype('{declared.dtype.name}')"
                if declared.dtype != spec.dtype
                else ""
            )
            raise GraphError(f"feed {name!r} is {spec!r}, the graph's input is {declared!r}{hint}.")
        for size, found in zip(declared.shape, spec.shape, strict=True):
            if isinstance(size, Dim) and size.name is not None:
                sizes.setdefault(size.name, int(found))
    for name, spec in specs.items():
        if graph.inputs[name].spec.bind(sizes) != spec:
            bound = ", ".join(f"{key}={size}" for key, size in sizes.items())
            raise GraphError(
                f"feed {name!r} is {spec!r}, the graph's input is {graph.inputs[name].spec!r}{f' with {bound}' if bound else ''}."
            )
    if not sizes:
        return graph
    rewrite = Rewrite(graph, sizes)
    for node in graph.nodes:
        rewrite.copy(node)
    return rewrite.finish()

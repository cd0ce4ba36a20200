"""Rewriting graphs: the tool of the passes, and the binding of symbolic dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .dim import Dim
from .errors import GraphError, SpecError
from .graph import Graph, Node, Value
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
        outputs = self.graph.append(call, inputs, node.source)
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
    return tuple(_bind_attribute(item, sizes) for item in value) if isinstance(value, tuple) else value


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

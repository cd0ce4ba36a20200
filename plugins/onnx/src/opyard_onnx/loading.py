"""Loading: the graph of a model whose shapes do not depend on numbers that are fed. ``Model`` runs any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import opyard as oy
from opyard.errors import GraphError
from opyard_onnx.errors import UnsupportedModel
from opyard_onnx.evaluation import NeedsValue
from opyard_onnx.files import ModelFile
from opyard_onnx.importer import Importer, Scope
from opyard_onnx.limits import guarded
from opyard_onnx.tensors import spec_of_type

UNROLL = "unroll=True was asked for"
"""Why branches and loops are no nodes of a graph, for its notes."""


def load(
    source: Any,
    *,
    constants: Mapping[str, Any] | None = None,
    specs: Mapping[str, oy.TensorSpec] | None = None,
    unroll: bool = False,
) -> oy.Graph:
    """The graph of a model: a path, bytes, or an onnx.ModelProto.

    Sizes that the model leaves open are symbolic. Weights are not copied; those in files beside the model are mapped.

    constants  arrays for inputs whose numbers decide about shapes, such as that of a Reshape; they are no inputs of the graph
    specs      in place of those that the model states
    unroll     branches are chosen and loops unrolled where their numbers are known, and not made nodes of the graph

    Raises ModelError for a damaged model, and for one whose shapes depend on numbers that are fed: Model runs these.
    """
    file = ModelFile(source)
    with guarded(file.title):
        return _graph_of(file, dict(constants or {}), dict(specs or {}), UNROLL if unroll else "")


def _graph_of(
    file: ModelFile, given: dict[str, Any], stated: dict[str, oy.TensorSpec], unroll: str
) -> oy.Graph:
    proto, graph = file.proto.graph, oy.Graph()
    importer, scope = Importer(file, graph, unroll=unroll), Scope(file.opsets)
    importer.initializers(proto, scope)
    with graph:
        for item in proto.input:
            if item.name in given:
                scope.entries[item.name] = importer.entry(np.asarray(given.pop(item.name)))
            elif item.name not in scope.entries:
                spec = stated.get(item.name) or declared_spec(item.name, item.type)
                scope.entries[item.name] = graph.input(item.name, spec)
        if given:
            raise GraphError(
                f"{file.title} has no input {next(iter(given))!r}, for which a constant is given."
            )
        for node in proto.node:
            try:
                importer.top_node(node, scope, [])
            except NeedsValue as need:
                raise UnsupportedModel(
                    f"{node.op_type}{f' {node.name!r}' if node.name else ''} needs the numbers of {need.value.name!r} to know the shapes that follow, "
                    "and a graph knows shapes before it runs; give them: load(..., constants={name: array}), or use opyard_onnx.Model, as `opyard run` does."
                    + (f" {need.because}" if need.because else "")
                ) from None
        for output in proto.output:
            entry = scope.find(output.name)
            if not isinstance(entry, oy.Value):
                raise UnsupportedModel(
                    f"the output {output.name!r} is a sequence, an optional or text, which graphs do not give; use opyard_onnx.Model."
                )
            graph.output(output.name, entry)
    graph.notes += importer.notes
    return graph


def declared_spec(name: str, declared: Any) -> oy.TensorSpec:
    """The spec of a TypeProto, with names for sizes that it leaves open. Raises UnsupportedModel for what is no tensor."""
    if not declared.HasField("tensor_type"):
        raise UnsupportedModel(
            f"the input {name!r} is no tensor, and a graph takes tensors alone; use opyard_onnx.Model."
        )
    return spec_of_type(declared.tensor_type, name)


# Entries and feeds ---------------------------------------------------------------------------------------------------

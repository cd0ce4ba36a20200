"""Interprets ONNX nodes: each records ops of opyard in a graph. Function bodies and subgraphs are interpreted in place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import opyard as oy
from opyard.errors import OpyardError
from opyard.registry import describe_error
from opyard_onnx.errors import ModelError, UnsupportedModel
from opyard_onnx.evaluation import Evaluator, NeedsValue
from opyard_onnx.files import ModelFile
from opyard_onnx.functions import call_registered
from opyard_onnx.limits import DEEPEST, MOST_NODES, require_size, require_tensor, too_many_nodes
from opyard_onnx.node import EMPTY, OnnxNode
from opyard_onnx.tensors import NUMBERS, STRING, to_array


@dataclass(slots=True)
class Scope:
    """What names mean in one graph or function body: entries of tensors, sequences and strings.

    opsets      versions of the operator sets, by domain
    attributes  of the call, for a function body
    outer       the graph that a subgraph lies in
    """

    opsets: Mapping[str, int]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outer: Scope | None = None
    entries: dict[str, Any] = field(default_factory=dict)
    depth: int = 0

    def find(self, name: str) -> Any:
        """The entry of a name, looked for outwards. Raises ModelError."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.entries:
                return scope.entries[name]
            scope = scope.outer
        raise ModelError(f"the value {name!r} is used before anything makes it.")

    def inside(self, **changes: Any) -> Scope:
        """A scope one level deeper. Raises ModelError where models are nested too deeply."""
        if self.depth >= DEEPEST:
            raise ModelError(f"subgraphs and functions lie in each other more than {DEEPEST} levels deep.")
        given = {"opsets": self.opsets, "attributes": self.attributes, "outer": self, **changes}
        return Scope(depth=self.depth + 1, **given)


class Importer:
    """Records the nodes of one model in ``graph``: that of the model, or the body of a branch or loop that is being traced.

    unroll     why branches are chosen and loops unrolled, even where they could be nodes; empty: they are nodes
    notes      a sentence for each branch and loop that is no node, with the reason
    refused    how often each was tried, and the reason
    continued  whether another graph computes what the model's first nodes do
    """

    def __init__(self, file: ModelFile, graph: oy.Graph, *, unroll: str = "") -> None:
        self.file = file
        self.graph = graph
        self.model_graph = graph
        self.unroll = unroll
        self.notes: dict[str, None] = {}
        self.continued = False
        self.refused: dict[Any, tuple[int, str]] = {}
        self.evaluate = Evaluator()
        self.known: list[np.ndarray[Any, Any]] = []
        self._asked = self._count = 0
        self._functions = {(f.domain, f.name, getattr(f, "overload", "")): f for f in file.proto.functions}

    # Entries -----------------------------------------------------------------------------------------------------

    def entry(self, found: Any) -> Any:
        """A result of a converter as an entry: arrays of numbers become constants of the graph, in sequences too."""
        if isinstance(found, (list, tuple)):
            return [self.entry(item) for item in found]
        if isinstance(found, (np.ndarray, np.generic)):
            array = np.asarray(found)
            return array.astype(object) if array.dtype.kind in "OUS" else self.graph.constant(array)
        if isinstance(found, str):
            return np.array(found, object)
        return found

    def value(self, entry: Any) -> np.ndarray[Any, Any]:
        """The array that an entry is, of dtype object where sizes are symbolic. Raises NeedsValue."""
        if isinstance(entry, np.ndarray):
            return entry
        stage_knows = self.graph is self.model_graph and self._asked < len(self.known)
        if stage_knows and not self.evaluate.knows(entry):
            self.evaluate.tell(entry, self.known[self._asked])  # whoever asks again is not counted
            self._asked += 1
        return self.evaluate(entry)

    def tensor(self, proto: Any) -> Any:
        """The entry of a TensorProto."""
        return self.entry(to_array(proto, self.file.external))

    # Interpreting ------------------------------------------------------------------------------------------------

    def initializers(self, graph: Any, scope: Scope) -> None:
        """Enters the constants of a GraphProto."""
        for tensor in graph.initializer:
            found = to_array(tensor, self.file.external)
            scope.entries[tensor.name] = (
                found if found.dtype == object else self.graph.constant(found, tensor.name)
            )
        for tensor in graph.sparse_initializer:
            scope.entries[tensor.values.name] = self.entry(dense(tensor, self.file.external))

    def run(self, nodes: Iterable[Any], scope: Scope) -> None:
        """Interprets nodes in order."""
        for node in nodes:
            self.node(node, scope)

    def top_node(self, node: Any, scope: Scope, known: list[np.ndarray[Any, Any]]) -> None:
        """Interprets a node of the model's own graph.

        known  numbers that it asked for in earlier stages, and that are made inside of it, in the order of asking
        """
        self.known, self._asked = known, 0
        self.node(node, scope)

    def node(self, node: Any, scope: Scope) -> None:
        """Interprets one NodeProto and enters its outputs."""
        self._count += 1
        if self._count > MOST_NODES:
            raise too_many_nodes(self.file.title)
        title = f"{node.op_type}{f' {node.name!r}' if node.name else ''}"
        try:
            inputs = [scope.find(name) if name else None for name in node.input]
            with oy.source(f"{self.file.title}: {node.op_type} {node.name or ' '.join(node.output)}"):
                results = self._convert(node, inputs, scope)
            for result in results:
                if isinstance(result, oy.Value):
                    require_tensor(result.spec, node.op_type)
        except ModelError as error:  # the innermost node is named
            raise type(error)(str(error) if " (in " in str(error) else f"{error} (in {title})") from None
        except NeedsValue:
            raise
        except OpyardError as error:
            raise ModelError(f"{error} (in {title})") from error
        except Exception as error:  # what a converter meets in a damaged model can be anything
            raise ModelError(f"{title} cannot be imported: {describe_error(error)}.") from error
        for name, result in zip(node.output, results, strict=False):
            if name in scope.entries:
                raise ModelError(f"the value {name!r} is made twice, the second time by {title}.")
            if name:
                scope.entries[name] = self.entry(result)
        missing = [name for name in list(node.output)[len(results) :] if name]
        if missing:
            raise UnsupportedModel(
                f"the output {missing[0]!r} of {title} is not made; nothing computes it yet."
            )

    def _convert(self, node: Any, inputs: list[Any], scope: Scope) -> list[Any]:
        from opyard_onnx.operators import find_operator

        domain = "" if node.domain == "ai.onnx" else node.domain
        given = {a.name: self._resolve(a, scope) for a in node.attribute}
        attributes = {name: attribute for name, attribute in given.items() if attribute is not None}
        function = self._functions.get((node.domain, node.op_type, getattr(node, "overload", "")))
        if function is not None:
            found = call_registered(function, node, inputs)
            return self.function(function, inputs, attributes, scope) if found is None else found
        version = scope.opsets.get(domain, scope.opsets.get("ai.onnx", 1) if not domain else 1)
        converter = find_operator(domain, node.op_type, version)
        if converter is not None:
            results = converter(OnnxNode(self, node, version, inputs, attributes, scope))
            if results is not NotImplemented:
                return list(results) if isinstance(results, tuple) else [results]
        schema = standard_schema(node.op_type, domain, version)
        called = _called(node, attributes)
        body = None if schema is None else standard_body(schema, called, version, inputs)
        if schema is None or body is None:
            raise UnsupportedModel(
                f"opyard-onnx has no operator {domain + '.' if domain else ''}{node.op_type} of opset {version}."
            )
        defaults = {name: a.default_value for name, a in schema.attributes.items() if a.default_value.name}
        return self.function(body, inputs, {**defaults, **attributes}, scope)

    def _resolve(self, attribute: Any, scope: Scope) -> Any:
        """The attribute itself, or that of the function's caller that it names; None where the caller has none."""
        return scope.attributes.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute

    def function(
        self, function: Any, inputs: list[Any], attributes: Mapping[str, Any], scope: Scope
    ) -> list[Any]:
        """Interprets the body of a FunctionProto."""
        defaults = {a.name: a for a in function.attribute_proto}
        opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in function.opset_import}
        body = scope.inside(
            opsets={**scope.opsets, **opsets}, attributes={**defaults, **attributes}, outer=None
        )
        padded = [*inputs, *[None] * (len(function.input) - len(inputs))]
        body.entries.update(zip(function.input, padded, strict=False))
        self.run(function.node, body)
        return [body.entries.get(name) for name in function.output]

    def subgraph(self, graph: Any, inputs: list[Any], scope: Scope) -> list[Any]:
        """Interprets a GraphProto that an attribute holds, with these entries as its inputs. Its names go before those around it."""
        inner = scope.inside()
        self.initializers(graph, inner)
        names = [i.name for i in graph.input]
        if len(names) != len(inputs):
            raise ModelError(
                f"the subgraph {graph.name!r} has {len(names)} inputs, and is given {len(inputs)}."
            )
        if len(set(names)) != len(names):
            raise ModelError(f"two inputs of the subgraph {graph.name!r} have one name: {', '.join(names)}.")
        inner.entries.update(zip(names, map(self.entry, inputs), strict=True))
        self.run(graph.node, inner)
        return [inner.find(output.name) for output in graph.output]


def used_names(graph: Any, position: int = 0) -> list[str]:
    """Names that the nodes from ``position`` on use, those in subgraphs included, and the outputs."""
    names: dict[str, None] = {output.name: None for output in graph.output}
    pending = [list(graph.node)[position:]]
    while pending:
        for node in pending.pop():
            names.update(dict.fromkeys(node.input))
            for attribute in node.attribute:
                graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
                for inner in graphs:
                    pending.append(list(inner.node))
                    names.update(dict.fromkeys(output.name for output in inner.output))
    return [name for name in names if name]


def dense(tensor: Any, external: Any) -> np.ndarray[Any, Any]:
    """The array of a SparseTensorProto."""
    values, places = to_array(tensor.values, external), to_array(tensor.indices, external)
    require_size(math.prod(tensor.dims), f"the sparse tensor {tensor.values.name!r}")
    found = np.zeros(tuple(tensor.dims), values.dtype)
    if places.ndim == 1:
        found.reshape(-1)[places] = values
    else:
        found[tuple(places.T)] = values
    return found


def _called(node: Any, attributes: Mapping[str, Any]) -> Any:
    """The node with the attributes that it has here, where a function body names those of its caller."""
    from onnx import NodeProto

    found = NodeProto()
    found.CopyFrom(node)
    del found.attribute[:]
    for name, attribute in attributes.items():
        added = found.attribute.add()
        added.CopyFrom(attribute)
        added.name = name
    return found


def standard_schema(op_type: str, domain: str, version: int) -> Any:
    """What the onnx installed here says about an operator, or None for one that it does not know."""
    import onnx.defs

    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


def standard_body(schema: Any, node: Any, version: int, inputs: list[Any]) -> Any:
    """The function that the ONNX specification gives for a composite operator as it is called here, or None."""
    from onnx import FunctionProto

    if schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= version]
        found = schema.get_function_with_opset_version(max(versions)) if versions else schema.function_body
        return found if not isinstance(found, bytes) else FunctionProto.FromString(found)
    if schema.has_context_dependent_function:
        types = [_type_of(entry).SerializeToString() for entry in inputs]
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= version]
        if versions:
            found = schema.get_context_dependent_function_with_opset_version(
                max(versions), node.SerializeToString(), types
            )
            return FunctionProto.FromString(found) if found else None
    return None


def _type_of(entry: Any) -> Any:
    """The TypeProto of an entry; an empty one for an input that is left out."""
    from onnx import TypeProto

    found = TypeProto()
    if isinstance(entry, list):
        if entry:
            found.sequence_type.elem_type.CopyFrom(_type_of(entry[0]))
    elif isinstance(entry, np.ndarray):
        found.tensor_type.elem_type = STRING
    elif entry is not None and entry is not EMPTY:
        found.tensor_type.elem_type = NUMBERS[entry.dtype.name]
        found.tensor_type.shape.SetInParent()
        for size in entry.shape:
            added = found.tensor_type.shape.dim.add()
            if isinstance(size, int):
                added.dim_value = size
    return found

"""Export: a graph as an ONNX model, node by node. Composite ops without a form of their own are exported by their parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import opyard as oy
from opyard.spec import promote
from opyard_onnx.errors import UnsupportedModel
from opyard_onnx.tensors import NUMBERS

OPSET = 21
IR_VERSION = 10

Export = Callable[["Writer", oy.Node], Any]
"""Writes one node, and gives the name of its output, or names of several."""


class Writer:
    """Collects the nodes and tensors of an ONNX graph. Values are known by names.

    ``around``: for the body of a branch or loop, the writer of the graph that it lies in. Names are unique in both, and
    the tensors are that graph's.
    """

    def __init__(self, graph: oy.Graph, around: Writer | None = None) -> None:
        self.graph = graph
        self.nodes: list[Any] = []
        self._names: dict[oy.Value, str] = {}
        if around is not None:
            self.model_graph: oy.Graph = around.model_graph
            self.tensors: list[Any] = around.tensors
            self._dtypes: dict[str, str] = around._dtypes
            self._taken: set[str] = around._taken
            return
        self.model_graph, self.tensors, self._dtypes = graph, [], {}
        self._taken = {*graph.inputs, *graph.outputs}
        for name, value in graph.inputs.items():
            self.bind(value, name)

    def fresh(self, stem: str) -> str:
        """A name that nothing has."""
        name, number = stem, 1
        while name in self._taken:
            name, number = f"{stem}_{number}", number + 1
        self._taken.add(name)
        return name

    def name(self, value: oy.Value) -> str:
        """The name of a value; a constant becomes an initializer when it is first named."""
        if value not in self._names:
            self._names[value] = self.tensor(self.graph.constants[value], self.fresh(value.name))
        return self._names[value]

    def bind(self, value: oy.Value, name: str) -> None:
        """Says what a value is called."""
        self._names[value] = name
        self._dtypes[name] = value.dtype.name

    def tensor(self, array: Any, name: str = "") -> str:
        """An initializer."""
        from onnx import numpy_helper

        name = name or self.fresh("constant")
        self._dtypes[name] = np.asarray(array).dtype.name
        self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def integers(self, numbers: Sequence[Any]) -> str:
        """An int64 tensor ``[n]`` of numbers and symbolic sizes."""
        if all(isinstance(n, int) for n in numbers):
            return self.tensor(np.array(numbers, np.int64))
        joined: str = self.add("Concat", [self._size(n) for n in numbers], axis=0)
        return joined

    def _size(self, size: Any) -> str:
        """An int64 tensor ``[1]`` of a number, or of a size that has a name: that of the input which has it."""
        if isinstance(size, int):
            return self.tensor(np.array([size], np.int64))
        for name, value in self.model_graph.inputs.items():
            if size in value.shape:
                shape, axis = self.add("Shape", [name]), value.shape.index(size)
                found: str = self.add("Gather", [shape, self.tensor(np.array([axis], np.int64))], axis=0)
                return found
        raise UnsupportedModel(
            f"the size {size!r} is computed of others, which is not exported; bind it to a number."
        )

    def add(self, op_type: str, inputs: Sequence[str], count: int = 1, **attributes: Any) -> Any:
        """Appends a node, and gives the name of its output, or a list of them.

        Raises UnsupportedModel for an input of a dtype that ONNX does not give the operator.
        """
        from onnx import helper

        self._check_dtypes(op_type, inputs)
        outputs = [self.fresh(op_type.lower()) for _ in range(count)]
        given = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(op_type, list(inputs), outputs, **given))
        return outputs[0] if count == 1 else outputs

    def _check_dtypes(self, op_type: str, inputs: Sequence[str]) -> None:
        import onnx.defs
        from onnx import TensorProto

        declared = onnx.defs.get_schema(op_type, OPSET).inputs
        for position, name in enumerate(inputs):
            dtype = self._dtypes.get(name)
            allowed = declared[min(position, len(declared) - 1)].types
            if dtype and f"tensor({TensorProto.DataType.Name(NUMBERS[dtype]).lower()})" not in allowed:
                raise UnsupportedModel(
                    f"ONNX has no {op_type} of {dtype}; cast it first: cast(x, dtype='float32')."
                )

    def cast(self, name: str, dtype: str) -> str:
        """The name of a value in a dtype."""
        if self._dtypes.get(name) == dtype:
            return name
        found: str = self.add("Cast", [name], to=NUMBERS[dtype])
        self._dtypes[found] = dtype
        return found

    def inputs(self, node: oy.Node) -> list[str]:
        """Names of a node's inputs; an empty one where an input is left out."""
        found = [self.name(value) if value is not None else "" for value in node.inputs]
        while found and not found[-1]:
            found.pop()
        return found

    def alike(self, node: oy.Node, skip: int = 0) -> list[str]:
        """As ``inputs``, all from ``skip`` on cast to their common dtype, which ONNX wants and opyard finds itself."""
        given = [value for value in node.inputs[skip:] if value is not None]
        common = promote(*(value.dtype for value in given))
        names = self.inputs(node)
        for position, value in enumerate(node.inputs[skip:], skip):
            if value is not None:
                names[position] = self.cast(names[position], common.name)
        return names


def export(graph: oy.Graph, *, name: str = "opyard") -> Any:
    """The graph as an onnx.ModelProto of opset 21, for ONNX Runtime and others.

    Names of inputs, outputs and symbolic sizes stay. Raises UnsupportedModel for an op that has no ONNX form, such as random ones.
    """
    from onnx import helper

    writer = Writer(standing(graph))
    graph = writer.graph
    record(writer)
    for output, value in graph.outputs.items():
        if output != writer.name(value):
            writer.nodes.append(helper.make_node("Identity", [writer.name(value)], [output]))
    made_graph = helper.make_graph(
        writer.nodes,
        name,
        [info(input_, value.spec) for input_, value in graph.inputs.items()],
        [info(output, value.spec) for output, value in graph.outputs.items()],
        writer.tensors,
    )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(made_graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="opyard")


def standing(graph: oy.Graph) -> oy.Graph:
    """The graph with only such composite ops as have an ONNX form."""
    forms = _forms()
    return oy.decompose(graph, keep=lambda call: call.op.name in forms)


def record(writer: Writer) -> None:
    """Writes the nodes of the writer's graph. Raises UnsupportedModel for an op that has no ONNX form."""
    forms = _forms()
    for node in writer.graph.nodes:
        if node.op.name not in forms:
            raise UnsupportedModel(f"the op {node.op.name} (at {node.source}) has no ONNX form yet.")
        made = forms[node.op.name](writer, node)
        for value, result in zip(node.outputs, [made] if isinstance(made, str) else made, strict=True):
            writer.bind(value, result)


def _forms() -> dict[str, Export]:
    from opyard_onnx.exporting_control import CONTROL
    from opyard_onnx.operators.exports import EXPORTS

    return {**EXPORTS, **CONTROL}


def info(name: str, spec: oy.TensorSpec) -> Any:
    """A ValueInfoProto."""
    from onnx import helper

    shape = [n if isinstance(n, int) else str(n) for n in spec.shape]
    return helper.make_tensor_value_info(name, NUMBERS[spec.dtype.name], shape)

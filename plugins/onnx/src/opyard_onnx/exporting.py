"""Export: a graph as an ONNX model, node by node. An op without an ONNX operator of its own becomes a function of its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import opyard as oy
from opyard.ops import STANDARD
from opyard.spec import promote
from opyard_onnx.errors import UnsupportedModel
from opyard_onnx.functions import Functions
from opyard_onnx.tensors import NUMBERS

OPSET = 21
IR_VERSION = 10

Export = Callable[["Writer", oy.Node], Any]
"""Writes one node, and gives the name of its output, or names of several."""


class Writer:
    """Collects the nodes and tensors of an ONNX graph. Values are known by names.

    functions  those of the model, which a function body shares with the graph that calls it
    weights    takes the constants of the graph, by names, where their bytes are to lie in a file beside the model
    around     for the body of a branch or loop, the writer of the graph that it lies in: names are unique in both, and
               functions, weights and tensors are that graph's
    """

    def __init__(
        self,
        graph: oy.Graph,
        functions: Functions | None = None,
        weights: dict[str, Any] | None = None,
        around: Writer | None = None,
    ) -> None:
        self.graph = graph
        self.nodes: list[Any] = []
        self._names: dict[oy.Value, str] = {}
        self._around = around
        if around is not None:
            self.functions: Functions = around.functions
            self.weights: dict[str, Any] | None = around.weights
            self.tensors: list[Any] = around.tensors
            self._dtypes: dict[str, str] = around._dtypes
            self._taken: set[str] = around._taken
            return
        self.functions, self.weights = functions or Functions(OPSET), weights
        self.tensors, self._dtypes = [], {}
        self._taken = {*graph.inputs, *graph.outputs, "__metadata__"}  # the last is safetensors' own
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
            if value not in value.graph.constants:
                raise UnsupportedModel(
                    f"the graph reads the variable {value.name!r}, and an exported model has none; export a graph over its array."
                )
            array, name = value.graph.constants[value], self.fresh(value.name)
            apart = self.weights is not None and array.ndim and array.size
            self._names[value] = self._weight(array, name) if apart else self.tensor(array, name)
        return self._names[value]

    def _weight(self, array: Any, name: str) -> str:
        """An initializer whose bytes lie elsewhere; whoever writes them says where."""
        from onnx import TensorProto

        assert self.weights is not None
        self.weights[name] = array
        self._dtypes[name] = array.dtype.name
        number, place = NUMBERS[array.dtype.name], TensorProto.EXTERNAL
        self.tensors.append(TensorProto(name=name, data_type=number, dims=array.shape, data_location=place))
        return name

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
        """An int64 tensor ``[1]`` of a number, or of a symbolic size: that of a value that has it, or computed of others."""
        if isinstance(size, int):
            return self.tensor(np.array([size], np.int64))
        for value, name in self._known():
            if size in value.shape:
                return self._size_of(name, value.shape.index(size))
        if size.name is not None:
            raise UnsupportedModel(
                f"no value of the graph has the size {size!r}, which another one depends on."
            )
        terms = [[*atoms, factor] if factor != 1 or not atoms else [*atoms] for atoms, factor in size.terms]
        return self._folded("Add", [self._folded("Mul", [self._atom(a) for a in term]) for term in terms])

    def _known(self) -> Iterator[tuple[oy.Value, str]]:
        """The values that have names here, those of the graphs around included."""
        yield from tuple(self._names.items())
        if self._around is not None:
            yield from self._around._known()

    def _size_of(self, name: str, axis: int) -> str:
        found: str = self.add("Shape", [name], start=axis, end=axis + 1)
        self._dtypes[found] = "int64"
        return found

    def _atom(self, atom: Any) -> str:
        """A factor of a term: a number, a size by its name, or the floor of the quotient of two sizes."""
        if isinstance(atom, tuple):
            whole, part = map(self._size, atom)
            return self._folded(
                "Div", [self._folded("Sub", [whole, self._folded("Mod", [whole, part])]), part]
            )
        return self._size(atom if isinstance(atom, int) else oy.TensorSpec((atom,)).shape[0])

    def _folded(self, op_type: str, names: list[str]) -> str:
        found = names[0]
        for name in names[1:]:
            found = self.add(op_type, [found, name])
        return found

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

    def write(self, node: oy.Node) -> None:
        """Appends what computes a node of the graph. Raises UnsupportedModel where nothing in ONNX does."""
        made = self._by_form(node) or self.functions.call(self, node)
        for value, result in zip(node.outputs, made, strict=True):
            self.bind(value, result)

    def _by_form(self, node: oy.Node) -> list[str] | None:
        """The names of the outputs by the op's own ONNX form; None where it has none for these dtypes, but parts."""
        from opyard_onnx.exporting_control import CONTROL
        from opyard_onnx.operators.exports import EXPORTS

        name = node.op.name
        form = EXPORTS.get(name) or CONTROL.get(name)
        if form is None or (name in STANDARD and STANDARD[name].op is not node.op):
            return None
        length = len(self.nodes)
        try:
            made = form(self, node)
        except UnsupportedModel:
            del self.nodes[length:]
            if self.functions.parts(node) is None:
                raise
            return None
        return [made] if isinstance(made, str) else list(made)

    def inline(self, part: oy.Graph, names: Sequence[str]) -> list[str]:
        """Appends the nodes of another graph, whose inputs have these names, and gives the names of its outputs."""
        for value, name in zip(part.inputs.values(), names, strict=True):
            self.bind(value, name)
        for node in part.nodes:
            self.write(node)
        return [self.name(value) for value in part.outputs.values()]

    def finish(self, outputs: Mapping[str, oy.Value]) -> None:
        """Gives values the names that the outputs have."""
        from onnx import helper

        for output, value in outputs.items():
            if output != self.name(value):
                self.nodes.append(helper.make_node("Identity", [self.name(value)], [output]))


def export(graph: oy.Graph, *, name: str = "opyard", weights: dict[str, Any] | None = None) -> Any:
    """The graph as an onnx.ModelProto of opset 21, for ONNX Runtime and others.

    With a dict for ``weights`` that takes the constants that are no single numbers; the model then names them alone.
    Names of inputs, outputs and symbolic sizes stay. Ops that ONNX has no operator for become functions of the model, in
    the domain of their name. Raises UnsupportedModel for one whose parts nobody knows, such as a random one.
    """
    from onnx import helper

    writer = Writer(graph, weights=weights)
    for node in graph.nodes:
        writer.write(node)
    writer.finish(graph.outputs)
    made_graph = helper.make_graph(
        writer.nodes,
        name,
        [info(input_, value.spec) for input_, value in graph.inputs.items()],
        [info(output, value.spec) for output, value in graph.outputs.items()],
        writer.tensors,
    )
    return helper.make_model(
        made_graph,
        functions=writer.functions.protos,
        opset_imports=writer.functions.opsets(),
        ir_version=IR_VERSION,
        producer_name="opyard",
    )


def info(name: str, spec: oy.TensorSpec) -> Any:
    """A ValueInfoProto."""
    from onnx import helper

    shape = [n if isinstance(n, int) else str(n) for n in spec.shape]
    return helper.make_tensor_value_info(name, NUMBERS[spec.dtype.name], shape)

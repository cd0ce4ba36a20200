"""OnnxNode: what a converter of an operator is told, and how it asks for attributes, numbers and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

import opyard as oy
from opyard_onnx.errors import ModelError
from opyard_onnx.tensors import to_array

if TYPE_CHECKING:
    from opyard_onnx.importer import Importer, Scope

REQUIRED = object()

EMPTY = type("EMPTY", (), {"__repr__": lambda self: "EMPTY"})()
"""The entry of an optional that holds nothing."""


class OnnxNode:
    """One use of an operator.

    version  of the operator set that the model imports
    inputs   values of the graph, lists of them for sequences, arrays of Python strings; None where one is left out
    outputs  names; empty for an output that nobody uses
    """

    def __init__(
        self,
        importer: Importer,
        proto: Any,
        version: int,
        inputs: list[Any],
        attributes: Mapping[str, Any],
        scope: Scope,
    ) -> None:
        self.importer = importer
        self.op_type: str = proto.op_type
        self.name: str = proto.name
        self.version = version
        self.inputs = inputs
        self.outputs = tuple(proto.output)
        self._attributes = attributes
        self._scope = scope

    @property
    def title(self) -> str:
        """The operator and the name that the model gives the node, or its first output."""
        return f"{self.op_type} {self.name or next(iter(self.outputs), '')!r}"

    @property
    def x(self) -> Any:
        """The first input."""
        return self.inputs[0]

    def get(self, position: int) -> Any:
        """An input, or None where it is left out."""
        return self.inputs[position] if position < len(self.inputs) else None

    def wants(self, position: int) -> bool:
        """Whether somebody uses the output."""
        return position < len(self.outputs) and bool(self.outputs[position])

    # Attributes --------------------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether the attribute is given."""
        return name in self._attributes

    def attribute(self, name: str, default: Any = REQUIRED) -> Any:
        """An attribute as a Python number, string, tuple, array or GraphProto. Raises ModelError for one that is missing."""
        if name not in self._attributes:
            if default is REQUIRED:
                raise ModelError(f"{self.op_type} needs the attribute {name!r}.")
            return default
        found = self._attributes[name]
        kind = found.type
        if kind == found.INT:
            return found.i
        if kind == found.FLOAT:
            return found.f
        if kind == found.STRING:
            return found.s.decode("utf-8")
        if kind == found.INTS:
            return tuple(found.ints)
        if kind == found.FLOATS:
            return tuple(found.floats)
        if kind == found.STRINGS:
            return tuple(text.decode("utf-8") for text in found.strings)
        if kind == found.TENSOR:
            return to_array(found.t, self.importer.file.external)
        if kind == found.GRAPH:
            return found.g
        return found

    def integers(self, name: str, position: int, default: Any = None) -> Any:
        """Numbers that older operator sets have as an attribute and newer ones as an input: a tuple of sizes."""
        if self.get(position) is not None:
            return self.sizes(position)
        return self.attribute(name, default)

    # Numbers -----------------------------------------------------------------------------------------------------

    def value(self, position: int) -> Any:
        """The array of an input, where the operator has to know it; None where the input is left out."""
        entry = self.get(position)
        if entry is None:
            return None
        found = self.importer.value(entry)
        if found.dtype == object and not isinstance(entry, np.ndarray):
            raise ModelError(
                f"{self.op_type} needs the numbers of its input {position}, which are the symbolic sizes {list(found.flat)}; give the model's inputs concrete shapes."
            )
        return found

    def sizes(self, position: int) -> tuple[Any, ...]:
        """The elements of an integer input as a tuple of numbers and symbolic sizes."""
        entry = self.get(position)
        assert entry is not None
        return tuple(
            n if isinstance(n, type(_SYMBOL)) else int(n) for n in np.ravel(self.importer.value(entry))
        )

    def number(self, position: int, default: Any = None) -> Any:
        """The one element of an input as a Python number."""
        found = self.value(position)
        return default if found is None else found.reshape(-1)[0].item()

    def known(self, position: int) -> Any:
        """As ``value``, but None where only a run tells."""
        entry = self.get(position)
        return (
            self.importer.value(entry) if entry is not None and self.importer.evaluate.knows(entry) else None
        )

    # Building ----------------------------------------------------------------------------------------------------

    def constant(self, array: Any, like: Any = None) -> Any:
        """An array as a value of the graph, in the dtype of another value if one is given."""
        found = np.asarray(array)
        return self.importer.entry(found if like is None else found.astype(like.dtype))

    def named(self, name: str) -> Any:
        """The entry of a name, for attributes that name tensors."""
        return self._scope.find(name)

    def subgraph(self, name: str, inputs: list[Any]) -> list[Any]:
        """Interprets the graph of an attribute with these entries as inputs, and gives its outputs."""
        return self.importer.subgraph(self.attribute(name), inputs, self._scope)


_SYMBOL = oy.TensorSpec(("n",)).shape[0]

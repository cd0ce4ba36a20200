"""The ONNX forms of ops that fill shapes. What is known when the model is written is a tensor of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import opyard as oy
from opyard_onnx.errors import UnsupportedModel

if TYPE_CHECKING:
    from opyard_onnx.exporting import Writer

LARGEST = 2**20
"""Elements of a tensor that is written out."""


def written_out(writer: Writer, node: oy.Node) -> Any:
    """The tensor itself."""
    (spec,) = node.call.outputs
    if int(spec.size) > LARGEST:
        raise UnsupportedModel(
            f"{node.op.name} makes {spec!r} (at {node.source}), and no more than {LARGEST} elements are written into a model; feed it as an input."
        )
    return writer.tensor(node.call.reference()[0])


def iota(writer: Writer, node: oy.Node) -> Any:
    """The size may be symbolic."""
    size = writer.add("Squeeze", [writer.integers([node.call.attrs["size"]])])
    first, step = (writer.tensor(np.array(number, np.int64)) for number in (0, 1))
    numbers = writer.add("Range", [first, size, step])
    return writer.cast(numbers, node.outputs[0].dtype.name)


def full(writer: Writer, node: oy.Node) -> Any:
    value = np.array([node.call.attrs["value"]]).astype(node.outputs[0].dtype)
    shape = node.outputs[0].shape
    one = writer.tensor(value.reshape(()))
    return writer.add("Expand", [one, writer.integers(shape)]) if shape else one


def broadcast_to(writer: Writer, node: oy.Node) -> Any:
    shape = node.outputs[0].shape
    if 0 in shape and all(isinstance(n, int) for n in shape):  # runtimes differ in what 1 and 0 are together
        return writer.tensor(np.zeros(shape, node.outputs[0].dtype))
    return (
        writer.add("Expand", [*writer.inputs(node), writer.integers(shape)])
        if shape
        else writer.add("Identity", writer.inputs(node))
    )

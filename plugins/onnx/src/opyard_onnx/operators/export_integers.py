"""The ONNX forms of divisions and shifts of integers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import opyard as oy
from opyard_onnx.errors import UnsupportedModel

if TYPE_CHECKING:
    from opyard_onnx.exporting import Export, Writer


def remainder(writer: Writer, node: oy.Node) -> Any:
    """Of integers; that of floating numbers has the sign of the dividend in ONNX."""
    _require_integers(node)
    return writer.add("Mod", writer.alike(node))


def floor_divide(writer: Writer, node: oy.Node) -> Any:
    """Of integers, which ONNX divides towards zero: what the remainder is taken from is divided exactly."""
    _require_integers(node)
    names = writer.alike(node)
    rest = writer.add("Mod", names)
    return writer.add("Div", [writer.add("Sub", [names[0], rest]), names[1]])


def _require_integers(node: oy.Node) -> None:
    if node.outputs[0].dtype.kind not in "iu":
        raise UnsupportedModel(f"ONNX has no {node.op.name} of {node.outputs[0].dtype.name}.")


def shifted(direction: str) -> Export:
    return lambda writer, node: writer.add("BitShift", writer.alike(node), direction=direction)

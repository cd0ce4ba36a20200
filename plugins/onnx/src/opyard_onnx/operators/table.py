"""A row of the table of operators, and converters that many rows share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from opyard_onnx.node import OnnxNode

Converter = Callable[[OnnxNode], Any]
"""Records the ops of one node, and gives its output, or a tuple of outputs; NotImplemented leaves it to ONNX's function body."""


@dataclass(frozen=True, slots=True)
class Operator:
    """An ONNX operator as it is from version ``since`` of its operator set on."""

    name: str
    since: int
    convert: Converter
    domain: str = ""


def direct(function: Callable[..., Any], **names: Any) -> Converter:
    """An op that takes the same inputs. ``names`` gives the default of each attribute that both have."""

    def convert(node: OnnxNode) -> Any:
        attributes = {name: node.attribute(name, default) for name, default in names.items()}
        return function(*node.inputs, **attributes)

    return convert

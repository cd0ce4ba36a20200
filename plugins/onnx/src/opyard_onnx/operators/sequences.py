"""Sequences and optionals. They exist while a model is imported, as lists of values; a graph holds tensors alone."""

from __future__ import annotations

from typing import Any

import numpy as np

import opyard as oy
from opyard_onnx.errors import ModelError
from opyard_onnx.limits import require_parts
from opyard_onnx.node import EMPTY, OnnxNode
from opyard_onnx.operators.table import Operator


def construct(node: OnnxNode) -> Any:
    return list(node.inputs)


def _place(node: OnnxNode, position: int, size: int, last: int) -> int:
    """The index that an input names, counted from the front; without it ``last``."""
    index = int(node.number(position, last))
    if not -size <= index <= max(size - 1, last):
        raise ModelError(f"{node.op_type} asks for element {index} of a sequence of {size}.")
    return index + size if index < 0 else index


def at(node: OnnxNode) -> Any:
    items = node.inputs[0]
    return items[_place(node, 1, len(items), len(items) - 1)]


def insert(node: OnnxNode) -> Any:
    items = list(node.inputs[0])
    items.insert(_place(node, 2, len(items), len(items)), node.inputs[1])
    return items


def erase(node: OnnxNode) -> Any:
    items = list(node.inputs[0])
    del items[_place(node, 1, len(items), len(items) - 1)]
    return items


def length(node: OnnxNode) -> Any:
    return np.array(len(node.inputs[0]), np.int64)


def split(node: OnnxNode) -> Any:
    """Without sizes into parts of one, which lose their axis unless ``keepdims``."""
    x, axis = node.x, node.attribute("axis", 0)
    size = int(x.shape[axis])
    given = node.get(1)
    if given is None:
        require_parts(size, "SplitToSequence")
        if not node.attribute("keepdims", 1):
            return list(oy.unstack(x, axis=axis))
        sections: tuple[int, ...] = (1,) * size
    elif given.ndim:
        sections = tuple(int(n) for n in node.sizes(1))
    else:
        each = int(node.number(1))
        require_parts(-(-size // each), "SplitToSequence")
        sections = tuple(min(each, size - start) for start in range(0, size, each))
    if isinstance(x, np.ndarray):
        return list(np.split(x, np.cumsum(sections)[:-1], axis=axis))
    return list(oy.split(x, sections=sections, axis=axis))


def concat(node: OnnxNode) -> Any:
    join = oy.stack if node.attribute("new_axis", 0) else oy.concat
    return join(*node.inputs[0], axis=node.attribute("axis"))


def map_(node: OnnxNode) -> Any:
    """The body for each element of the first sequence, and of the others that are sequences."""
    made = [
        node.subgraph("body", [item[i] if isinstance(item, list) else item for item in node.inputs])
        for i in range(len(node.inputs[0]))
    ]
    return tuple([outputs[i] for outputs in made] for i in range(len(node.outputs)))


def optional(node: OnnxNode) -> Any:
    return node.inputs[0] if node.inputs else EMPTY


def has_element(node: OnnxNode) -> Any:
    held = node.get(0)
    return np.array(held is not None and held is not EMPTY)


def get_element(node: OnnxNode) -> Any:
    if node.inputs[0] is EMPTY or node.inputs[0] is None:
        raise ModelError("OptionalGetElement asks for the value of an optional that has none.")
    return node.inputs[0]


OPERATORS = (
    Operator("ConcatFromSequence", 11, concat),
    Operator("Optional", 15, optional),
    Operator("OptionalGetElement", 15, get_element),
    Operator("OptionalHasElement", 15, has_element),
    Operator("SequenceAt", 11, at),
    Operator("SequenceConstruct", 11, construct),
    Operator("SequenceEmpty", 11, lambda node: []),
    Operator("SequenceErase", 11, erase),
    Operator("SequenceInsert", 11, insert),
    Operator("SequenceLength", 11, length),
    Operator("SequenceMap", 17, map_),
    Operator("SplitToSequence", 11, split),
)

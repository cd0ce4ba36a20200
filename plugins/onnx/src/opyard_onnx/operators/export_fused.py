"""ONNX forms of composite ops that runtimes know by their nodes, and would not find in a function of the model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

import opyard as oy
from opyard_onnx.errors import UnsupportedModel

if TYPE_CHECKING:
    from opyard_onnx.exporting import Writer


def relu6(writer: Writer, node: oy.Node) -> Any:
    """Clip with constant bounds: runtimes make it a part of the convolution before it."""
    dtype = node.inputs[0].dtype if node.inputs[0] is not None else np.dtype(np.float32)
    low, high = (writer.tensor(np.array(bound, dtype)) for bound in (0, 6))
    return writer.add("Clip", [*writer.inputs(node), low, high])


def attention(writer: Writer, node: oy.Node) -> Any:
    """Two matrix products around a softmax, the way in which runtimes look for attention.

    Raises UnsupportedModel for what needs more: masks, which may hide all keys of a query, groups of heads, and narrow dtypes.
    """
    given = [value for value in node.inputs if value is not None]
    query, key, value = given[:3]
    simple = len(given) == 3 and not node.call.attrs["causal"] and query.shape[1] == key.shape[1]
    sizes = (*query.shape[1:], *key.shape[1:], *value.shape[1:])
    names = {part.dtype.name for part in given}
    known = isinstance(query.shape[3], int) and all(size != 0 for size in sizes if isinstance(size, int))
    if not simple or not known or len(names) > 1 or not names <= {"float32", "float64"}:
        raise UnsupportedModel(f"attention as in {node.call} is written as a function.")
    q, k, v = writer.inputs(node)
    scale = node.call.attrs["scale"]
    if scale is None:
        scale = 1 / math.sqrt(int(query.shape[3]))
    turned = writer.add("Transpose", [k], perm=[0, 1, 3, 2])
    factor = writer.tensor(np.array(scale, query.dtype))
    scores = writer.add("Mul", [writer.add("MatMul", [q, turned]), factor])
    return writer.add("MatMul", [writer.add("Softmax", [scores], axis=-1), v])

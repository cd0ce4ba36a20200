"""Attention as opyard's own op, so that kernels for the whole of it can be chosen.

What the op does not express is left to the function body of the ONNX specification: a cap of the scores, scores as an output,
softmax in double precision for narrower numbers, and causal masks whose sizes are open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np

import opyard as oy
from opyard_onnx.errors import ModelError
from opyard_onnx.node import OnnxNode
from opyard_onnx.operators.table import Operator
from opyard_onnx.tensors import dtype_of


def attention(node: OnnxNode) -> Any:
    """Source: ONNX Attention 23 to 25. NotImplemented where the op does not express it."""
    query, key, value = node.inputs[:3]
    if not _is_plain(node, query, key, value):
        return NotImplemented
    wide = query.ndim == 3
    if wide:
        heads, groups = node.attribute("q_num_heads"), node.attribute("kv_num_heads")
        query, key, value = _apart(query, heads), _apart(key, groups), _apart(value, groups)
    past_key, past_value = node.get(4), node.get(5)
    if (past_key is None) != (past_value is None):
        raise ModelError("past_key and past_value are given together.")
    if past_key is not None:
        key, value = oy.concat(past_key, key, axis=2), oy.concat(past_value, value, axis=2)
    masks = _Masks(query.shape[2], key.shape[2], 0 if past_key is None else past_key.shape[2])
    if not masks.read(node):
        return NotImplemented
    found = oy.scaled_dot_product_attention(
        query, key, value, masks.joined(), causal=masks.causal, scale=node.attribute("scale", None)
    )
    if wide:
        batch, heads, length, width = found.shape
        found = oy.reshape(oy.permute_dims(found, axes=(0, 2, 1, 3)), shape=(batch, length, heads * width))
    return found, oy.identity(key), oy.identity(value)


def _apart(x: Any, heads: int) -> Any:
    """``[batch, length, heads * width]`` as ``[batch, heads, length, width]``."""
    batch, length, width = x.shape
    if heads < 1 or (isinstance(width, int) and width % heads):
        raise ModelError(f"a width of {width} is not that of {heads} heads.")
    return oy.permute_dims(oy.reshape(x, shape=(batch, length, heads, width // heads)), axes=(0, 2, 1, 3))


def _is_plain(node: OnnxNode, query: Any, key: Any, value: Any) -> bool:
    """Whether all numbers are of one type, and nothing is asked for that happens between the products."""
    if node.attribute("softcap", 0.0) or node.wants(3):
        return False
    if not query.dtype == key.dtype == value.dtype:
        return False
    precision = node.attribute("softmax_precision", None)
    # the op computes in at least single precision
    return precision is None or dtype_of(precision) != np.float64 or query.dtype == np.float64


@dataclass
class _Masks:
    """What hides keys from queries: ``allowed`` are boolean masks that all hold, ``bias`` is added to the scores."""

    length: Any
    keys: Any
    past: Any
    allowed: list[Any] = field(default_factory=list)
    bias: Any = None
    causal: bool = False

    def read(self, node: OnnxNode) -> bool:
        """Collects the masks of a node; False where sizes would have to be known."""
        mask, lengths = node.get(3), node.get(6)
        if mask is not None and not self._add(mask):
            return False
        if lengths is not None:
            lengths = oy.reshape(lengths, shape=(-1, 1, 1, 1))
            self.allowed.append(oy.less(self._numbers(self.keys, (1, 1, 1, -1)), lengths))
        left, right = node.attribute("left_window_size", -1), node.attribute("right_window_size", -1)
        if min(left, right) < -1:
            raise ModelError(f"a window of Attention is -1 or more; found {left} and {right}.")
        causal = bool(node.attribute("is_causal", 0))
        if causal and left < 0 and right < 0 and lengths is None and self.past == 0:
            self.causal = True
            return True
        if causal and lengths is None and self.length == 1:
            causal = False  # the one query sees the past and itself
        limits = [limit for limit in (right, 0 if causal else -1) if limit >= 0]
        if left < 0 and not limits:
            return True
        if not (isinstance(self.length, int) and isinstance(self.past, int)):
            return False
        ahead = self._ahead(lengths)
        if limits:
            self.allowed.append(oy.less_equal(ahead, min(limits)))
        if left >= 0:
            self.allowed.append(oy.greater_equal(ahead, -left))
        return True

    def _ahead(self, lengths: Any) -> Any:
        """How far each key lies ahead of each query: ``[queries, keys]``, or ``[batch, 1, queries, keys]``."""
        behind = self._numbers(self.keys, (1, -1))
        places = oy.subtract(behind, self._numbers(self.length, (-1, 1)))
        if lengths is None:
            return oy.subtract(places, self.past)
        return oy.subtract(places, oy.subtract(lengths, self.length))

    @staticmethod
    def _numbers(count: Any, shape: tuple[int, ...]) -> Any:
        return oy.reshape(oy.iota(size=count, dtype="int64"), shape=shape)

    def _add(self, mask: Any) -> bool:
        """A mask for fewer keys hides the others."""
        missing = self.keys - mask.shape[-1]
        if not isinstance(missing, int):
            return bool(mask.shape[-1] == self.keys)
        boolean = mask.dtype.kind == "b"
        if missing > 0:
            pads = ((0, 0),) * (mask.ndim - 1) + ((0, missing),)
            mask = oy.pad(mask, pads=pads, value=False if boolean else -math.inf)
        if boolean:
            self.allowed.append(mask)
        else:
            self.bias = mask
        return True

    def joined(self) -> Any:
        """All masks as one, or None."""
        if not self.allowed:
            return self.bias
        allowed = reduce(oy.logical_and, self.allowed)
        return allowed if self.bias is None else oy.where(allowed, self.bias, -math.inf)


OPERATORS = (Operator("Attention", 23, attention),)

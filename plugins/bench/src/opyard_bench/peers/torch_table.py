"""The ops of the model suite as functions of PyTorch. Imported only where PyTorch is about to run."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional

from opyard_bench.peers.translate import Table, plain_padding, split_sizes


def same(padding: Any, rank: int) -> list[int]:
    """PyTorch pads both sides alike."""
    pads = plain_padding(padding, rank)
    assert all(before == behind for before, behind in pads), "the suite pads both sides alike"
    return [before for before, _ in pads]


def conv(x: Any, weight: Any, bias: Any, *, strides: Any, padding: Any, dilations: Any, groups: int) -> Any:
    return functional.conv2d(x, weight, bias, strides, same(padding, 2), dilations, groups)


def conv_transpose(
    x: Any,
    weight: Any,
    bias: Any,
    *,
    strides: Any,
    padding: Any,
    output_padding: Any,
    dilations: Any,
    groups: int,
) -> Any:
    return functional.conv_transpose2d(
        x, weight, bias, strides, same(padding, 2), output_padding, groups, dilations
    )


def max_pool(x: Any, *, kernel: Any, strides: Any, padding: Any, dilations: Any, ceil_mode: bool) -> Any:
    return functional.max_pool2d(x, kernel, strides, same(padding, 2), dilations, ceil_mode)


def layer_normalization(x: Any, scale: Any, bias: Any, *, axis: int, epsilon: float) -> Any:
    assert axis in (-1, x.ndim - 1), "the suite normalizes the last axis"
    return functional.layer_norm(x, x.shape[-1:], scale, bias, epsilon)


def gather(x: Any, indices: Any, *, axis: int) -> Any:
    return (
        functional.embedding(indices, x)
        if axis == 0 and x.ndim == 2
        else x[(slice(None),) * axis + (indices,)]
    )


def slice_(x: Any, *, starts: Any, stops: Any, axes: Any, steps: Any) -> Any:
    chosen = [slice(None)] * x.ndim
    for position, axis in enumerate(axes if axes is not None else range(len(starts))):
        chosen[axis] = slice(starts[position], stops[position], None if steps is None else steps[position])
    return x[tuple(chosen)]


def attention(query: Any, key: Any, value: Any, mask: Any, *, causal: bool, scale: Any) -> Any:
    return functional.scaled_dot_product_attention(query, key, value, mask, is_causal=causal, scale=scale)


TABLE: Table = {
    "add": torch.add,
    "multiply": torch.mul,
    "matmul": torch.matmul,
    "relu": torch.relu,
    "relu6": functional.relu6,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "softmax": lambda x, *, axis: torch.softmax(x, axis),
    "conv": conv,
    "conv_transpose": conv_transpose,
    "max_pool": max_pool,
    "global_average_pool": lambda x: x.mean(dim=tuple(range(2, x.ndim)), keepdim=True),
    "layer_normalization": layer_normalization,
    "scaled_dot_product_attention": attention,
    "gather": gather,
    "flatten": lambda x, *, axis: x.reshape(math.prod(x.shape[:axis]), -1),
    "reshape": lambda x, *, shape: x.reshape(shape),
    "permute_dims": lambda x, *, axes: x.permute(axes),
    "concat": lambda *arrays, axis: torch.cat(arrays, axis),
    "stack": lambda *arrays, axis: torch.stack(arrays, axis),
    "split": lambda x, *, sections, axis: torch.split(x, split_sizes(sections, x.shape[axis]), axis),
    "slice": slice_,
}

"""The ops of the model suite as functions of JAX. Imported only where JAX is about to run."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from opyard_bench.peers.translate import Table, per_axis, plain_padding, split_sizes


def conv(x: Any, weight: Any, bias: Any, *, strides: Any, padding: Any, dilations: Any, groups: int) -> Any:
    rank = x.ndim - 2
    found = lax.conv_general_dilated(
        *(x, weight, per_axis(strides, rank), plain_padding(padding, rank)),
        rhs_dilation=per_axis(dilations, rank),
        feature_group_count=groups,
    )
    return found if bias is None else found + bias.reshape(1, -1, *[1] * rank)


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
    """A convolution of the input with zeros between its elements, by the turned kernel."""
    assert groups == 1, "the suite has no transposed convolutions in groups"
    rank = x.ndim - 2
    spread = per_axis(dilations, rank)
    more = per_axis(output_padding, rank)
    ends = [d * (k - 1) for d, k in zip(spread, weight.shape[2:], strict=True)]
    pads = plain_padding(padding, rank)
    around = [(e - p[0], e - p[1] + m) for e, p, m in zip(ends, pads, more, strict=True)]
    turned = jnp.flip(jnp.swapaxes(weight, 0, 1), tuple(range(2, weight.ndim)))
    found = lax.conv_general_dilated(
        x, turned, [1] * rank, around, lhs_dilation=per_axis(strides, rank), rhs_dilation=spread
    )
    return found if bias is None else found + bias.reshape(1, -1, *[1] * rank)


def max_pool(x: Any, *, kernel: Any, strides: Any, padding: Any, dilations: Any, ceil_mode: bool) -> Any:
    assert not ceil_mode, "the suite rounds down"
    rank = x.ndim - 2
    sizes = per_axis(kernel, rank)
    return lax.reduce_window(
        *(x, -jnp.inf, lax.max, (1, 1, *sizes)),
        (1, 1, *(sizes if strides is None else per_axis(strides, rank))),
        [(0, 0), (0, 0), *plain_padding(padding, rank)],
        window_dilation=(1, 1, *per_axis(dilations, rank)),
    )


def layer_normalization(x: Any, scale: Any, bias: Any, *, axis: int, epsilon: float) -> Any:
    assert axis in (-1, x.ndim - 1), "the suite normalizes the last axis"
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + epsilon) * scale + bias


def attention(query: Any, key: Any, value: Any, mask: Any, *, causal: bool, scale: Any) -> Any:
    assert mask is None and not causal, "the suite has no masks"
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = jnp.einsum("bhle,bhse->bhls", query, key) * scale
    return jnp.einsum("bhls,bhsv->bhlv", jax.nn.softmax(scores, axis=-1), value)


def slice_(x: Any, *, starts: Any, stops: Any, axes: Any, steps: Any) -> Any:
    chosen = [slice(None)] * x.ndim
    for position, axis in enumerate(axes if axes is not None else range(len(starts))):
        chosen[axis] = slice(starts[position], stops[position], None if steps is None else steps[position])
    return x[tuple(chosen)]


def split(x: Any, *, sections: Any, axis: int) -> Any:
    sizes = split_sizes(sections, x.shape[axis])
    return jnp.split(x, [sum(sizes[:number]) for number in range(1, len(sizes))], axis)


def flatten(x: Any, *, axis: int) -> Any:
    return x.reshape(math.prod(x.shape[:axis]), -1)


TABLE: Table = {
    "add": jnp.add,
    "multiply": jnp.multiply,
    "matmul": partial(jnp.matmul, precision="highest"),
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "gelu": lambda x, *, approximate: jax.nn.gelu(x, approximate=approximate == "tanh"),
    "softmax": lambda x, *, axis: jax.nn.softmax(x, axis=axis),
    "conv": conv,
    "conv_transpose": conv_transpose,
    "max_pool": max_pool,
    "global_average_pool": lambda x: x.mean(tuple(range(2, x.ndim)), keepdims=True),
    "layer_normalization": layer_normalization,
    "scaled_dot_product_attention": attention,
    "gather": lambda x, indices, *, axis: jnp.take(x, indices, axis=axis),
    "flatten": flatten,
    "reshape": lambda x, *, shape: x.reshape(shape),
    "permute_dims": lambda x, *, axes: x.transpose(axes),
    "concat": lambda *arrays, axis: jnp.concatenate(arrays, axis),
    "stack": lambda *arrays, axis: jnp.stack(arrays, axis),
    "split": split,
    "slice": slice_,
}

"""Layers that draw their weights: what the models of the suite are written with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import opyard as oy

Value = Any
"""A value of a graph."""


class Layers:
    """A graph that grows layer by layer; ``feeds`` are arrays for its inputs.

    Weights are normal numbers, scaled by what they sum over (He et al. 2015), so that activations stay near one however
    deep the model is. Equal seeds give equal models. Batch normalization is folded into the convolutions, as exporters of
    models for inference do.
    """

    def __init__(self, seed: int = 0) -> None:
        self.graph = oy.Graph()
        self.feeds: dict[str, np.ndarray[Any, Any]] = {}
        self._random = np.random.default_rng(seed)

    # Inputs and weights ------------------------------------------------------------------------------------------

    def input(self, name: str, *shape: int) -> Value:
        """A float32 input; it is fed with normal numbers."""
        self.feeds[name] = self._random.standard_normal(shape, np.float32)
        return self.graph.input(name, oy.TensorSpec(shape, "float32"))

    def positions(self, name: str, *shape: int, below: int) -> Value:
        """An int64 input of row numbers of a table; it is fed with numbers from 0 to ``below`` - 1."""
        self.feeds[name] = self._random.integers(0, below, shape)
        return self.graph.input(name, oy.TensorSpec(shape, "int64"))

    def weight(self, *shape: int, terms: int, gain: float = 1.0) -> Value:
        """Normal numbers of variance ``gain`` / ``terms``."""
        array = self._random.standard_normal(shape, np.float32)
        array *= np.float32(math.sqrt(gain / terms))
        return self.graph.constant(array, "weight")

    def bias(self, *shape: int) -> Value:
        """Small normal numbers."""
        return self.graph.constant(0.1 * self._random.standard_normal(shape, np.float32), "bias")

    def gamma(self, size: int) -> Value:
        """Normal numbers around one."""
        return self.graph.constant(1 + 0.1 * self._random.standard_normal(size, np.float32), "scale")

    # Layers ------------------------------------------------------------------------------------------------------

    def conv(
        self, x: Value, channels: int, kernel: int, *, stride: int = 1, groups: int = 1, gain: float = 2.0
    ) -> Value:
        """A convolution with bias, padded so that stride 1 keeps the size: ``[n, c, h, w] -> [n, channels, ...]``."""
        each = x.shape[1] // groups
        weight = self.weight(channels, each, kernel, kernel, terms=each * kernel**2, gain=gain)
        return oy.conv(
            x, weight, self.bias(channels), strides=stride, padding=(kernel - 1) // 2, groups=groups
        )

    def up(self, x: Value, channels: int) -> Value:
        """A transposed convolution that doubles the size: ``[n, c, h, w] -> [n, channels, 2 h, 2 w]``."""
        weight = self.weight(x.shape[1], channels, 2, 2, terms=x.shape[1])
        return oy.conv_transpose(x, weight, self.bias(channels), strides=2)

    def dense(self, x: Value, features: int, gain: float = 1.0) -> Value:
        """A matrix product with bias: ``[..., k] -> [..., features]``."""
        weight = self.weight(x.shape[-1], features, terms=x.shape[-1], gain=gain)
        return oy.matmul(x, weight) + self.bias(features)

    def norm(self, x: Value, epsilon: float = 1e-5) -> Value:
        """Layer normalization over the last axis."""
        size = x.shape[-1]
        return oy.layer_normalization(x, self.gamma(size), self.bias(size), axis=-1, epsilon=epsilon)

    def heads(self, x: Value, count: int) -> Value:
        """``[b, l, count * e] -> [b, count, l, e]``."""
        batch, length, width = x.shape
        split = oy.reshape(x, shape=(batch, length, count, width // count))
        return oy.permute_dims(split, axes=(0, 2, 1, 3))

    def joined(self, x: Value) -> Value:
        """The inverse of ``heads``: ``[b, count, l, e] -> [b, l, count * e]``."""
        batch, count, length, width = x.shape
        return oy.reshape(oy.permute_dims(x, axes=(0, 2, 1, 3)), shape=(batch, length, count * width))

    def attention(self, x: Value, heads: int) -> Value:
        """Self-attention with its projections: ``[b, l, d] -> [b, l, d]``. Source: Vaswani et al. 2017."""
        width = x.shape[-1]
        query, key, value = (self.heads(self.dense(x, width), heads) for _ in range(3))
        return self.dense(self.joined(oy.scaled_dot_product_attention(query, key, value)), width)


Builder = Callable[[Layers, int], None]
"""Adds a model to the layers, inputs and outputs included, for a batch of so many."""

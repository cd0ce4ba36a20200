"""Transformers, recurrent and dense networks."""

from __future__ import annotations

from functools import partial

import numpy as np

import opyard as oy
from opyard_bench.models.layers import Builder, Layers, Value


def vit(
    layers: Layers, batch: int, *, size: int, patch: int, width: int, heads: int, depth: int, classes: int
) -> None:
    """Vision transformer, norms before the parts: ``[n, 3, size, size] -> [n, classes]``. Source: Dosovitskiy et al. 2021."""
    images = layers.input("images", batch, 3, size, size)
    weight = layers.weight(width, 3, patch, patch, terms=3 * patch**2)
    count = (size // patch) ** 2
    x = oy.conv(images, weight, layers.bias(width), strides=patch)
    x = oy.permute_dims(oy.reshape(x, shape=(batch, width, count)), axes=(0, 2, 1))
    first = layers.graph.constant(np.zeros((batch, 1, width), np.float32), "class_token")
    x = oy.concat(first, x, axis=1) + layers.bias(1, count + 1, width)
    for _ in range(depth):
        x = x + layers.attention(layers.norm(x, 1e-6), heads)
        x = x + _mlp(layers, layers.norm(x, 1e-6))
    head = oy.slice(layers.norm(x, 1e-6), starts=(0,), stops=(1,), axes=(1,))
    layers.graph.output("logits", layers.dense(oy.reshape(head, shape=(batch, width)), classes))


def _mlp(layers: Layers, x: Value, approximate: str = "none") -> Value:
    width = x.shape[-1]
    return layers.dense(oy.gelu(layers.dense(x, 4 * width), approximate=approximate), width)


def bert(
    layers: Layers, batch: int, *, length: int, width: int, heads: int, depth: int, vocabulary: int
) -> None:
    """The encoder of BERT, norms behind the parts: ``[n, length] -> [n, length, width]``. Source: Devlin et al. 2019."""
    tokens = layers.positions("tokens", batch, length, below=vocabulary)
    table = layers.weight(vocabulary, width, terms=1)
    x = layers.norm(oy.gather(table, tokens, axis=0) + layers.bias(1, length, width), 1e-12)
    for _ in range(depth):
        x = layers.norm(x + layers.attention(x, heads), 1e-12)
        x = layers.norm(x + _mlp(layers, x), 1e-12)
    layers.graph.output("hidden", x)


def gpt2(
    layers: Layers, batch: int, *, past: int, width: int, heads: int, depth: int, vocabulary: int
) -> None:
    """One step of the decoder of GPT-2 behind ``past`` tokens: ``[n, 1] -> [n, 1, vocabulary]``. Source: Radford et al. 2019.

    Keys and values of the tokens before, ``[n, heads, past, width / heads]`` of each layer, are inputs; outputs are those of
    all tokens.
    """
    tokens = layers.positions("tokens", batch, 1, below=vocabulary)
    table = layers.weight(vocabulary, width, terms=width)
    x = oy.gather(table, tokens, axis=0) + layers.bias(1, 1, width)
    each = (batch, heads, past, width // heads)
    for number in range(depth):
        y = layers.norm(x)
        query, key, value = (layers.heads(layers.dense(y, width), heads) for _ in range(3))
        key = oy.concat(layers.input(f"keys_{number}", *each), key, axis=2)
        value = oy.concat(layers.input(f"values_{number}", *each), value, axis=2)
        layers.graph.output(f"all_keys_{number}", key)
        layers.graph.output(f"all_values_{number}", value)
        found = layers.joined(oy.scaled_dot_product_attention(query, key, value))
        x = x + layers.dense(found, width)
        x = x + _mlp(layers, layers.norm(x), "tanh")
    output = layers.weight(width, vocabulary, terms=width)
    layers.graph.output("logits", oy.matmul(layers.norm(x), output))


def lstm(layers: Layers, batch: int, *, length: int, width: int, depth: int, classes: int) -> None:
    """Stacked LSTM layers, unrolled: ``[length, n, width] -> [n, classes]``. Source: Hochreiter and Schmidhuber 1997.

    The products with the inputs of all steps are one product. Gates in the order input, forget, cell, output.
    """
    x = layers.input("steps", length, batch, width)
    for number in range(depth):
        inner = layers.weight(width, 4 * width, terms=width)
        parts = oy.reshape(layers.dense(x, 4 * width), shape=(length, batch, 4 * width))
        hidden = cell = layers.graph.constant(np.zeros((batch, width), np.float32), "zeros")
        outputs = []
        for step in oy.split(parts, sections=length, axis=0):
            gates = oy.reshape(step, shape=(batch, 4 * width)) + oy.matmul(hidden, inner)
            entry, forget, content, exit_ = oy.split(gates, sections=4, axis=-1)
            cell = oy.sigmoid(forget) * cell + oy.sigmoid(entry) * oy.tanh(content)
            hidden = oy.sigmoid(exit_) * oy.tanh(cell)
            outputs.append(hidden)
        x = oy.stack(*outputs, axis=0) if number < depth - 1 else hidden
    layers.graph.output("logits", layers.dense(x, classes))


def mlp(layers: Layers, batch: int, *, sizes: tuple[int, ...]) -> None:
    """Dense layers with ReLU between them: ``[n, sizes[0]] -> [n, sizes[-1]]``, as probabilities."""
    x = layers.input("features", batch, sizes[0])
    for size in sizes[1:-1]:
        x = oy.relu(layers.dense(x, size, gain=2.0))
    layers.graph.output("probabilities", oy.softmax(layers.dense(x, sizes[-1]), axis=-1))


FULL: dict[str, Builder] = {
    "vit_s16": partial(vit, size=224, patch=16, width=384, heads=6, depth=12, classes=1000),
    "bert_base": partial(bert, length=128, width=768, heads=12, depth=12, vocabulary=30522),
    "gpt2_small": partial(gpt2, past=128, width=768, heads=12, depth=12, vocabulary=50257),
    "lstm": partial(lstm, length=32, width=256, depth=2, classes=10),
    "mlp": partial(mlp, sizes=(784, 512, 256, 10)),
}
TINY: dict[str, Builder] = {
    "vit_s16": partial(vit, size=32, patch=8, width=32, heads=2, depth=2, classes=10),
    "bert_base": partial(bert, length=8, width=32, heads=2, depth=2, vocabulary=50),
    "gpt2_small": partial(gpt2, past=5, width=32, heads=2, depth=2, vocabulary=50),
    "lstm": partial(lstm, length=4, width=16, depth=2, classes=10),
    "mlp": partial(mlp, sizes=(32, 16, 10)),
}
"""The same structures, of sizes for tests."""

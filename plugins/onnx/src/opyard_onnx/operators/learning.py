"""Gradients, steps of optimizers, and operators of classical machine learning. Source: ai.onnx.preview.training and ai.onnx.ml."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import opyard as oy
from opyard_onnx.errors import UnsupportedModel
from opyard_onnx.node import OnnxNode
from opyard_onnx.operators.table import Converter, Operator

TRAINING, CLASSICAL = "ai.onnx.preview.training", "ai.onnx.ml"

Step = Callable[[OnnxNode, Any, Any, tuple[Any, ...]], tuple[Any, ...]]


def each(step: Step, parts: int) -> Converter:
    """The step for each of several tensors, whose parts (tensors, gradients, states) lie behind each other."""

    def convert(node: OnnxNode) -> Any:
        rate, count, *rest = node.inputs
        tensors = len(rest) // parts
        made = [step(node, rate, count, tuple(rest[i::tensors])) for i in range(tensors)]
        return tuple(results[part] for part in range(parts - 1) for results in made)

    return convert


def _regularized(node: OnnxNode, x: Any, gradient: Any) -> Any:
    return oy.add(oy.multiply(x, node.attribute("norm_coefficient", 0.0)), gradient)


def momentum(node: OnnxNode, rate: Any, count: Any, parts: tuple[Any, ...]) -> tuple[Any, ...]:
    x, gradient, velocity = parts
    alpha, beta = node.attribute("alpha"), node.attribute("beta")
    gradient = _regularized(node, x, gradient)
    first = oy.cast(oy.equal(count, 0), dtype=x.dtype.name)
    factor = oy.add(oy.multiply(first, 1.0 - beta), beta)  # 1 in the first step
    new = oy.add(oy.multiply(velocity, alpha), oy.multiply(gradient, factor))
    step = oy.add(gradient, oy.multiply(new, alpha)) if node.attribute("mode") == "nesterov" else new
    return oy.subtract(x, oy.multiply(step, rate)), new


def adagrad(node: OnnxNode, rate: Any, count: Any, parts: tuple[Any, ...]) -> tuple[Any, ...]:
    x, gradient, squares = parts
    steps = oy.cast(count, dtype=x.dtype.name)
    rate = oy.divide(rate, oy.add(oy.multiply(steps, node.attribute("decay_factor", 0.0)), 1.0))
    gradient = _regularized(node, x, gradient)
    new = oy.add(squares, oy.square(gradient))
    step = oy.divide(oy.multiply(gradient, rate), oy.add(oy.sqrt(new), node.attribute("epsilon", 1e-6)))
    return oy.subtract(x, step), new


def adam(node: OnnxNode, rate: Any, count: Any, parts: tuple[Any, ...]) -> tuple[Any, ...]:
    x, gradient, mean, squares = parts
    alpha, beta = node.attribute("alpha", 0.9), node.attribute("beta", 0.999)
    gradient = _regularized(node, x, gradient)
    new_mean = oy.add(oy.multiply(mean, alpha), oy.multiply(gradient, 1 - alpha))
    new_squares = oy.add(oy.multiply(squares, beta), oy.multiply(oy.square(gradient), 1 - beta))
    steps = oy.cast(count, dtype=x.dtype.name)
    corrected = oy.divide(
        oy.sqrt(oy.subtract(1.0, oy.pow(beta, steps))), oy.subtract(1.0, oy.pow(alpha, steps))
    )
    factor = oy.where(oy.greater(count, 0), corrected, 1.0)
    root = oy.add(oy.sqrt(new_squares), node.attribute("epsilon", 1e-6))
    step = oy.multiply(oy.divide(new_mean, root), oy.multiply(rate, factor))
    left = oy.multiply(oy.subtract(x, step), 1 - node.attribute("norm_coefficient_post", 0.0))
    return left, new_mean, new_squares


def gradient(node: OnnxNode) -> Any:
    """Of the sum of ``y``, at the values that the graph around has. Its inputs could name others, which nobody writes."""
    if node.importer.continued:
        raise UnsupportedModel(
            "Gradient behind a number that is only known when the model runs; what is before it belongs to another graph."
        )
    names = [*node.attribute("xs"), *node.attribute("zs", ())]
    if len(names) != len(node.inputs) or any(
        node.named(name) is not entry for name, entry in zip(names, node.inputs, strict=False)
    ):
        raise UnsupportedModel("Gradient whose inputs are other tensors than those that xs and zs name.")
    return tuple(oy.gradients(node.named(node.attribute("y")), node.inputs[: len(node.attribute("xs"))]))


def binarize(node: OnnxNode) -> Any:
    above = oy.greater(node.x, node.attribute("threshold", 0.0))
    return oy.cast(above, dtype=node.x.dtype.name)


def extract_features(node: OnnxNode) -> Any:
    x, indices = node.inputs
    found = oy.gather(x, oy.reshape(indices, shape=(-1,)), axis=x.ndim - 1)
    return oy.expand_dims(found, axis=0) if x.ndim == 1 else found


OPERATORS = (
    Operator("Adagrad", 1, each(adagrad, 3), TRAINING),
    Operator("Adam", 1, each(adam, 4), TRAINING),
    Operator("ArrayFeatureExtractor", 1, extract_features, CLASSICAL),
    Operator("Binarizer", 1, binarize, CLASSICAL),
    Operator("Gradient", 1, gradient, TRAINING),
    Operator("Momentum", 1, each(momentum, 3), TRAINING),
)

"""Gradients against central differences, in float64, along random directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import opyard as oy
from opyard.nest import leaves


def evaluate(graph: oy.Graph, arrays: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
    """The outputs of a graph, node by node by the references."""
    known: dict[oy.Value, Any] = {**dict(zip(graph.inputs.values(), arrays, strict=True)), **graph.constants}
    for node in graph.nodes:
        given = (None if value is None else known[value] for value in node.inputs)
        known.update(zip(node.outputs, node.call.reference(*given), strict=True))
    return [np.asarray(known[value]) for value in graph.outputs.values()]


def check(function: Callable[..., Any], *arrays: Any, tolerance: float = 1e-6, step: float = 1e-6) -> bool:
    """Compares the derivative of ``function`` along a random direction with a central difference.

    All arrays of real floating numbers vary; the others are constants. False where differences of two steps disagree, or
    are not finite: there is a bend, a pole or nothing, and they say nothing of a derivative.
    """
    generator = np.random.default_rng(7)
    varying = [i for i, a in enumerate(arrays) if a is not None and np.asarray(a).dtype.kind == "f"]

    def outputs(*varied: Any) -> list[Any]:
        given = list(arrays)
        for i, value in zip(varying, varied, strict=True):
            given[i] = value
        return [y for y in leaves(function(*given)) if np.dtype(y.dtype).kind == "f"]

    specs = [oy.TensorSpec.of(np.asarray(arrays[i])) for i in varying]
    forward = oy.trace(outputs, *specs)
    found = evaluate(forward, [arrays[i] for i in varying])
    weights = [generator.uniform(0.5, 1.5, y.shape) for y in found]

    def backward(*varied: Any) -> Any:
        return oy.gradients(outputs(*varied), list(varied), weights)

    gradients = evaluate(oy.trace(backward, *specs).check(), [arrays[i] for i in varying])
    directions = [generator.uniform(0.5, 1.5, np.shape(arrays[i])) for i in varying]

    def moved(sign: float) -> float:
        inputs = [arrays[i] + sign * step * d for i, d in zip(varying, directions, strict=True)]
        return sum(float(np.sum(w * y)) for w, y in zip(weights, evaluate(forward, inputs), strict=True))

    difference, wider = ((moved(n) - moved(-n)) / (2 * n * step) for n in (1.0, 2.0))
    parts = [g * d for g, d in zip(gradients, directions, strict=True)]
    derivative = sum(float(np.sum(part)) for part in parts)
    scale = max(1.0, abs(difference), sum(float(np.sum(np.abs(part))) for part in parts))
    if not np.isfinite(difference) or abs(difference - wider) > 1e-3 * scale:
        return False
    assert abs(derivative - difference) <= tolerance * scale, (derivative, difference)
    return True

"""Programs of fused regions that stand for all: which ones there are depends on the graphs that are run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import opyard as oy
from opyard.region import Region

from .fusion import elementwise_source, row_source
from .sources import CudaSource

DTYPES = ("float32", "float16", "bfloat16", "float64")

SHAPE = (64, 1024)
ROW = SHAPE[1:]
COLUMN = (SHAPE[0], 1)


def chain(x: Any) -> Any:
    """Elementwise ops one after another, on arrays without broadcasting."""
    return oy.sigmoid(oy.abs(x) * 2.0 - 1.0) + x


def tree(x: Any, row: Any, column: Any) -> Any:
    """Elementwise ops with broadcasting along both axes."""
    return oy.tanh(x + row) * column - oy.where(x > row, x, column)


def softmax(x: Any) -> Any:
    """Softmax of rows, by its parts."""
    shifted = oy.exp(x - oy.max(x, axis=-1, keepdims=True))
    return shifted / oy.sum(shifted, axis=-1, keepdims=True)


def normalization(x: Any, scale: Any, bias: Any) -> Any:
    """Layer normalization of rows, by its parts."""
    centred = x - oy.mean(x, axis=-1, keepdims=True)
    variance = oy.mean(centred * centred, axis=-1, keepdims=True)
    return centred / oy.sqrt(variance + 1e-5) * scale + bias


REGIONS: tuple[tuple[Callable[..., Any], tuple[tuple[int, ...], ...], Callable[[Region], Any]], ...] = (
    (chain, (SHAPE,), elementwise_source),
    (tree, (SHAPE, ROW, COLUMN), elementwise_source),
    (softmax, (SHAPE,), row_source),
    (normalization, (SHAPE, ROW, ROW), row_source),
)
"""Functions over ops, the shapes of their arrays, and what makes a program of their region."""


def sources() -> Iterator[CudaSource]:
    """A program of each region for each dtype."""
    for function, shapes, make in REGIONS:
        for dtype in DTYPES:
            graph = oy.trace(function, *(oy.TensorSpec(shape, dtype) for shape in shapes))
            region = Region.of(graph.nodes, graph.inputs.values(), graph.outputs.values())
            source, *_ = make(region)
            yield replace(source, name=f"fused/{function.__name__}-{dtype}")

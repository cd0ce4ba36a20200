"""Loops step by step: the general way, where they are no nodes of a graph. Where numbers that are fed end one, the model has stages."""

from __future__ import annotations

from typing import Any

import numpy as np

import opyard as oy
from opyard_onnx.errors import UnsupportedModel
from opyard_onnx.node import EMPTY, OnnxNode

MOST_ITERATIONS = 10_000
"""A loop is unrolled, so each iteration takes memory and time of the import."""


def loop(node: OnnxNode) -> Any:
    """Source: ONNX Loop. Either bound may be left out."""
    body = node.attribute("body")
    trips = node.get(0)
    count = MOST_ITERATIONS + 1 if trips is None or trips is EMPTY else int(node.number(0))
    condition = node.get(1)
    goes_on = True if condition is None else bool(node.number(1))
    carried = list(node.inputs[2:])
    scans: list[list[Any]] = [[] for _ in body.output[1 + len(carried) :]]
    iteration = 0
    while goes_on and iteration < count:
        if iteration >= MOST_ITERATIONS:
            raise UnsupportedModel(f"Loop runs more than {MOST_ITERATIONS} times; loops are unrolled.")
        first = node.constant(np.array(iteration, np.int64))
        outputs = node.subgraph("body", [first, node.constant(np.array(goes_on)), *carried])
        goes_on = bool(node.importer.value(outputs[0]).reshape(-1)[0])
        carried = outputs[1 : 1 + len(carried)]
        for scan, item in zip(scans, outputs[1 + len(carried) :], strict=True):
            scan.append(item)
        iteration += 1
    stacked = [
        _stacked(node, scan, output, 0)
        for scan, output in zip(scans, body.output[1 + len(carried) :], strict=True)
    ]
    return (*carried, *stacked)


def _stacked(node: OnnxNode, items: list[Any], output: Any, axis: int) -> Any:
    """Items along a new axis; without any, an empty tensor of the shape that the body states."""
    if items:
        return oy.stack(*items, axis=axis)
    from opyard_onnx.tensors import dtype_of

    stated = output.type.tensor_type
    sizes = [size.dim_value for size in stated.shape.dim]
    sizes.insert(axis, 0)
    return node.constant(np.zeros(sizes, dtype_of(stated.elem_type)))


def scan(node: OnnxNode) -> Any:
    """Source: ONNX Scan 9: states, and sequences that the body sees element by element."""
    count = node.attribute("num_scan_inputs")
    states, sequences = node.inputs[: len(node.inputs) - count], node.inputs[len(node.inputs) - count :]
    axes = node.attribute("scan_input_axes", (0,) * count)
    turned = node.attribute("scan_input_directions", (0,) * count)
    steps = [oy.unstack(x, axis=axis) for x, axis in zip(sequences, axes, strict=True)]
    steps = [parts[::-1] if turn else parts for parts, turn in zip(steps, turned, strict=True)]
    return _scanned(node, list(states), steps)


def _scanned(node: OnnxNode, states: list[Any], steps: list[Any]) -> tuple[Any, ...]:
    outputs = list(node.attribute("body").output)[len(states) :]
    made: list[list[Any]] = [[] for _ in outputs]
    for parts in zip(*steps, strict=True):
        results = node.subgraph("body", [*states, *parts])
        for items, item in zip(made, results[len(states) :], strict=True):
            items.append(item)
        states = results[: len(states)]
    axes = node.attribute("scan_output_axes", (0,) * len(made))
    turned = node.attribute("scan_output_directions", (0,) * len(made))
    scans = [
        _stacked(node, items[::-1] if turn else items, output, axis)
        for items, output, axis, turn in zip(made, outputs, axes, turned, strict=True)
    ]
    return (*states, *scans)


def batched_scan(node: OnnxNode) -> Any:
    """Source: ONNX Scan 8, whose first axis is a batch."""
    count, given = node.attribute("num_scan_inputs"), node.inputs[1:]
    states, sequences = given[:-count], given[-count:]
    turned = node.attribute("directions", (0,) * count)
    rows = []
    for row in range(int(sequences[0].shape[0])):
        index = node.constant(np.array(row))
        mine = [oy.gather(state, index, axis=0) for state in states]
        parts = [oy.unstack(oy.gather(x, index, axis=0), axis=0) for x in sequences]
        parts = [part[::-1] if turn else part for part, turn in zip(parts, turned, strict=True)]
        rows.append(_scanned(node, mine, parts))
    return tuple(oy.stack(*column, axis=0) for column in zip(*rows, strict=True))

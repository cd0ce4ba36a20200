"""What both engines share: which calls and regions they take, a region as an ONNX model, and what it may cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

import opyard as oy
from opyard import settings
from opyard.operation import Call
from opyard.region import Region

LEAST_NODES = 3
"""An engine pays for whole parts of a graph. Preparing one takes a hundredth of a second or more, and there are many small regions."""

MOST_BYTES = 2**31 - 2**24
"""Protocol buffers, and so ONNX models with their weights in them, end at two gigabytes."""

EFFICIENCY = 0.5
"""Of the roofline of the device, for the estimate: products reach more, elementwise ops on one thread less."""

CALL_SECONDS, NODE_SECONDS = 1e-5, 5e-7
"""For entering an engine, and for each node in it."""

FLOAT, INTEGERS = "float32", ("int32", "int64")

Array = np.ndarray[Any, Any]


_answers: dict[Any, str | None] = {}
"""What engines said, by the engine and by what its answer depends on: sizes do not decide whether it has an operator."""


def refusal(call: Call, engine: str, module: str, ask: Callable[[Call], str | None]) -> str | None:
    """Why an engine cannot take a call as a part of a region; None where it may. ``ask`` asks the engine itself, once for each kind of call."""
    if reason := _shared_refusal(call, engine, module):
        return reason
    key = engine, call.op, tuple(spec and (spec.dtype, spec.ndim) for spec in call.inputs), call.attributes
    if key not in _answers:
        _answers[key] = ask(call)
    return _answers[key]


def _shared_refusal(call: Call, engine: str, module: str) -> str | None:
    """The reasons that all engines have. Integers are positions alone: OpenVINO computes them in 32 bits."""
    if not settings.engines():
        return f"{engine} does not keep every NaN; OPYARD_ENGINES=1 allows it"
    if find_spec(module) is None:
        return f"{engine} is not installed. Type: pip install {module}"
    if any(spec.dtype.name != FLOAT for spec in call.outputs):
        names = ", ".join(spec.dtype.name for spec in call.outputs)
        return f"{engine} is asked for {FLOAT} alone, and the output is {names}"
    for spec in call.inputs:
        if spec is not None and spec.dtype.name not in (FLOAT, *INTEGERS):
            return f"{engine} is given {FLOAT}, {' and '.join(INTEGERS)} alone, and an input is {spec.dtype.name}"
    if any(spec is not None and 0 in spec.shape for spec in (*call.inputs, *call.outputs)):
        return f"{engine} is given no empty arrays"
    return None


def accepts(region: Region, device: oy.Device) -> str | None:
    """Refuses regions that are too small to pay, and too large to be a model."""
    if len(region.graph.nodes) < LEAST_NODES:
        return f"engines take {LEAST_NODES} ops or more at once, this region has {len(region.graph.nodes)}"
    nbytes = sum(spec.nbytes for spec in region.inputs if spec is not None)
    if nbytes > MOST_BYTES:
        return f"its weights may come to {nbytes} bytes, and an ONNX model ends at 2 GB"
    return None


def cost(region: Region, device: oy.Device) -> float:
    """The roofline of each node at one efficiency, for few of them are fused, and what entering the engine and each node take."""
    can = device.capabilities
    works = [node.call.cost for node in region.graph.nodes]
    seconds = sum(max(work.flops / can.flops, work.bytes / can.bandwidth) for work in works) / EFFICIENCY
    return seconds + CALL_SECONDS + NODE_SECONDS * len(works)


def with_constants(region: Region, constants: Sequence[Array | None]) -> tuple[oy.Graph, list[int]]:
    """The graph of a region with known inputs as constants, and the positions of the inputs that it has left."""
    old, graph = region.graph, oy.Graph()
    new: dict[oy.Value, oy.Value] = {}
    left: list[int] = []
    for position, name in enumerate(region.input_names):
        if name not in old.inputs:
            continue
        value, array = old.inputs[name], constants[position]
        if array is None:
            new[value] = graph.input(name, value.spec)
            left.append(position)
        else:
            new[value] = graph.constant(np.ascontiguousarray(array))
    new.update({value: graph.constant(array) for value, array in old.constants.items()})
    for node in old.nodes:
        made = graph.append(node.call, tuple(None if v is None else new[v] for v in node.inputs), node.mark)
        new.update(zip(node.outputs, made, strict=True))
    for name, value in old.outputs.items():
        graph.output(name, new[value])
    return graph, left


def as_onnx(graph: oy.Graph) -> bytes:
    """The graph as the bytes of an ONNX file, without functions of its own, which not all engines know.

    Raises UnsupportedModel for what has no ONNX form.
    """
    from onnx import inliner

    from opyard_onnx import export

    found: bytes = inliner.inline_local_functions(export(graph)).SerializeToString()
    return found


def alone(call: Call) -> oy.Graph:
    """A graph of one call, whose inputs are fed."""
    graph = oy.Graph()
    values = [
        None if spec is None else graph.input(f"input_{position}", spec)
        for position, spec in enumerate(call.inputs)
    ]
    made = graph.apply(call.op, values, call.attrs)
    for number, value in enumerate(made if call.is_tuple else (made,)):
        graph.output(f"output_{number}", value)
    return graph

"""Export of control flow: ``cond``, ``while_loop`` and ``scan`` as If, Loop and Scan.

What a body takes of the graph around it is known there by its name, so it is no input of the subgraph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import opyard as oy
from opyard_onnx.exporting import Writer, info

if TYPE_CHECKING:
    from opyard_onnx.exporting import Export

NUMBER, TRUTH = oy.TensorSpec((), "int64"), oy.TensorSpec((), "bool")


def cond(writer: Writer, node: oy.Node) -> Any:
    predicate, *operands = writer.inputs(node)
    branches = {
        f"{name}_branch": _subgraph(writer, node.call.attrs[key], f"{name}_branch", (), operands)
        for name, key in (("then", "then"), ("else", "otherwise"))
    }
    return writer.add("If", [predicate], len(node.outputs), **branches)


def while_loop(writer: Writer, node: oy.Node) -> Any:
    """A Loop. Whether there is a first step is computed before it."""
    has, names = node.call.attrs, writer.inputs(node)
    state, rest = names[: has["state"]], names[has["state"] :]
    before = Writer(oy.prune(has["first"].graph), around=writer)
    before.nodes = writer.nodes
    (first,) = before.inline(before.graph, names)
    specs = has["step"].inputs[: has["state"]]
    body = _loop_body(writer, has["step"], specs, rest, has["state"])
    limit = "" if has["limit"] is None else _count(writer, has["limit"])
    return writer.add("Loop", [limit, first, *state], len(node.outputs), body=body)


def scan(writer: Writer, node: oy.Node) -> Any:
    """A Scan, or a Loop where there is no sequence to go along."""
    has, names = node.call.attrs, writer.inputs(node)
    carries, sequences = has["carries"], has["sequences"]
    given = carries + sequences
    collected = len(node.outputs) - carries
    if sequences:
        body = _subgraph(writer, has["body"], "scan_body", has["body"].inputs[:given], names[given:])
        turned = [1] * sequences if has["reverse"] else None
        turned_back = [1] * collected if has["reverse"] and collected else None
        return writer.add(
            "Scan",
            names[:given],
            len(node.outputs),
            body=body,
            num_scan_inputs=sequences,
            scan_input_directions=turned,
            scan_output_directions=turned_back,
        )
    body = _loop_body(writer, has["body"], has["body"].inputs[:carries], names[carries:], None)
    made = writer.add(
        "Loop", [_count(writer, has["length"]), "", *names[:carries]], len(node.outputs), body=body
    )
    found = [made] if isinstance(made, str) else made
    if not has["reverse"]:
        return found
    return [*found[:carries], *(_turned(writer, name) for name in found[carries:])]


def _count(writer: Writer, size: Any) -> str:
    found: str = writer.add("Squeeze", [writer.integers([size])])
    return found


def _turned(writer: Writer, name: str) -> str:
    """The items in the other order."""
    far = np.iinfo(np.int64)
    bounds = [writer.integers([n]) for n in (far.max, far.min, 0, -1)]
    found: str = writer.add("Slice", [name, *bounds])
    return found


def _loop_body(
    writer: Writer, program: Any, specs: Sequence[oy.TensorSpec], rest: Sequence[str], test: int | None
) -> Any:
    """The body of a Loop: the number of the step and the condition before what is carried, the condition before the results.

    test  which result is the condition; None: it goes on
    """
    number, goes_on = writer.fresh("number"), writer.fresh("goes_on")
    inner, names, infos = _opened(writer, program, specs)
    results = inner.inline(inner.graph, [*names, *rest])
    more = goes_on if test is None else results.pop(test)
    outputs = [(more, TRUTH), *zip(results, _results(program, test), strict=True)]
    return _closed(inner, "loop_body", [info(number, NUMBER), info(goes_on, TRUTH), *infos], outputs)


def _results(program: Any, test: int | None) -> list[oy.TensorSpec]:
    return [spec for position, spec in enumerate(program.outputs) if position != test]


def _subgraph(
    writer: Writer, program: Any, name: str, specs: Sequence[oy.TensorSpec], rest: Sequence[str]
) -> Any:
    """A body as a GraphProto. Its first inputs have these specs; the others are names of the graph around."""
    inner, names, infos = _opened(writer, program, specs)
    results = inner.inline(inner.graph, [*names, *rest])
    return _closed(inner, name, infos, list(zip(results, program.outputs, strict=True)))


def _opened(
    writer: Writer, program: Any, specs: Sequence[oy.TensorSpec]
) -> tuple[Writer, list[str], list[Any]]:
    names = [writer.fresh("item") for _ in specs]
    infos = [info(name, spec) for name, spec in zip(names, specs, strict=True)]
    return Writer(oy.prune(program.graph), around=writer), names, infos


def _closed(inner: Writer, name: str, inputs: list[Any], results: Sequence[tuple[str, oy.TensorSpec]]) -> Any:
    """The GraphProto. Each output has a node and a name of its own, as ONNX wants it."""
    from onnx import helper

    outputs = [info(inner.add("Identity", [found]), spec) for found, spec in results]
    return helper.make_graph(inner.nodes, name, inputs, outputs)


CONTROL: dict[str, Export] = {"cond": cond, "while_loop": while_loop, "scan": scan}
"""Exports of the ops of control flow, beside those of ``operators.exports``."""

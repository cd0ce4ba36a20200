"""Control flow. If, Loop and Scan become nodes of the graph: ``cond``, ``while_loop``, ``scan``. What cannot is done step by step."""

from __future__ import annotations

from typing import Any

import numpy as np

import opyard as oy
from opyard_onnx.bodies import as_node, body, general_way
from opyard_onnx.errors import ModelError, UnsupportedModel
from opyard_onnx.importer import used_names
from opyard_onnx.node import EMPTY, OnnxNode
from opyard_onnx.operators import unrolled
from opyard_onnx.operators.table import Operator

LONGEST = 2**20
"""Steps up to which a loop that counts is a scan over their numbers; a limit beyond that is hardly ever reached."""


NO_LIMIT = 2**62
"""Steps that no loop takes: exporters write the greatest integer where there is no limit."""


class EndsEarly(UnsupportedModel):
    """A loop whose number of steps its body decides."""


# If --------------------------------------------------------------------------------------------------------------


def if_(node: OnnxNode) -> Any:
    """One branch where the condition is known, else a node with both."""
    if node.known(0) is None:
        found = as_node(node, lambda: _branches(node))
        if found is not None:
            return found
        return general_way(node, _chosen)
    return _chosen(node)


def _branches(node: OnnxNode) -> tuple[Any, ...]:
    return tuple(oy.cond(_scalar(node.x), body(node, "then_branch"), body(node, "else_branch")))


def _chosen(node: OnnxNode) -> Any:
    return tuple(node.subgraph("then_branch" if node.number(0) else "else_branch", []))


# Loop ------------------------------------------------------------------------------------------------------------


def loop(node: OnnxNode) -> Any:
    """Source: ONNX Loop. Either bound may be left out."""
    outputs, carried = len(node.attribute("body").output), max(0, len(node.inputs) - 2)
    if outputs < 1 + carried:
        raise ModelError(
            f"the body of {node.title} gives {outputs} outputs, and carries {carried} values; its condition comes first."
        )
    found = as_node(node, lambda: _looped(node))
    return general_way(node, unrolled.loop) if found is None else found


def _looped(node: OnnxNode) -> tuple[Any, ...]:
    carried = _tensors(node.inputs[2:])
    limit, start = _limit(node), node.known(1) if _given(node, 1) is not None else np.array(True)
    collected = range(len(carried), len(node.attribute("body").output) - 1)
    collects = any(map(node.wants, collected))
    if collects and isinstance(limit, oy.Value):
        limit = max(0, int(node.number(0)))  # what is collected has a size
    if collects and start is None:
        start = node.value(1)
    if isinstance(limit, int) and limit >= NO_LIMIT:
        limit = None
    if isinstance(limit, int) and start is not None and not start:
        limit = 0
    if not isinstance(limit, oy.Value) and _is_few(limit) and start is not None:
        try:
            return _counted(node, carried, limit)
        except EndsEarly:
            pass
    done, *after = _conditional(node, carried, limit, node.inputs[1] if start is None else start, collects)
    if not collects:
        return (*after, *[None for _ in collected])
    # the steps were counted, and are done again to collect what they give
    return _counted(node, carried, int(node.importer.value(done)), checked=False)


def _given(node: OnnxNode, position: int) -> Any:
    found = node.get(position)
    return None if found is EMPTY else found


def _limit(node: OnnxNode) -> Any:
    """The most steps: a number, a symbolic size, a value of the graph, or None."""
    if _given(node, 0) is None:
        return None
    found = node.known(0)
    if found is None:
        return _scalar(node.x)
    number = found.reshape(-1)[0]
    return max(0, int(number)) if isinstance(number, (int, np.integer)) else number


def _is_few(limit: Any) -> bool:
    return limit is not None and not (isinstance(limit, int) and limit > LONGEST)


def _counted(node: OnnxNode, carried: list[Any], count: Any, checked: bool = True) -> tuple[Any, ...]:
    """A loop of so many steps. Raises EndsEarly, if it is ``checked``, where its body may end it before."""
    run, graph = body(node, "body"), node.attribute("body")
    wanted = [i for i in range(len(carried), len(graph.output) - 1) if node.wants(i)]
    numbers = oy.iota(size=count, dtype="int64") if graph.input[0].name in used_names(graph) else None

    def step(carry: tuple[Any, ...], number: Any) -> tuple[Any, Any]:
        more, *results = run(np.array(0) if number is None else number, np.array(True), *carry)
        if checked and not (node.importer.evaluate.knows(more) and np.all(node.importer.evaluate(more))):
            raise EndsEarly("its body decides whether it goes on.")
        return tuple(results[: len(carry)]), tuple(results[i] for i in wanted)

    after, collected = oy.scan(step, tuple(carried), numbers, length=count)
    return _at(after, wanted, collected, len(graph.output) - 1)


def _conditional(node: OnnxNode, carried: list[Any], limit: Any, start: Any, counts: bool) -> tuple[Any, ...]:
    """A loop that its body or a number ends: how many steps it took, where somebody counts them, and what it carried then."""
    run, graph = body(node, "body"), node.attribute("body")
    tested = isinstance(limit, oy.Value)
    counts = counts or tested or graph.input[0].name in used_names(graph)

    def test(state: tuple[Any, ...]) -> Any:
        number, more, _ = state
        return oy.logical_and(more, oy.less(number, limit)) if tested else more

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        number, _, carry = state
        more, *results = run(number if counts else np.array(0), np.array(True), *carry)
        return oy.add(number, 1) if counts else (), _scalar(more), tuple(results[: len(carry)])

    first = start if isinstance(start, oy.Value) else np.array(bool(np.all(start)))
    begin = (np.array(0, np.int64) if counts else (), _scalar(first), tuple(carried))
    number, _, after = oy.while_loop(test, step, begin, most_steps=None if tested else limit)
    return number, *after


# Scan ------------------------------------------------------------------------------------------------------------


def scan(node: OnnxNode) -> Any:
    """Source: ONNX Scan 9: states, and sequences that the body sees element by element."""
    count = node.attribute("num_scan_inputs")
    if not 0 < count <= len(node.inputs):
        raise ModelError(f"Scan has {len(node.inputs)} inputs, and num_scan_inputs is {count}.")
    found = as_node(node, lambda: _scanned(node, node.inputs[:-count], node.inputs[-count:]))
    return general_way(node, unrolled.scan) if found is None else found


def _scanned(node: OnnxNode, states: list[Any], sequences: list[Any]) -> tuple[Any, ...]:
    outputs = len(node.attribute("body").output)
    count, kept = len(sequences), len(states)
    turned = node.attribute("scan_input_directions", (0,) * count)
    turned_back = node.attribute("scan_output_directions", (0,) * (outputs - kept))
    axes = node.attribute("scan_input_axes", (0,) * count)
    xs = [_first(x, axis) for x, axis in zip(_tensors(sequences), axes, strict=True)]
    wanted = [i for i in range(kept, outputs) if node.wants(i)]
    reverse = all(turned) and all(turned_back)
    if not reverse:
        xs = [oy.flip(x, axis=0) if turn else x for x, turn in zip(xs, turned, strict=True)]
    run = body(node, "body")

    def step(carry: tuple[Any, ...], items: tuple[Any, ...]) -> tuple[Any, Any]:
        results = run(*carry, *items)
        return results[:kept], tuple(results[i] for i in wanted)

    after, collected = oy.scan(step, tuple(_tensors(states)), tuple(xs), reverse=reverse)
    out_axes = node.attribute("scan_output_axes", (0,) * (outputs - kept))
    made = []
    for i, y in zip(wanted, collected, strict=True):
        flipped = oy.flip(y, axis=0) if turned_back[i - kept] and not reverse else y
        axis = out_axes[i - kept] % y.ndim
        made.append(oy.moveaxis(flipped, source=0, destination=axis) if axis else flipped)
    return _at(after, wanted, made, outputs)


def _first(x: Any, axis: int) -> Any:
    return oy.moveaxis(x, source=axis, destination=0) if axis % x.ndim else x


def batched_scan(node: OnnxNode) -> Any:
    """Source: ONNX Scan 8: the first axis is a batch, the first input may give the lengths of its sequences."""
    if node.inputs[0] is not None:
        raise UnsupportedModel("Scan of opset 8 with sequence_lens.")
    count, given = node.attribute("num_scan_inputs"), node.inputs[1:]
    if not 0 < count <= len(given):
        raise ModelError(f"Scan has {len(given)} inputs, and num_scan_inputs is {count}.")
    kept, turned = len(given) - count, node.attribute("directions", (0,) * count)

    def row(parts: tuple[Any, ...]) -> tuple[Any, ...]:
        xs = [oy.flip(x, axis=0) if turn else x for x, turn in zip(parts[kept:], turned, strict=True)]
        run = body(node, "body")

        def step(carry: tuple[Any, ...], items: tuple[Any, ...]) -> tuple[Any, Any]:
            results = run(*carry, *items)
            return results[:kept], results[kept:]

        after, collected = oy.scan(step, parts[:kept], tuple(xs))
        return (*after, *collected)

    found = as_node(node, lambda: oy.map(row, tuple(_tensors(given))))
    return general_way(node, unrolled.batched_scan) if found is None else found


# Helpers ---------------------------------------------------------------------------------------------------------


def _tensors(entries: list[Any]) -> list[Any]:
    """The entries, all of which are tensors of the graph. Raises UnsupportedModel."""
    if not all(isinstance(entry, oy.Value) for entry in entries):
        raise UnsupportedModel("it is given a sequence, an optional or text")
    return entries


def _scalar(x: Any) -> Any:
    return oy.reshape(x, shape=()) if x.ndim else x


def _at(kept: Any, places: list[int], collected: Any, count: int) -> tuple[Any, ...]:
    """All outputs: those that are kept first, what is collected at its places, and None where nobody wants one."""
    found: list[Any] = [*kept, *[None] * (count - len(kept))]
    for place, value in zip(places, collected, strict=True):
        found[place] = value
    return tuple(found)


OPERATORS = (
    Operator("If", 1, if_),
    Operator("Loop", 1, loop),
    Operator("Scan", 8, batched_scan),
    Operator("Scan", 9, scan),
)

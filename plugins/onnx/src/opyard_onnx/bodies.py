"""Branches and loops as nodes of a graph: subgraphs as bodies of opyard's control flow, or the reason why they cannot be.

A body is traced once, so its shapes do not depend on numbers that change while it runs, and what a loop carries keeps shape and
dtype. Where that does not hold the caller chooses the branch or unrolls the loop, step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import opyard as oy
from opyard.errors import OpyardError
from opyard.graph import current_graph
from opyard_onnx.errors import UnsupportedModel
from opyard_onnx.evaluation import NeedsValue

if TYPE_CHECKING:
    from opyard_onnx.importer import Importer
    from opyard_onnx.node import OnnxNode

DEEPEST = 4
"""Bodies inside of each other. Each level is traced several times, and placed on each device."""

MOST_TRIES = 3
"""How often one branch or loop is tried in vain; what lies inside of others is tried in different ways."""

FEW = 64
"""Integers of the model's graph that are asked for between stages for the sake of a body; more are data, and no shape."""


def as_node(node: OnnxNode, record: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...] | None:
    """What ``record`` gives, which traces bodies; None, with a note, where the branch or loop can be no node.

    Raises NeedsValue for a small number that is no part of the loop, and is known in the next stage.
    """
    importer, called = node.importer, (node.title, node.outputs)
    tries, reason = importer.refused.get(called, (0, ""))
    if importer.unroll:
        reason = importer.unroll
    elif len(importer.graph.around) >= DEEPEST:
        reason = f"branches and loops are nodes up to {DEEPEST} levels inside of each other"
    elif tries < MOST_TRIES:
        try:
            return _recorded(importer, record)
        except OpyardError as error:
            reason = str(error).removesuffix(".").partition(". ")[0]
            importer.refused[called] = (tries + 1, reason)
    _note(node, reason)
    return None


def _recorded(importer: Importer, record: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
    while True:
        try:
            return record()
        except NeedsValue as need:
            needed = _decided_outside(importer, need)
            if needed is None:
                raise UnsupportedModel(
                    need.because or "shapes inside of it depend on numbers that are computed there."
                ) from None
            _ask(importer, needed, need.because)


def _ask(importer: Importer, value: oy.Value, because: str) -> None:
    """The number is known from here on, or in the next stage."""
    try:
        importer.value(value)
    except NeedsValue as need:
        need.because = because
        raise


def general_way(node: OnnxNode, convert: Callable[[OnnxNode], Any]) -> Any:
    """What a converter gives that needs the numbers which decide; NeedsValue says why it is taken."""
    because = next(reversed(node.importer.notes), "")
    try:
        return convert(node)
    except NeedsValue as need:
        need.because = need.because or because
        raise


def _note(node: OnnxNode, reason: str) -> None:
    what = "its branch is chosen at import, or between stages" if node.op_type == "If" else "it is unrolled"
    note = f"{node.title} is no node of a graph, {what}: {reason}."
    node.importer.notes.pop(note, None)  # the latest is last
    node.importer.notes[note] = None


def body(node: OnnxNode, name: str) -> Callable[..., tuple[oy.Value, ...]]:
    """The graph of an attribute as a function that can be traced: entries to tensors."""

    def run(*entries: Any) -> tuple[oy.Value, ...]:
        with _inside(node.importer):
            found = node.subgraph(name, list(entries))
        for output, entry in zip(node.attribute(name).output, found, strict=True):
            if not isinstance(entry, oy.Value):
                raise UnsupportedModel(f"{output.name!r} is a sequence, an optional or text")
        return tuple(found)

    run.__name__ = name
    return run


@contextmanager
def _inside(importer: Importer) -> Iterator[None]:
    """What is imported meanwhile is recorded in the body that is being traced."""
    before, graph = importer.graph, current_graph.get()
    assert graph is not None  # oy.cond, oy.scan and oy.while_loop trace
    importer.graph = graph
    try:
        yield
    finally:
        importer.graph = before


def _decided_outside(importer: Importer, need: NeedsValue) -> oy.Value | None:
    """A few integers of the model's graph that the number depends on; None: it depends on what a body of this node is given.

    Raises NeedsValue where a body around this node decides.
    """
    seen: set[oy.Value] = set()
    stack, found, around = [need.value], None, False
    while stack:
        value = stack.pop()
        if value in seen or importer.evaluate.knows(value):
            continue
        seen.add(value)
        if value.graph is importer.model_graph:
            found = found or value
        elif value.node is not None:
            stack += [v for v in value.node.inputs if v is not None]
        elif (outside := value.graph.outside(value)) is not None:
            stack.append(outside)
        elif importer.graph in value.graph.around:
            return None
        else:
            around = True
    if around or importer.graph is not importer.model_graph:
        raise need
    return found if found is not None and _are_few_integers(found.spec) else None


def _are_few_integers(spec: oy.TensorSpec) -> bool:
    return spec.dtype.kind in "iub" and spec.is_concrete and int(spec.size) <= FEW

"""Reverse-mode differentiation, graph to graph: cotangents are recorded as further nodes, from the outputs back to the inputs.

Each node on a path from a source to a target is asked once, when the cotangents of its outputs are complete: by the rule of
its op, else through the ops that it is made of. Source: Griewank and Walther, "Evaluating Derivatives", 2nd ed., chapter 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np

from .control_gradients import control_rule
from .errors import GraphError, OpyardError
from .graph import Graph, Node, Value, recording
from .nest import leaves, map_leaves
from .ops import arithmetic, reduction, selection, shape
from .ops.gradients import WITHOUT, ZERO, filled, parts_of, rule_of
from .scope import Mark, current_segments, segment
from .spec import Shape, is_real


def gradients(ys: Any, xs: Any, grad_ys: Any = None) -> Any:
    """The gradients of the sum of ``ys`` with respect to ``xs``, recorded in the graph that holds them.

    ``ys`` and ``xs`` are values of one graph that is being built, in any nesting; the result has the nesting of ``xs``, where
    a variable stands for what it holds at this point of the program.
    ``grad_ys``, in the nesting of ``ys``, weighs their elements, with ones by default, and None for a value that does not
    count. A value that no y depends on has the gradient zero. Raises GraphError for values that have no gradient, and for
    ops on the way that cannot be differentiated.
    """
    targets = _values(ys, "ys")
    graph = targets[0].graph if targets else None
    sources = _values(map_leaves(lambda x: x.value_in(graph) if hasattr(x, "value_in") else x, xs), "xs")
    for value in (*targets, *sources):
        if value.graph is not graph:
            raise GraphError(
                f"gradients: the values {targets[0].name!r} and {value.name!r} belong to different graphs; take both from one."
            )
    for source in sources:
        require_real(source, "with respect to")
    for target in targets:
        require_real(target, "of")
    given = [None] * len(targets) if grad_ys is None else list(leaves(grad_ys))
    if len(given) != len(targets):
        raise GraphError(
            f"gradients: grad_ys has {len(given)} entries for {len(targets)} ys; give one for each, or None."
        )
    if graph is None:
        raise GraphError("gradients: ys is empty; name at least one value.")
    with recording(graph):
        backward = _Backward(graph, sources)
        for target, weight in zip(targets, given, strict=True):
            if grad_ys is None:
                weight = filled(1, target.shape, target)
            if weight is not None:
                backward.start(target, weight)
        backward.walk(list(graph.nodes), len(current_segments.get()))
        found = [backward.total(source) for source in sources]
        results = iter(
            [filled(0, v.shape, v) if one is None else one for v, one in zip(sources, found, strict=True)]
        )
    return map_leaves(lambda _: next(results), xs)


def require_real(value: Value, role: str) -> None:
    """Raises GraphError for a value that has no gradient, by its dtype."""
    if is_real(value.spec):
        return
    if value.spec.dtype.kind == "c":
        hint = "gradients are those of real numbers; take real(x) and imag(x) apart and differentiate these"
    else:
        hint = "only real floating numbers have one; leave it out, or cast it first: cast(x, dtype='float32')"
    raise GraphError(f"there is no gradient {role} {value.name!r}, {value.spec!r}: {hint}.")


def _values(nested: Any, name: str) -> list[Value]:
    found = list(leaves(nested))
    for leaf in found:
        if not isinstance(leaf, Value):
            raise GraphError(
                f"gradients: {name} are values of a graph; found {type(leaf).__name__}. For functions of arrays use opyard.grad or opyard.vjp."
            )
    return found


def _as_value(graph: Graph, found: Any) -> Value:
    return found if isinstance(found, Value) else graph.constant(found)


class _Backward:
    """The cotangents that are known, and the values that depend on a source."""

    def __init__(self, graph: Graph, sources: Iterable[Value]) -> None:
        self.graph = graph
        self.on_path: set[Value] = set(sources)
        self.cotangents: dict[Value, list[Value]] = {}
        self._extend(graph.nodes)

    def _extend(self, nodes: Iterable[Node]) -> None:
        """Finds out which outputs of these nodes depend on a source."""
        for node in nodes:
            if any(value in self.on_path for value in node.inputs):
                self.on_path.update(v for v in node.outputs if is_real(v.spec) or v.spec.dtype.kind == "c")

    def start(self, target: Value, weight: Any) -> None:
        """Gives a target its cotangent. Raises GraphError when the shapes differ."""
        weight = _as_value(self.graph, weight)
        if weight.shape != target.shape:
            raise GraphError(
                f"the cotangent of {target.name!r}, {target.spec!r}, has its shape; found {weight.spec!r}."
            )
        self._give(target, _in_dtype(weight, target.dtype))

    def _give(self, value: Value, cotangent: Value) -> None:
        self.cotangents.setdefault(value, []).append(cotangent)

    def total(self, value: Value) -> Value | None:
        """The sum of a value's cotangents, made once; None if it has none."""
        found = self.cotangents.get(value)
        if found is None:
            return None
        if len(found) > 1:
            self.cotangents[value] = found = [reduce(arithmetic.add, found)]
        return found[0]

    def walk(self, nodes: Sequence[Node], depth: int) -> None:
        """Takes the nodes from the last to the first; segments below ``depth`` are computed again before."""
        end = len(nodes)
        while end:
            node = nodes[end - 1]
            inner = node.mark.segments[depth : depth + 1]
            start = end - 1
            if inner:
                while start and nodes[start - 1].mark.segments[depth : depth + 1] == inner:
                    start -= 1
                self._again(nodes[start:end], depth)
            elif any(value in self.on_path for value in node.inputs):
                self._node(node)
            end = start

    def _again(self, nodes: Sequence[Node], depth: int) -> None:
        """Goes through a segment that was recorded under ``checkpoint``, on a copy of its nodes that is recorded here."""
        if not any(value in self.cotangents for node in nodes for value in node.outputs):
            return
        copied: dict[Value, Value] = {}
        copies: list[Node] = []
        with segment():
            segments = current_segments.get()
        for node in nodes:
            inputs = tuple(None if v is None else copied.get(v, v) for v in node.inputs)
            mark = node.mark._replace(segments=(*segments, *node.mark.segments[depth + 1 :]))
            copied.update(zip(node.outputs, self.graph.append(node.call, inputs, mark), strict=True))
            copies.append(self.graph.nodes[-1])
        for old, new in copied.items():
            if old in self.on_path:
                self.on_path.add(new)
            if old in self.cotangents:
                self.cotangents[new] = self.cotangents[old]
        self.walk(copies, len(segments))
        self.cotangents.update(
            {old: self.cotangents[new] for old, new in copied.items() if new in self.cotangents}
        )

    def _node(self, node: Node) -> None:
        """Passes the cotangents of a node's outputs on to its inputs."""
        found = [self.total(value) for value in node.outputs]
        if all(one is None for one in found):
            return
        for value in (*node.inputs, *node.outputs):
            if value is not None and value in self.on_path:
                require_real(value, f"through {node.op.name} ({node.source}), which meets")
        before = len(self.graph.nodes)
        rule = rule_of(node.op) or control_rule(node.op, gradients)
        if rule is not None:
            self._by_rule(node, rule, found)
        elif node.op.name in WITHOUT:
            raise GraphError(
                f"{node.op.name} ({node.source}) has no gradient: {WITHOUT[node.op.name]}; keep it off the way with stop_gradient, or wrap it with custom_gradient."
            )
        elif node.op.name not in ZERO:
            self._by_parts(node, found)
        self._sign(node, before)

    def _sign(self, node: Node, before: int) -> None:
        """Marks what was recorded for a node: the user's line is that of the node, and where it is pinned, too, softly."""
        scope = replace(node.mark.scope, soft=True) if node.mark.scope else None
        for made in self.graph.nodes[before:]:
            own = made.mark
            made.mark = Mark(node.source, own.scope or scope, own.group, own.segments)

    def _by_rule(self, node: Node, rule: Any, found: list[Value | None]) -> None:
        outputs: Any = node.outputs if node.call.is_tuple else node.outputs[0]
        cotangents: Any = tuple(found) if node.call.is_tuple else found[0]
        try:
            results = rule(cotangents, outputs, *node.inputs, **node.call.attrs)
            entries = results if isinstance(results, (tuple, list)) else (results,)
            if len(entries) != len(node.inputs):
                raise GraphError(
                    f"its rule gives {len(entries)} cotangents for {len(node.inputs)} inputs; give one for each, None for an input without one."
                )
            for value, entry in zip(node.inputs, entries, strict=True):
                if value is not None and value in self.on_path:
                    entry = entry() if callable(entry) else entry
                    if entry is not None:
                        self._give(value, _fitted(_as_value(self.graph, entry), value))
        except OpyardError as error:
            raise GraphError(f"the gradient of {node.op.name} ({node.source}): {error}") from error

    def _by_parts(self, node: Node, found: list[Value | None]) -> None:
        before = len(self.graph.nodes)
        try:
            parts = parts_of(node.call, node.inputs)
        except OpyardError as error:
            raise GraphError(f"the gradient of {node.op.name} ({node.source}): {error}") from error
        if parts is None:
            raise GraphError(
                f"{node.op.name} ({node.source}) has no gradient; give it a rule: op(..., grad=...), keep it off the way with stop_gradient, or wrap it with custom_gradient."
            )
        made = self.graph.nodes[before:]
        self._extend(made)
        for part, cotangent in zip(leaves(parts), found, strict=True):
            if cotangent is not None and isinstance(part, Value):
                self._give(part, _fitted(cotangent, part))
        self.walk(made, len(current_segments.get()))


def _in_dtype(cotangent: Value, dtype: np.dtype[Any]) -> Value:
    if cotangent.dtype == dtype:
        return cotangent
    found: Value = selection.cast(cotangent, dtype=dtype.name)
    return found


def _fitted(cotangent: Value, value: Value) -> Value:
    """A cotangent in the dtype of its value, and summed to its shape over the axes along which the value was broadcast."""
    cotangent = _in_dtype(cotangent, value.dtype)
    if cotangent.shape == value.shape:
        return cotangent
    leading = cotangent.ndim - value.ndim
    pairs = list(zip(cotangent.shape[max(leading, 0) :], value.shape, strict=leading >= 0))
    if leading < 0 or any(n != m and m != 1 and isinstance(n, int) and isinstance(m, int) for n, m in pairs):
        raise GraphError(
            f"its rule gives {cotangent.spec!r} as the cotangent of {value.name!r}, which is {value.spec!r}; the shapes must be equal, or as if the input had been broadcast."
        )
    stretched = tuple(leading + axis for axis, (n, m) in enumerate(pairs) if n != m and m == 1)
    return _summed(cotangent, leading, stretched, value.shape)


def _summed(cotangent: Value, leading: int, stretched: tuple[int, ...], wanted: Shape) -> Value:
    if leading or stretched:
        axes = (*range(leading), *stretched)
        cotangent = reduction.sum(cotangent, axis=axes, keepdims=not leading)
    if cotangent.shape == wanted:
        return cotangent
    found: Value = shape.reshape(cotangent, shape=wanted)
    return found

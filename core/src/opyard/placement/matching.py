"""Matching: where the patterns of kernels occur in a graph.

A pattern, such as ``lambda x, w, b: relu(add(conv(x, w), b))``, matches where the same ops are connected in the same way.
In detail:

* Each parameter is a value of the graph. A parameter used twice stands for one value; two parameters may do so as well. One
  that is used as optional inputs alone also matches where these are left out, and is then None.
* A Python number matches a small constant whose elements all equal it, of any shape: signs of zeros and NaN included.
* An attribute that the pattern leaves at the op's default matches any value; others must be equal. The kernel's
  ``accepts`` sees all attributes in the Region.
* Commutative ops match with their operands in either order.
* ``top_k(x, k=5)[0]`` is the first output of an op that gives a tuple. What such an op gives must be selected so.
* What is computed inside and not returned must not be used elsewhere, nor be an output of the graph.
* A match is convex: no path leaves it and comes back, so that it can run as one step.
* Of several ways to match the same nodes the first counts: earlier nodes, and operands in their written order, first.

Composite ops match as they are written. In a graph that ``expand`` decomposed, a composite op of a pattern is matched by
a Whole, of which the match then covers all nodes; and patterns of plain ops match parts of composites. A composite is not
decomposed within the pattern, because decompositions may depend on shapes, which patterns do not have.

The matcher starts at the node that makes the first result, and goes from outputs to inputs, with backtracking. Results
that this does not reach are looked for among the users of values found already. It takes time in proportion to the nodes
of the first result's op.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..graph import Graph, Node, Value
from ..operation import Op
from ..region import Region
from .match import Match
from .patterns import Pattern, PatternValue, Step
from .wholes import Whole

SMALL = 4096
"""Bytes up to which constants are compared with the numbers in patterns."""

FAN_OUT = 16
"""Users of one value that are tried when a pattern goes on from there; those behind are not found."""


class Index:
    """A graph prepared for matching: make it once for many patterns. ``wholes`` are those that ``expand`` gave with it."""

    def __init__(self, graph: Graph, wholes: Iterable[Whole] = ()) -> None:
        self.graph = graph
        self.position = {node: number for number, node in enumerate(graph.nodes)}
        self.covered = {whole.node: whole.nodes for whole in wholes}
        self.fetched = set(graph.outputs.values())
        self.by_op: dict[Op, list[Node]] = {}
        self.regions: dict[object, Region] = {}
        self.makers: dict[Value | None, list[Node]] = {}
        self.users: dict[Value, list[Node]] = {}
        candidates = sorted(
            (*graph.nodes, *self.covered), key=lambda node: self.position[self.parts(node)[-1]]
        )
        for node in candidates:
            self.by_op.setdefault(node.op, []).append(node)
            for output in node.outputs:
                self.makers.setdefault(output, []).append(node)
            for value in dict.fromkeys(node.inputs):
                if value is not None:
                    self.users.setdefault(value, []).append(node)

    def parts(self, node: Node) -> tuple[Node, ...]:
        """The nodes of the graph that a node stands for: those of the Whole, or itself."""
        return self.covered.get(node, (node,))


Bound = dict[Any, Any]
"""Pattern parameters -> values, and steps -> (node, its inputs in the order of the step's arguments)."""


def find_matches(pattern: Pattern, graph: Graph | Index) -> Iterator[Match]:
    """All places where the pattern occurs, in the order of the graph; they may overlap. See the top of this module.

    ``work`` of each match is a Region: the pattern, step by step, with the specs and attributes found there.
    """
    index = graph if isinstance(graph, Index) else Index(graph)
    seen: set[tuple[Node, ...]] = set()
    for bound in _search(pattern, index, 0, {}):
        match = _match(pattern, index, bound)
        if match is not None and match.nodes not in seen:
            seen.add(match.nodes)
            yield match


def _search(pattern: Pattern, index: Index, number: int, bound: Bound) -> Iterator[Bound]:
    """Every way to bind the starts from the one of this number on."""
    if number == len(pattern.starts):
        yield bound
        return
    step, via = pattern.starts[number]
    if via is None:
        nodes: Sequence[Node] = index.by_op.get(step.op, ())
    else:
        value = _value(via, bound)
        users = index.users.get(value, []) if value is not None else []
        nodes = [node for node in users if node.op is step.op][:FAN_OUT]
    for node in nodes:
        for found in _bind_step(index, step, node, (), bound):
            yield from _search(pattern, index, number + 1, found)


Goals = tuple[tuple[Any, "Value | None"], ...]


def _bind_step(index: Index, step: Step, node: Node, goals: Goals, bound: Bound) -> Iterator[Bound]:
    if step in bound:
        if bound[step][0] is node:
            yield from _solve(index, goals, bound)
    elif step.fits(node):
        for inputs in step.orders(node):
            now = {**bound, step: (node, inputs)}
            yield from _solve(index, (*zip(step.arguments, inputs, strict=True), *goals), now)


def _solve(index: Index, goals: Goals, bound: Bound) -> Iterator[Bound]:
    """Every way to extend the binding so that each goal, a term of the pattern and a value of the graph, agrees."""
    for number, (term, value) in enumerate(goals):
        if isinstance(term, PatternValue) and term.step is not None:
            rest = goals[number + 1 :]
            for maker in index.makers.get(value, ()):
                if maker.op is not term.step.op:
                    continue
                place = next(i for i, output in enumerate(maker.outputs) if output is value)
                if place == (term.index or 0):
                    yield from _bind_step(index, term.step, maker, rest, dict(bound))
            return
        if isinstance(term, PatternValue):
            if bound.setdefault(term, value) is not value:
                return
        elif term is None or value is None:
            if term is not value:
                return
        elif value not in index.graph.constants or not _is_filled(index.graph.constants[value], term):
            return
    yield bound


def _is_filled(array: np.ndarray[Any, Any], number: complex) -> bool:
    """Whether all elements are the number, as the dtype of the array rounds it."""
    kind, name = array.dtype.kind, array.dtype.name
    if array.size == 0 or array.nbytes > SMALL or isinstance(number, bool) != (kind == "b"):
        return False
    if kind == "b" or "int" in name:
        return all(element == number for element in array.reshape(-1).tolist())
    if isinstance(number, complex) and kind != "c":
        return False
    with np.errstate(over="ignore"):
        expected = np.asarray(number, array.dtype)
    return array.tobytes() == expected.tobytes() * array.size


def _value(term: PatternValue, bound: Bound) -> Value | None:
    """The value of the graph that a bound parameter or result stands for."""
    found: Value | None = bound[term] if term.step is None else bound[term.step][0].outputs[term.index or 0]
    return found


def _match(pattern: Pattern, index: Index, bound: Bound) -> Match | None:
    """The match of a complete binding, or None where it could not run as one step."""
    chosen = {part for step in pattern.steps for part in index.parts(bound[step][0])}
    inputs = tuple(_value(parameter, bound) for parameter in pattern.parameters)
    given = (_value(output, bound) for output in pattern.outputs)
    outputs = tuple(value for value in given if value is not None)
    made = {value for node in chosen for value in node.outputs}
    if len(set(outputs)) < len(outputs) or any(value in made for value in inputs):
        return None
    for value in made.difference(outputs):
        users = index.users.get(value, ())
        if value in index.fetched or any(n not in chosen and n in index.position for n in users):
            return None
    if len(outputs) > 1 and not _is_convex(index, chosen):  # what one output needs cannot depend on it
        return None
    nodes = tuple(sorted(chosen, key=index.position.__getitem__))
    return Match(nodes, inputs, outputs, _shared_region(pattern, index, inputs, bound))


def _shared_region(pattern: Pattern, index: Index, inputs: tuple[Value | None, ...], bound: Bound) -> Region:
    """The region of a binding; equal ones are one object. The calls, and which inputs are one value, say all about it."""
    steps = tuple((bound[step][0].call, bound[step][1] is bound[step][0].inputs) for step in pattern.steps)
    first = {value: number for number, value in reversed(list(enumerate(inputs)))}
    key = pattern, steps, tuple(None if value is None else first[value] for value in inputs)
    if key not in index.regions:
        index.regions[key] = _region(pattern, index, bound)
    return index.regions[key]


def _is_convex(index: Index, chosen: set[Node]) -> bool:
    """Whether nothing that the chosen nodes take from outside depends on one of them."""
    first = min(index.position[node] for node in chosen)
    makers = [v.node for node in chosen for v in node.inputs if v is not None and v.node not in chosen]
    visited: set[Node] = set()
    while makers:
        node = makers.pop()
        if node in chosen:
            return False
        if node is not None and node not in visited and index.position[node] > first:
            visited.add(node)
            makers += [value.node for value in node.inputs if value is not None]
    return True


def _region(pattern: Pattern, index: Index, bound: Bound) -> Region:
    """The pattern as a graph: its steps in their order and with their order of operands, as they were found."""
    graph, new = Graph(), dict[PatternValue, Value]()
    for parameter in pattern.parameters:
        if (value := bound[parameter]) is not None:
            new[parameter] = graph.input(parameter.name, value.spec)
    for step in pattern.steps:
        node, found = bound[step]
        arguments: list[Value | None] = []
        for term, value in zip(step.arguments, found, strict=True):
            if value is None or isinstance(term, PatternValue):
                arguments.append(None if value is None else new[term])
            else:
                arguments.append(graph.constant(index.graph.constants[value]))
        call = node.call
        if found is not node.inputs:
            call = node.op.call(*(value.spec for value in found), **call.attrs)
        outputs = graph.append(call, tuple(arguments), node.mark)
        new.update({result: outputs[number or 0] for number, result in step.results.items()})
    for number, output in enumerate(pattern.outputs):
        graph.output(f"output_{number}", new[output])
    return Region(graph, tuple(parameter.name for parameter in pattern.parameters))

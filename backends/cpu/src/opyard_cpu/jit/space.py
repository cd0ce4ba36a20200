"""Which loops a region takes: the axes of its tensors, joined where they run together, the last of them innermost.

Axes of tensors that an op combines are one axis of the region. A tensor lacks those along which it is broadcast, and those
over which it was reduced. Neighbouring axes that every input and output has, or lacks, together become one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from opyard.graph import Graph, Node, Value
from opyard.infer import normalize_axes

from .scalars import PLAIN, Untranslatable

REDUCTIONS = ("sum", "prod", "max", "min", "any", "all")
"""Ops that reduce, and are compiled."""

RESHAPES = ("squeeze", "expand_dims", "reshape")
"""Ops that are compiled where they only add or drop axes of size 1."""


@dataclass(frozen=True, slots=True)
class Space:
    """The loops of a region.

    sizes    of its axes, the outermost first; the innermost is the last, and there is at least one
    present  for each value whether it has each axis
    reduces  "row" where the innermost axis is what is reduced, "column" where it is all others, else ""
    """

    sizes: tuple[int, ...]
    present: dict[Value, tuple[bool, ...]]
    reduces: str

    def is_wide(self, value: Value) -> bool:
        """Whether a value differs along the innermost axis."""
        return self.present[value][-1]


def is_elementwise(node: Node) -> bool:
    """Whether an op computes each element of its output from those at the same place."""
    return node.op.scalar is not None or node.op.name in PLAIN


def space_of(graph: Graph) -> Space:
    """The loops of a graph. Raises Untranslatable where they are none that are compiled here."""
    axes = _Axes()
    reduced: set[int] | None = None
    for value in (*graph.inputs.values(), *graph.constants):
        axes.begin(value)
    for node in graph.nodes:
        (output,) = node.outputs
        if is_elementwise(node):
            axes.combine(output, [value for value in node.inputs if value is not None])
        elif node.op.name in REDUCTIONS:
            gone = axes.reduce(output, node)
            if reduced is not None and axes.roots(gone) != axes.roots(reduced):
                raise Untranslatable("its reductions are over different axes")
            reduced = gone
        else:
            axes.reshape(output, node)
    order = axes.order()
    gone = axes.roots(reduced or ())
    if not gone:
        return _collapsed(graph, axes, order, gone, "")
    if set(order[len(order) - len(gone) :]) == gone:
        return _collapsed(graph, axes, order, gone, "row")
    if set(order[: len(gone)]) == gone:
        return _collapsed(graph, axes, order, gone, "column")
    raise Untranslatable("it reduces over axes that are neither the first nor the last")


def _collapsed(graph: Graph, axes: _Axes, order: list[int], gone: set[int], reduces: str) -> Space:
    outside = [*graph.inputs.values(), *graph.outputs.values()]
    outside += [value for value, array in graph.constants.items() if array.size > 1]
    has = {value: axes.set_of(value) for value in axes.of}
    groups: list[list[int]] = []
    for axis in order:
        last = groups[-1][-1] if groups else None
        together = last is not None and (last in gone) == (axis in gone)
        if together and all((last in has[value]) == (axis in has[value]) for value in outside):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    if not groups:
        return Space((1,), {value: (value not in graph.constants,) for value in has}, reduces)
    if reduces and set(groups[-1 if reduces == "row" else 0]) != gone:
        raise Untranslatable("an input is broadcast along some of the axes that are reduced")
    if reduces == "column" and len(groups) > 2:
        raise Untranslatable("an input is broadcast along some of the axes that are kept")
    sizes = tuple(_product(axes.size[axis] for axis in group) for group in groups)
    present = {value: tuple(not found.isdisjoint(group) for group in groups) for value, found in has.items()}
    _check_outputs(graph, present, reduces)
    return Space(sizes, present, reduces)


def _check_outputs(graph: Graph, present: dict[Value, tuple[bool, ...]], reduces: str) -> None:
    """Outputs have all axes, but for the innermost where there are others, or those that were reduced."""
    sums = {node.outputs[0] for node in graph.nodes if node.op.name in REDUCTIONS}
    for value in graph.outputs.values():
        found = present[value]
        if reduces == "column" and value not in sums and found != (True, True):
            raise Untranslatable("columns are added up, and nothing else is done to the sums")
        if reduces != "column" and not (all(found[:-1]) and (found[-1] or reduces or len(found) > 1)):
            raise Untranslatable("an output has fewer axes than the others")
    if reduces == "column":
        used = {value for node in graph.nodes for value in node.inputs}
        if not used.isdisjoint(sums):
            raise Untranslatable("columns are added up, and nothing else is done to the sums")


def _product(numbers: Iterable[int]) -> int:
    total = 1
    for number in numbers:
        total *= number
    return total


class _Axes:
    """Axes as numbers, which are joined when ops combine them; ``of`` has those of each value, None for sizes of 1."""

    def __init__(self) -> None:
        self.of: dict[Value, list[int | None]] = {}
        self.gone: dict[
            Value, list[int | None]
        ] = {}  # axes in whose place there is a size of 1 since a reduction
        self.size: list[int] = []
        self._parent: list[int] = []

    def root(self, axis: int) -> int:
        while self._parent[axis] != axis:
            axis = self._parent[axis]
        return axis

    def roots(self, axes: Iterable[int]) -> set[int]:
        return {self.root(axis) for axis in axes}

    def set_of(self, value: Value) -> set[int]:
        return {self.root(axis) for axis in self.of[value] if axis is not None}

    def begin(self, value: Value) -> None:
        """Gives a value axes of its own."""
        found: list[int | None] = []
        for size in map(int, value.spec.shape):
            if size != 1:
                self._parent.append(len(self.size))
                self.size.append(size)
            found.append(None if size == 1 else len(self.size) - 1)
        self.of[value] = found

    def combine(self, output: Value, inputs: list[Value]) -> None:
        """Joins the axes of what is broadcast together."""
        rank = output.spec.ndim
        found: list[int | None] = [None] * rank
        for value in inputs:
            own = self.of[value]
            for place, axis in enumerate(own, rank - len(own)):
                other = found[place]
                if axis is not None and other is not None:
                    self._parent[self.root(axis)] = self.root(other)
                elif axis is not None:
                    found[place] = axis
        self._rejoin(found, inputs)
        self.of[output] = found

    def _rejoin(self, found: list[int | None], inputs: list[Value]) -> None:
        """An axis that was reduced is also that of what the result is broadcast along."""
        for value in inputs:
            gone = self.gone.get(value, [])
            for place, axis in enumerate(gone, len(found) - len(gone)):
                other = found[place]
                if axis is not None and other is not None and self.size[axis] == self.size[other]:
                    self._parent[self.root(axis)] = self.root(other)

    def reduce(self, output: Value, node: Node) -> set[int]:
        """The axes that a reduction takes away."""
        (source,) = node.inputs
        assert source is not None
        own, attributes = self.of[source], node.call.attrs
        chosen = normalize_axes(attributes["axis"], source.spec.ndim)
        gone = {axis for place, axis in enumerate(own) if place in chosen and axis is not None}
        kept = [
            None if place in chosen else axis
            for place, axis in enumerate(own)
            if attributes["keepdims"] or place not in chosen
        ]
        self.of[output] = kept
        if attributes["keepdims"]:
            self.gone[output] = [axis if place in chosen else None for place, axis in enumerate(own)]
        if not gone:
            raise Untranslatable("it reduces over axes of size 1")
        return gone

    def reshape(self, output: Value, node: Node) -> None:
        """Keeps the axes where only sizes of 1 come or go."""
        source = node.inputs[0]
        if node.op.name not in RESHAPES or source is None:
            raise Untranslatable(f"{node.op.name} is neither elementwise nor a reduction")
        sizes = [int(size) for size in source.spec.shape if int(size) != 1]
        shape = [int(size) for size in output.spec.shape]
        if sizes != [size for size in shape if size != 1]:
            raise Untranslatable("it changes the shape")
        axes = iter([axis for axis in self.of[source] if axis is not None])
        self.of[output] = [None if size == 1 else next(axes) for size in shape]

    def order(self) -> list[int]:
        """All axes in the order of the value that has them all."""
        whole: list[int] = []
        for own in self.of.values():
            found = [self.root(axis) for axis in own if axis is not None]
            if len(set(found)) != len(found):
                raise Untranslatable("an axis of one tensor runs along two of another")
            whole = found if len(found) > len(whole) else whole
        for own in self.of.values():
            found = [self.root(axis) for axis in own if axis is not None]
            if [axis for axis in whole if axis in found] != found:
                raise Untranslatable("its tensors have their axes in different orders, or none has all")
        return whole

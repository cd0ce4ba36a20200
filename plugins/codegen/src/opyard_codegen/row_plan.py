"""Regions with reductions over trailing axes, row by row: softmax, norms, losses.

A tensor is seen as rows: its leading axes are the rows, its trailing ones, which are reduced, a row. What a region computes
needs several passes through a row, one for each reduction that needs the result of another: softmax takes the greatest element,
then the sum of exponentials, then divides. Elements are computed anew in each pass from what is read; a row is in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from opyard import Node, Value
from opyard.errors import SpecError
from opyard.infer import normalize_axes
from opyard.operation import Call
from opyard.region import Region

from .elementwise import variables
from .layout import broadcast_strides, collapsed, sizes_of
from .regions import Names
from .terms import Term, computing

REDUCTIONS: Mapping[str, str] = {
    "sum": "add",
    "mean": "add",
    "prod": "multiply",
    "max": "maximum",
    "min": "minimum",
}
"""How two elements become one, by op."""


@dataclass(frozen=True, slots=True)
class Reduction:
    """A value for each row: ``term`` of all elements, joined by the ufunc ``joined``; the mean is divided by their number."""

    name: str
    term: Term
    joined: str
    is_mean: bool
    dtype: str

    def start(self) -> Term:
        """What joins with any element and leaves it as it is."""
        dtype, joined = computing(np.dtype(self.term.dtype)), self.joined
        if joined in ("add", "multiply"):
            return Term("constant", dtype, value=int(joined == "multiply"))
        low, high = (-math.inf, math.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        return Term("constant", dtype, value=low if joined == "maximum" else high)


@dataclass(slots=True)
class Pass:
    """One way through a row, after the values of the row that it needs.

    before      values for the whole row, in order
    steps       values for each element, in order
    reductions  what is made of them
    """

    before: list[tuple[str, Term]] = field(default_factory=list)
    steps: list[tuple[str, Term]] = field(default_factory=list)
    reductions: list[Reduction] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RowPlan:
    """What a kernel computes for each row.

    arrays     name and dtype of what is read, and whether it changes along a row
    elements   names and dtypes of what is written for each element: its number among the outputs first
    per_row    the same of what is written once for each row
    sizes      the axes of the rows, joined where possible; ``strides`` those of each array along them
    """

    arrays: tuple[tuple[str, str, bool], ...]
    passes: tuple[Pass, ...]
    elements: tuple[tuple[int, str, str], ...]
    per_row: tuple[tuple[int, str, str], ...]
    rows: int
    width: int
    sizes: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    constants: tuple[np.ndarray[Any, Any], ...]


def reduction_refusal(call: Call) -> str | None:
    """Why a call is no reduction of rows, or None."""
    if call.op.name not in REDUCTIONS:
        return f"{call.op.name} is no reduction that is generated"
    x = call.inputs[0]
    assert x is not None
    axes = normalize_axes(call.attrs["axis"], x.ndim)
    if not axes or axes != tuple(range(x.ndim - len(axes), x.ndim)):
        return f"it reduces the axes {axes}; only the last ones of a tensor are rows"
    if not x.size:
        return "there is nothing to reduce"
    if computing(x.dtype) != computing(call.output.dtype):
        return f"it makes {call.output.dtype.name} of {x.dtype.name}"
    return None


def plan_of(region: Region) -> RowPlan:
    """The plan of a region. Raises SpecError, with a sentence, for one that is not made of rows."""
    return _Planner(region).plan()


class _Planner:
    """Works out which values are of which kind: those of each element, and those of each row.

    A value that a reduction made without ``keepdims`` has only the axes of the rows; ``short`` are these values and what
    is computed with them.
    """

    def __init__(self, region: Region) -> None:
        self.region, self.graph = region, region.graph
        self.names = Names.of(region)
        self.outer, self.inner = self._axes()
        self.short: set[Value] = set()
        self.full: set[Value] = set()
        for node in self.graph.nodes:
            self._align(node)

    def plan(self) -> RowPlan:
        places = [self._place(value) for value in self.names.arrays]
        moving = {value for value, (_, along) in zip(self.names.arrays, places, strict=True) if along}
        phases = dict.fromkeys(self.names.terms, 0)
        definitions: dict[str, tuple[Term, int, bool]] = {}
        reductions: list[tuple[int, Reduction]] = []
        for node in self.graph.nodes:
            (made,) = node.outputs
            given = [value for value in node.inputs if value is not None]
            phase = max((phases[value] for value in given), default=0)
            if node.op.name in REDUCTIONS:
                reductions.append((phase, self._reduction(node)))
                phases[made] = phase + 1
                continue
            if not moving.isdisjoint(given):
                moving.add(made)
            phases[made] = phase
            name, term = self.names.step(node)
            definitions[name] = (term, phase, made in moving)
        elements, per_row = self._outputs(moving)
        sizes, strides = collapsed(self.outer, [own for own, _ in places])
        return RowPlan(
            tuple((self.names.name(v), v.dtype.name, v in moving) for v in self.names.arrays),
            _passes(definitions, reductions, [name for _, name, _ in elements]),
            elements,
            per_row,
            math.prod(self.outer),
            math.prod(self.inner),
            tuple(sizes),
            tuple(map(tuple, strides)),
            self.names.constants,
        )

    def _axes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Sizes of the axes of rows, and of those along a row: the same for all reductions."""
        found = set()
        for node in self.graph.nodes:
            if node.op.name in REDUCTIONS:
                x = node.call.inputs[0]
                assert x is not None
                kept = x.ndim - len(normalize_axes(node.call.attrs["axis"], x.ndim))
                found.add((sizes_of(x)[:kept], sizes_of(x)[kept:]))
        if len(found) != 1:
            raise SpecError(f"its reductions are of {len(found)} shapes; a kernel is for rows of one")
        return found.pop()

    def _align(self, node: Node) -> None:
        (made,) = node.outputs
        given = {v for v in node.inputs if v is not None and self.names.terms[v].operation == "variable"}
        short = not given.isdisjoint(self.short)
        if node.op.name in REDUCTIONS:
            if short:
                raise SpecError("it reduces what another reduction has made without its axes")
            short = not node.call.attrs["keepdims"]
            self.full |= given
            (self.short if short else self.full).add(made)
            return
        (self.short if short else self.full).update(
            v for v in (*given, made) if v.spec.size != 1 or v is made
        )
        if not self.short.isdisjoint(self.full):
            raise SpecError("it uses a tensor along its rows and along its elements")
        shape = self.outer if short else self.outer + self.inner
        if not _fits(sizes_of(made.spec), shape):
            raise SpecError(f"it computes {made.spec!r}, which does not broadcast to rows of shape {shape}")

    def _place(self, value: Value) -> tuple[list[int], bool]:
        """Strides along the axes of rows, and whether a value changes along a row."""
        own = sizes_of(value.spec)
        if value in self.short:
            return broadcast_strides(self.outer, own), False
        if not _fits(own, self.outer + self.inner):
            raise SpecError(f"it reads {value.spec!r}, which does not broadcast to its rows")
        strides = broadcast_strides(self.outer + self.inner, own)
        rank = len(self.outer)
        _, (along,) = collapsed(self.inner, [strides[rank:]])
        if len(along) != 1 or along[0] not in (0, 1):
            raise SpecError(f"it reads {value.spec!r}, which is broadcast along a part of a row")
        return strides[:rank], along[0] == 1

    def _reduction(self, node: Node) -> Reduction:
        (made,), name = node.outputs, node.op.name
        term = self.names.terms[node.inputs[0]]  # type: ignore[index]
        return Reduction(self.names.name(made), term, REDUCTIONS[name], name == "mean", made.dtype.name)

    def _outputs(self, moving: set[Value]) -> tuple[tuple[tuple[int, str, str], ...], ...]:
        elements, per_row = [], []
        for number, value in enumerate(self.graph.outputs.values()):
            entry = number, self.names.name(value), value.dtype.name
            shape, size = sizes_of(value.spec), math.prod(sizes_of(value.spec))
            if value in moving and shape == self.outer + self.inner:
                elements.append(entry)
            elif value not in moving and size == math.prod(self.outer):
                per_row.append(entry)
            else:
                raise SpecError(f"it gives {value.spec!r}, which is neither its rows nor one value for each")
        return tuple(elements), tuple(per_row)


def _fits(own: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a shape broadcasts to another."""
    return len(own) <= len(shape) and all(
        a in (1, b) for a, b in zip(reversed(own), reversed(shape), strict=False)
    )


def _passes(
    definitions: dict[str, tuple[Term, int, bool]],
    reductions: list[tuple[int, Reduction]],
    elements: list[str],
) -> tuple[Pass, ...]:
    """What each pass computes; the last one writes."""
    last = max(phase for phase, _ in reductions) + 1
    passes = [Pass() for _ in range(last + 1)]
    for name, (term, phase, is_moving) in definitions.items():
        if not is_moving:
            passes[phase].before.append((name, term))
    for phase, reduction in reductions:
        passes[phase].reductions.append(reduction)
    for number, found in enumerate(passes):
        wanted = [v for r in found.reductions for v in variables(r.term)]
        wanted += elements if number == last else []
        needed: set[str] = set()
        while wanted:
            name = wanted.pop()
            if name in definitions and name not in needed and definitions[name][2]:
                needed.add(name)
                wanted += variables(definitions[name][0])
        found.steps = [(name, term) for name, (term, _, _) in definitions.items() if name in needed]
    return tuple(passes)

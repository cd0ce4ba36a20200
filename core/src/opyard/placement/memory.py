"""Memory: how many bytes lie in the address space of each device, at each step of a run.

Steps are the positions of nodes in the graph. A tensor lies where it is made, and at each place that it is brought to, from
the step that makes it to the last step that reads it: at one place it may be gone sooner, so what is counted here is never
too little. Feeds lie where they live all the time, constants on every device that reads them. What a kernel takes inside while
it runs, and buffers of drivers, are not known and not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..driver import Device
from ..errors import PlacementError, did_you_mean
from ..graph import Value
from ..units import parse_bytes
from .peaks import peak_bytes
from .places import Places
from .problem import Choice, Numbers, Problem, Tensor

Bytes = npt.NDArray[np.float64]
"""Bytes, or prices of a byte, ``[capped address space, step]``."""

Flags = npt.NDArray[np.bool_]

Limits = Mapping[str, int | str]
"""Bytes by the name of a device, as a number or as a text such as "2GiB"."""

SMALL = 1000
"""A constant that several nodes read, smaller than this fraction of the limits, is counted on every limited device."""


def check_limits(memory: Limits, devices: Sequence[Device]) -> dict[str, int]:
    """The limits in bytes. Raises PlacementError for devices that are not there and for what is no size."""
    found: dict[str, int] = {}
    names = tuple(device.name for device in devices)
    for name, size in memory.items():
        if name not in names:
            raise PlacementError(
                f"a memory limit names {name!r}, which is not among the devices to place on: {', '.join(names)}."
                f"{did_you_mean(str(name), names)}"
            )
        try:
            found[name] = parse_bytes(size)
        except ValueError as error:
            raise PlacementError(f"the memory limit of {name}: {error}.") from None
        if found[name] < 0:
            raise PlacementError(
                f"the memory limit of {name} is {found[name]} bytes; write a positive number."
            )
    return found


def limits_of(memory: Limits, devices: Sequence[Device], places: Places) -> dict[int, int]:
    """The limits by address space; of two for one space the smaller. Raises what ``check_limits`` raises."""
    known = {device.name: device for device in devices}
    found: dict[int, int] = {}
    for name, limit in check_limits(memory, devices).items():
        space = places.space(places.of(known[name]))
        found[space] = min(limit, found.get(space, limit))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """Bytes in a capped space (by its row) from step ``begin`` to ``end``, where ``mask [first label, second label]`` says so.

    ``second`` is -1 where one variable alone decides; then ``mask`` has one axis.
    """

    first: int
    second: int
    mask: Flags
    nbytes: int
    row: int
    begin: int
    end: int


class Residency:
    """What a placement keeps in the limited address spaces, as a sum of terms over the variables of the problem's network.

    Constants that several nodes read get variables of their own, which this adds to the network; they cost nothing.
    After the end of the run comes one more step, at which lies only what lies there all the time.
    """

    def __init__(self, problem: Problem, limits: Mapping[int, int]) -> None:
        self.problem = problem
        self.rows = {space: row for row, space in enumerate(sorted(limits))}
        self.limits = np.array([float(limits[space]) for space in sorted(limits)])
        self.steps = len(problem.graph.nodes)
        self.fixed: Bytes = np.zeros((len(self.rows), self.steps + 2))
        self._anchored = [self._anchors(number) for number in range(self.steps)]
        self.terms = [term for tensor in problem.tensors for term in self._tensor_terms(tensor)]
        self.terms += self._constant_terms()
        self.nbytes = np.array([float(term.nbytes) for term in self.terms])
        self._first = np.array([term.first for term in self.terms], np.intp)
        self._second = np.array([max(term.second, 0) for term in self.terms], np.intp)
        self._width = np.array([term.mask.shape[-1] for term in self.terms], np.intp)
        self._is_pair = np.array([term.second >= 0 for term in self.terms], np.intp)
        self._masks = np.concatenate([np.zeros(0, bool), *(term.mask.ravel() for term in self.terms)])
        sizes = [term.mask.size for term in self.terms]
        self._masks_at = np.cumsum([0, *sizes], dtype=np.intp)[:-1]
        self._rows_of = np.array([term.row for term in self.terms], np.intp)
        self._stays = np.array([term.end > self.steps for term in self.terms], bool)
        rows = self._rows_of * (self.steps + 3)
        self._begins = rows + np.array([term.begin for term in self.terms], np.intp)
        self._ends = rows + np.array([term.end + 1 for term in self.terms], np.intp)

    def holding(self, labels: Sequence[int] | Numbers) -> Flags:
        """For each term whether an assignment keeps its bytes."""
        chosen = np.asarray(labels, np.intp)
        first, second = chosen[self._first], chosen[self._second]
        column = np.where(self._is_pair, second, first)
        row = np.where(self._is_pair, first, 0)
        found: Flags = self._masks[self._masks_at + row * self._width + column]
        return found

    def lasting(self, row: int) -> Numbers:
        """The terms of what lies in an address space all the time, by their numbers."""
        return np.flatnonzero(self._stays & (self._rows_of == row))

    def usage(self, labels: Sequence[int]) -> Bytes:
        """Bytes ``[row, step]`` of an assignment."""
        kept = np.flatnonzero(self.holding(labels))
        return self.fixed + self.total(kept, np.ones(len(kept)))

    def owners(self, terms: Numbers, differs: Flags, groups: Numbers) -> Numbers:
        """For terms of which a variable differs the group of that variable."""
        first, second = self._first[terms], self._second[terms]
        return np.where(differs[first], groups[first], groups[second])

    def total(self, terms: Numbers, times: npt.NDArray[np.float64]) -> Bytes:
        """Bytes ``[row, step]`` of some terms, each so many times."""
        changes, nbytes = np.zeros(len(self.rows) * (self.steps + 3)), self.nbytes[terms] * times
        np.add.at(changes, self._begins[terms], nbytes)
        np.subtract.at(changes, self._ends[terms], nbytes)
        found: Bytes = np.cumsum(changes.reshape(len(self.rows), -1), axis=1)[:, :-1]
        return found

    def charges(self, prices: Bytes) -> npt.NDArray[np.float64]:
        """For each term what its bytes cost by ``prices``, nanoseconds for a byte at a step."""
        sums = np.zeros((len(self.rows), self.steps + 3))
        np.cumsum(prices, axis=1, out=sums[:, 1:])
        known = sums.ravel()
        found: npt.NDArray[np.float64] = self.nbytes * (known[self._ends] - known[self._begins])
        return found

    def excess(self, ordered: Sequence[Choice]) -> dict[int, int]:
        """Bytes by which the limits are exceeded when the matches run in this order, by row; empty when all is well."""
        problem = self.problem
        steps = [(choice.match, choice.candidate) for choice in ordered]
        peaks = peak_bytes(problem.graph, problem.places, problem.homes, steps)
        over = {
            row: peaks[space][0] - int(self.limits[row]) for space, row in self.rows.items() if space in peaks
        }
        return {row: nbytes for row, nbytes in over.items() if nbytes > 0}

    # Terms -------------------------------------------------------------------------------------------------------

    def _anchors(self, number: int) -> Numbers:
        """For each label of a node the step at which its match runs: that of its last node."""
        problem, options = self.problem, self.problem.options[number]
        if (options.groups < 0).all():
            return np.full(len(options.choices), number)
        return np.array([problem.number[same[0].match.anchor] for same in options.choices])

    def _rows(self, places: Sequence[int] | Numbers, without: int = -1) -> Numbers:
        """Rows of the capped spaces that places are in; -1 for others, for nowhere, and for the row ``without``."""
        known = self.problem.places
        rows = [-1 if p == known.nowhere else self.rows.get(known.space(int(p)), -1) for p in places]
        return np.array([-1 if row == without else row for row in rows], np.intp)

    def _tensor_terms(self, tensor: Tensor) -> Iterator[Term]:
        nbytes, producer = tensor.value.spec.nbytes, tensor.producer
        made_in, theirs = self._rows(tensor.gives), -1
        begins = self._anchored[producer] if producer >= 0 else np.zeros(1, np.intp)
        if producer < 0 and made_in[0] >= 0:  # the caller's, before and after
            theirs = int(made_in[0])
            self.fixed[theirs] += nbytes
            made_in = np.array([-1])
        if tensor.middle < 0:
            reader, takes = tensor.readers[0] if tensor.readers else (-2, tensor.gives[:0])
            yield from self._paired(tensor, made_in, begins, reader, self._rows(takes, theirs))
            return
        exists = (tensor.gives != self.problem.places.nowhere)[:, None]
        last = max(self.steps if reader < 0 else reader for reader, _ in tensor.readers)
        sets = [set(self._rows(places, theirs).tolist()) for places in tensor.sets]
        for row in self.rows.values():
            brought = np.array([row in rows for rows in sets])
            mask = (made_in == row)[:, None] | brought[None, :] & exists
            yield from self._spread(producer, tensor.middle, mask, nbytes, row, begins, last)
        for reader, takes in dict(tensor.readers).items():
            if reader >= 0:
                yield from self._longer(reader, self._rows(takes, theirs), nbytes, last)

    def _paired(
        self, tensor: Tensor, made_in: Numbers, begins: Numbers, reader: int, taken_in: Numbers
    ) -> Iterator[Term]:
        """Terms of a tensor that one node reads, or the caller (-1), or nobody (-2): the labels of both ends decide."""
        nbytes, producer = tensor.value.spec.nbytes, tensor.producer
        if reader == -2:
            for row in sorted(set(made_in.tolist()) - {-1}):
                yield from self._spread(producer, -1, (made_in == row)[:, None], nbytes, row, begins, 0)
            return
        ends = self._anchored[reader] if reader >= 0 else np.array([self.steps])
        for row in sorted((set(made_in.tolist()) | set(taken_in.tolist())) - {-1}):
            for end in sorted(set(ends.tolist())):
                here = (made_in == row)[:, None] | (taken_in == row)[None, :]
                mask = here & (ends == end)[None, :]
                yield from self._spread(producer, reader, mask, nbytes, row, begins, end)

    def _longer(self, reader: int, taken_in: Numbers, nbytes: int, last: int) -> Iterator[Term]:
        """Terms for matches that run, and so read, later than the last node that reads the tensor by itself."""
        ends = self._anchored[reader]
        for end in sorted({int(e) for e in ends if e > last}):
            for row in sorted(set(taken_in.tolist()) - {-1}):
                mask = (taken_in == row) & (ends == end)
                if mask.any():
                    yield Term(reader, -1, mask, nbytes, row, last + 1, end)

    def _spread(
        self, first: int, second: int, mask: Any, nbytes: int, row: int, begins: Numbers, end: int
    ) -> Iterator[Term]:
        """Terms of ``mask [label of the producer, label of the reader]``, one for each step at which the tensor is made."""
        for begin in sorted(set(begins.tolist())):
            part = mask & (begins == begin)[:, None]
            if not part.any() or not nbytes:
                continue
            until = max(begin, end)
            if first >= 0 and second >= 0:
                yield Term(first, second, part, nbytes, row, begin, until)
            elif first >= 0:
                yield Term(first, -1, part.any(axis=1), nbytes, row, begin, until)
            elif second >= 0:
                yield Term(second, -1, part.any(axis=0), nbytes, row, begin, until)
            else:
                self.fixed[row, begin : until + 1] += nbytes

    # Constants ---------------------------------------------------------------------------------------------------

    def _constant_terms(self) -> Iterator[Term]:
        problem, everywhere = self.problem, (0, self.steps + 1)
        readers: dict[Value, set[int]] = {}
        for node in problem.graph.nodes:
            for value in node.inputs:
                if value is not None and value in problem.graph.constants:
                    readers.setdefault(value, set()).add(problem.number[node])
        for value, numbers in readers.items():
            nbytes = value.spec.nbytes
            where = {n: np.array([self.rows.get(int(s), -1) for s in problem.spaces(n)]) for n in numbers}
            for row in sorted({int(r) for rows in where.values() for r in rows} - {-1}):
                wanting = {n: where[n] == row for n in sorted(numbers) if (where[n] == row).any()}
                if len(wanting) == 1:
                    ((number, mask),) = wanting.items()
                    yield Term(number, -1, mask, nbytes, row, *everywhere)
                elif nbytes * SMALL < self.limits[row]:
                    self.fixed[row] += nbytes
                else:
                    there = problem.network.add_variable(np.zeros(2))
                    for number, mask in wanting.items():
                        absent = np.where(mask, np.inf, 0.0)
                        problem.network.add_table(there, number, np.stack([absent, np.zeros(len(mask))]))
                    yield Term(there, -1, np.array([False, True]), nbytes, row, *everywhere)

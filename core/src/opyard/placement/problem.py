"""The placement problem as a cost function network.

One variable for each node: its labels are the ways to run it, single kernels and the matches that contain it. One auxiliary
variable for each tensor with several consumers: its labels are the sets of places that the tensor is brought to, so that
each place is paid for once. Tables hold conversion costs between a producer's place and a consumer's.
Formulation: A. Anderson and D. Gregg, "Optimal DNN primitive selection with partitioned Boolean quadratic programming",
CGO 2018, extended by shared transfers and by matches of several nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, groupby, pairwise
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from ..graph import Graph, Node, Value
from ..selection import Candidate
from .disjoint import DisjointSets
from .homes import Homes, Resident
from .match import Match
from .network import Costs, Network
from .places import Places, Sets, whole_nanoseconds

Numbers = npt.NDArray[np.intp]
Ports = list[int | None]

LEAST_MOVE = 16
"""Nodes of a match from which on a search that frees some nodes at a time may not find it."""

WIDEST_SET = 8
"""Places up to which all sets of them are labels; of more, sets of up to three places and the full set are."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """One way to run a node: a candidate for a match. ``pays`` marks the node that carries the cost of the match."""

    match: Match
    candidate: Candidate
    pays: bool


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """The labels of a node. ``takes`` and ``gives`` are places ``[label, input]`` and ``[label, output]``.

    ``choices`` has for each label the best choice first, then those that take and give at the same places for more.
    """

    choices: list[list[Choice]]
    costs: Costs
    takes: Numbers
    gives: Numbers
    groups: Numbers
    """For each label the number of its match of several nodes, or -1."""


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A tensor that is no constant, as it appears in the network.

    producer  number of the node that makes it, or -1 for a feed
    readers   numbers of the nodes that read it, -1 for the caller who fetches it, with the places ``[label]`` they take it at
    middle    the variable of the places that it is brought to, or -1; ``sets`` are its labels, as numbers of places
    """

    value: Value
    producer: int
    gives: Numbers
    readers: list[tuple[int, Numbers]]
    middle: int
    sets: list[list[int]]


class Problem:
    """A graph with its choices, as a network.

    ``is_narrowed`` says that a tensor may be wanted at more than WIDEST_SET places: then costs are those of the sets that
    are labels, and a bound of the network bounds nothing.
    """

    def __init__(self, graph: Graph, places: Places, homes: Homes, choices: dict[Node, list[Choice]]) -> None:
        self.graph = graph
        self.places = places
        self.homes = homes
        self.choices = choices
        self.network = Network()
        self.number: dict[Node, int] = {}
        self.options: list[Options] = []
        self.tensors: list[Tensor] = []
        self.is_narrowed = False
        self._tables: dict[Any, Costs] = {}
        self._groups: dict[Match, int] = {}
        self._inputs: dict[Match, dict[Value | None, int | None]] = {}
        self.free: dict[Resident, tuple[int, Numbers]] = {}
        """For each resident without a device of its own the variable of its home, and the places that its labels are."""
        for node in graph.nodes:
            self.number[node] = len(self.options)
            options = self._options(node, choices[node])
            self.options.append(options)
            self.network.add_variable(options.costs)
        self._add_groups(choices)
        self._add_colocation()
        self._add_values()

    # Labels ------------------------------------------------------------------------------------------------------

    def _options(self, node: Node, choices: list[Choice]) -> Options:
        """Labels of a node: choices with equal places on one processor become one label, whose cheapest choice counts."""
        merged: dict[Any, list[Choice]] = {}
        for match, same in groupby(choices, key=attrgetter("match")):
            alone, taken, given = len(match.nodes) == 1, self._taken(match, node), _given(match, node)
            group = -1 if alone else self._groups.setdefault(match, len(self._groups))
            for choice in same:
                takes, gives = self._at(choice, taken, given)
                device = -1 if alone else self.places.of(choice.candidate.device)
                processor = choice.candidate.device.processor
                merged.setdefault((group, device, takes, gives, processor), []).append(choice)
        rows = [(key, sorted(same, key=_cost)) for key, same in merged.items()]
        return Options(
            [same for _, same in rows],
            np.array([_cost(same[0]) for _, same in rows]),
            np.array([key[2] for key, _ in rows], np.intp).reshape(len(rows), len(node.inputs)),
            np.array([key[3] for key, _ in rows], np.intp).reshape(len(rows), len(node.outputs)),
            np.array([key[0] for key, _ in rows], np.intp),
        )

    def _taken(self, match: Match, node: Node) -> Ports:
        """For each input of a node, which of the match's it is: None for constants, which are everywhere, and inside."""
        constants = self.graph.constants
        if match.inputs is node.inputs:
            return [None if v is None or v in constants else port for port, v in enumerate(node.inputs)]
        if match not in self._inputs:
            ports = {v: port for port, v in reversed(list(enumerate(match.inputs))) if v not in constants}
            self._inputs[match] = {**ports, None: None}
        return [self._inputs[match].get(value) for value in node.inputs]

    def _at(self, choice: Choice, taken: Ports, given: Ports) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The places from which a choice takes its inputs, and to which it gives its outputs."""
        device, kernel = choice.candidate.device, choice.candidate.kernel
        of, nowhere = self.places.of, self.places.nowhere
        if not kernel.layouts:
            here = of(device)
            takes = [nowhere if port is None else here for port in taken]
            gives = [nowhere if port is None else here for port in given]
        else:
            work = choice.match.work
            takes = [nowhere if p is None else of(device, kernel.input_layout(work, p)) for p in taken]
            gives = [nowhere if p is None else of(device, kernel.output_layout(p)) for p in given]
        return tuple(takes), tuple(gives)

    def _add_groups(self, choices: dict[Node, list[Choice]]) -> None:
        """All nodes of a match of several have its label, or none has."""
        pairs: dict[tuple[int, int], set[int]] = {}
        for match, group in self._groups.items():
            for one, other in _links(match):
                pairs.setdefault((self.number[one], self.number[other]), set()).add(group)
        for (first, second), groups in pairs.items():
            a, b = self.options[first], self.options[second]
            bound = np.array(sorted(groups))
            apart = a.groups[:, None] != b.groups[None, :]
            apart |= self.spaces(first)[:, None] != self.spaces(second)[None, :]
            matters = np.isin(a.groups, bound)[:, None] | np.isin(b.groups, bound)[None, :]
            self.network.add_table(first, second, np.where(apart & matters, np.inf, 0.0))
        self._add_moves()

    def _add_moves(self) -> None:
        """Each large match on each device, as labels of all its nodes."""
        for match, group in self._groups.items():
            if len(match.nodes) < LEAST_MOVE:
                continue
            moves: dict[int, dict[int, int]] = {}
            for number in (self.number[node] for node in match.nodes):
                options = self.options[number]
                for label in np.flatnonzero(options.groups == group).tolist():
                    device = self.places.of(options.choices[label][0].candidate.device)
                    moves.setdefault(device, {})[number] = label
            self.network.moves += [move for move in moves.values() if len(move) == len(match.nodes)]

    def _add_colocation(self) -> None:
        """Nodes of one colocation group run in one address space: each is bound to the one before it."""
        last: dict[int, int] = {}
        for node, number in self.number.items():
            group = node.mark.group
            if group is None:
                continue
            if group in last:
                here, there = self.spaces(last[group]), self.spaces(number)
                self.network.add_table(
                    last[group], number, np.where(here[:, None] == there[None, :], 0.0, np.inf)
                )
            last[group] = number

    def spaces(self, number: int) -> Numbers:
        """For each label of a node the address space of its device, as the number of its plain place."""
        return np.array([self.places.of(same[0].candidate.device) for same in self.options[number].choices])

    # Tensors -----------------------------------------------------------------------------------------------------

    def exclude(self, first: Match, second: Match) -> None:
        """Forbids two matches of several nodes, which share no node, to be used together."""
        a, b = self.number[first.anchor], self.number[second.anchor]
        here = self.options[a].groups == self._groups[first]
        there = self.options[b].groups == self._groups[second]
        self.network.add_table(a, b, np.where(here[:, None] & there[None, :], np.inf, 0.0))

    def _add_values(self) -> None:
        readers: dict[Value, list[tuple[int, int]]] = {}
        for node in self.graph.nodes:
            for port, value in enumerate(node.inputs):
                if value is not None and value not in self.graph.constants:
                    readers.setdefault(value, []).append((self.number[node], port))
        fetched = self.homes.wanted
        going: dict[Value, list[tuple[int, Numbers]]] = {}
        for resident in self.homes.residents:
            if resident.is_free:
                self._add_free(resident, going)
        for value in self.graph.values():
            if value in self.graph.constants:
                continue
            demands = [
                (number, self.options[number].takes[:, port]) for number, port in readers.get(value, ())
            ]
            homes = sorted({self.places.of(device) for device in fetched.get(value, ())})
            demands += [(-1, np.array([place])) for place in homes]
            self._add_value(value, demands + going.get(value, []))

    def _add_free(self, resident: Resident, going: dict[Value, list[tuple[int, Numbers]]]) -> None:
        """A variable for the place of a resident, which it comes from and goes to; the place where it is comes first."""
        here = self.places.of(resident.device)
        spaces = [here, *(space for space in range(len(self.places.spaces)) if space != here)]
        self.free[resident] = self.network.add_variable(np.zeros(len(spaces))), np.array(spaces)
        if resident.output in self.graph.outputs:
            going.setdefault(self.graph.outputs[resident.output], []).append(self.free[resident])

    def start(self, value: Value) -> Numbers:
        """The place where an input is, as an array of one."""
        return np.array([self.places.of(self.homes.of(value))])

    def _add_value(self, value: Value, demands: list[tuple[int, Numbers]]) -> None:
        producer, middle = -1, -1
        resident = self.homes.resident(value)
        if value.node is not None:
            producer = self.number[value.node]
            gives = self.options[producer].gives[:, value.index]
        elif resident in self.free:
            producer, gives = self.free[resident]
        else:
            gives = self.start(value)
        sets: list[list[int]] = []
        if len(demands) == 1:
            self._connect(producer, demands[0][0], self.table(value, gives, demands[0][1]))
        elif demands:
            wanted = sorted(set(np.concatenate([d for _, d in demands]).tolist()) - {self.places.nowhere})
            chosen = _sets(len(wanted), len(demands))
            self.is_narrowed |= len(wanted) > WIDEST_SET and len(demands) > 3
            middle = self.network.add_variable(np.zeros(len(chosen)))
            self._connect(producer, middle, self._set_table(value, gives, wanted, chosen))
            for reader, demand in demands:
                self._connect(middle, reader, self._member_table(wanted, chosen, demand))
            sets = [[wanted[i] for i in places] for places in chosen]
        self.tensors.append(Tensor(value, producer, gives, demands, middle, sets))

    def _connect(self, first: int, second: int, table: Costs) -> None:
        """Adds a table of two variables; -1 stands for one that has a single label."""
        if first < 0 and second < 0:
            return
        if first < 0:
            self.network.add_unary(second, table[0, :])
        elif second < 0:
            self.network.add_unary(first, table[:, 0])
        elif first == second:
            self.network.add_unary(first, np.diagonal(table))
        else:
            self.network.add_table(first, second, table)

    def table(self, value: Value, gives: Numbers, takes: Numbers) -> Costs:
        """Nanoseconds ``[place in gives, place in takes]`` of bringing a tensor from one to the other."""
        key = ("way", self.places.key(value.spec), gives.tobytes(), takes.tobytes())
        if key not in self._tables:
            self._tables[key] = self.places.table(value.spec)[np.ix_(gives, takes)]
        return self._tables[key]

    def _set_table(self, value: Value, gives: Numbers, wanted: list[int], sets: Sets) -> Costs:
        """Nanoseconds ``[label of the producer, set]``: the tensor is brought to every place of the set."""
        key = ("set", self.places.key(value.spec), gives.tobytes(), tuple(wanted), len(sets))
        if key not in self._tables:
            self._tables[key] = self.places.deliveries(value.spec, wanted, sets)[gives]
        return self._tables[key]

    def _member_table(self, wanted: list[int], sets: Sets, takes: Numbers) -> Costs:
        """Zero where the set has the place that the label of the reader takes from, else infinity."""
        key = ("member", tuple(wanted), len(sets), takes.tobytes())
        if key not in self._tables:
            has = np.zeros((len(sets), self.places.nowhere + 1), bool)
            for number, places in enumerate(sets):
                has[number, [wanted[i] for i in places]] = True
            has[:, self.places.nowhere] = True
            self._tables[key] = np.where(has[:, takes], 0.0, np.inf)
        return self._tables[key]


def _sets(count: int, demands: int) -> Sets:
    """Sets of ``count`` places that ``demands`` readers may ask for, smaller ones first."""
    most = min(count, demands)
    sizes = range(most + 1) if count <= WIDEST_SET else range(min(most, 3) + 1)
    sets = [places for size in sizes for places in combinations(range(count), size)]
    if count > WIDEST_SET and most > 3:
        sets.append(tuple(range(count)))
    return sets


def _given(match: Match, node: Node) -> Ports:
    """For each output of a node, which of the match's it is, or None where it stays inside."""
    if match.outputs is node.outputs:
        return list(range(len(node.outputs)))
    ports = {value: port for port, value in enumerate(match.outputs)}
    return [ports.get(value) for value in node.outputs]


def _links(match: Match) -> list[tuple[Node, Node]]:
    """Pairs of nodes that hold a match together: those that tensors join, and one for each part that no tensor joins."""
    members, joined = set(match.nodes), DisjointSets[Node]()
    links = []
    for node in match.nodes:
        for maker in dict.fromkeys(v.node for v in node.inputs if v is not None):
            if maker is not None and maker in members:
                links.append((maker, node))
                joined.join(maker, node)
    for before, node in pairwise(match.nodes):
        if joined.of(before) is not joined.of(node):
            links.append((before, node))
            joined.join(before, node)
    return links


def _cost(choice: Choice) -> float:
    return whole_nanoseconds(choice.candidate.seconds) if choice.pays else 0.0

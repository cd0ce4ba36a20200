"""Regions: the parts of a graph that are offered to region compilers.

A region is a set of nodes that a compiler claims, that tensors join, and that is convex: no path leaves it and comes back,
so that it can run as one step. A graph has exponentially many. Offered are those of a fixed number of *partitions* of the
claimed nodes, so that no node lies in more than ten regions, however large the graph:

* the largest regions, where the claimed nodes of each path that have no others between them belong together; counted
  from the inputs, and counted from the outputs. Two nodes can lie in one region if as many borders to nodes that are
  not claimed lie before them, for along a path this number never falls;
* the largest regions of what is left without the nodes of patterns and composites that cross the border of the claimed
  nodes; without those of all patterns and composites; and without the ops that are not elementwise. These are the places
  where another kernel may be better;
* fanout-free cones: a node with all nodes whose results only it needs, directly or not. They have one output each;
* the largest regions cut into pieces of about 8 and of about 64 nodes where the fewest tensors are alive, for graphs of
  which another device should run a part, and for compilers that refuse large regions;
* each node alone.

A composite call that a compiler claims is a node of its regions; otherwise its parts are.

Sources: counting borders is how delegates of TensorFlow Lite partition graphs; J. Cong and Y. Ding, "FlowMap", IEEE
Transactions on CAD 13 (1994), for the cones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..driver import Device
from ..graph import Graph, Node, Value
from ..kernels import Kernel
from ..region import Region
from .disjoint import DisjointSets
from .match import Match
from .wholes import Whole

SIZES = (8, 64)
"""Nodes of the pieces into which the largest regions are cut."""

FEW = 8
"""Elements up to which a constant becomes a part of a region; larger ones are inputs, so that nobody reads weights."""

WhyNot = Callable[[Node], str | None]
"""Why a node, or the call of a composite, cannot be a part of a region; None where it can."""

Numbers = list[int]


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """A graph as one compiler sees it: ``nodes`` in order, some of which are composite calls.

    parts          the nodes of the graph that each stands for
    claimed        whether the compiler claims it
    before, after  numbers of the units that make what it takes, and of those that take what it makes
    users          numbers of the units that take a value
    fetched        values that are outputs of the graph
    """

    nodes: Sequence[Node]
    parts: Sequence[tuple[Node, ...]]
    claimed: list[bool]
    before: list[Numbers]
    after: list[Numbers]
    users: dict[Value, Numbers]
    fetched: set[Value]

    @staticmethod
    def of(
        graph: Graph, nodes: Sequence[Node], parts: Sequence[tuple[Node, ...]], claimed: list[bool]
    ) -> Units:
        """Finds who takes what."""
        maker = {value: number for number, node in enumerate(nodes) for value in node.outputs}
        users: dict[Value, Numbers] = {}
        before: list[Numbers] = []
        after: list[Numbers] = [[] for _ in nodes]
        for number, node in enumerate(nodes):
            taken = [value for value in dict.fromkeys(node.inputs) if value is not None]
            before.append(list(dict.fromkeys(maker[value] for value in taken if value in maker)))
            for value in taken:
                users.setdefault(value, []).append(number)
            for other in before[-1]:
                after[other].append(number)
        return Units(nodes, parts, claimed, before, after, users, set(graph.outputs.values()))

    def without(self, left_out: Iterable[Node]) -> list[bool]:
        """What is claimed and has none of these nodes as a part."""
        out = set(left_out)
        return [c and out.isdisjoint(parts) for c, parts in zip(self.claimed, self.parts, strict=True)]


class Regions:
    """The regions of a graph for any number of compilers. ``rivals`` are matches that other kernels take.

    Equal regions are one object, and their weights are inputs, so that asking about one asks about all.
    """

    def __init__(self, graph: Graph, wholes: Sequence[Whole] = (), rivals: Iterable[Match] = ()) -> None:
        self.graph = graph
        self.wholes = wholes
        self.rivals = [set(match.nodes) for match in rivals if len(match.nodes) > 1]
        self._found: dict[object, list[Match]] = {}
        self._matches: dict[tuple[Node, ...], Match | None] = {}
        self._regions: dict[object, Region] = {}
        self._numbers: dict[object, int] = {}

    def find(self, why_not: WhyNot) -> tuple[list[Match], dict[Node, str]]:
        """The regions for one compiler on one device, and for each node of the graph that cannot be in one the reason."""
        whole_of: dict[Node, Whole] = {}
        for whole in reversed(self.wholes):  # outer ones first
            if whole.nodes[0] not in whole_of and why_not(whole.node) is None:
                whole_of.update(dict.fromkeys(whole.nodes, whole))
        nodes: list[Node] = []
        parts: list[tuple[Node, ...]] = []
        claimed: list[bool] = []
        reasons: dict[Node, str] = {}
        for node in self.graph.nodes:
            part_of = whole_of.get(node)
            if part_of is None:
                if (reason := why_not(node)) is not None:
                    reasons[node] = reason
                nodes.append(node)
                parts.append((node,))
                claimed.append(reason is None)
            elif not nodes or nodes[-1] is not part_of.node:
                nodes.append(part_of.node)
                parts.append(part_of.nodes)
                claimed.append(True)
        key = tuple(nodes), tuple(claimed)
        if key not in self._found:
            self._found[key] = self._match_all(Units.of(self.graph, nodes, parts, claimed))
        return self._found[key], reasons

    def _match_all(self, units: Units) -> list[Match]:
        inside = {node for c, parts in zip(units.claimed, units.parts, strict=True) if c for node in parts}
        if not inside:
            return []
        crossing = {node for rival in self.rivals if not rival <= inside for node in rival}
        anywhere = {node for rival in self.rivals for node in rival}
        found: dict[Match, None] = {}
        for partition in _partitions(units, crossing, anywhere):
            for numbers in partition:
                match = self._match(units, numbers)
                if match is not None:
                    found[match] = None
        return list(found)

    def _match(self, units: Units, numbers: Numbers) -> Match | None:
        """The match of some units; None where nothing needs what they make."""
        key = tuple(units.nodes[number] for number in numbers)
        if key not in self._matches:
            self._matches[key] = self._new_match(units, numbers)
        return self._matches[key]

    def _new_match(self, units: Units, numbers: Numbers) -> Match | None:
        members, constants = set(numbers), self.graph.constants
        nodes = [units.nodes[number] for number in numbers]
        made = {value for node in nodes for value in node.outputs}
        inputs = dict.fromkeys(
            value
            for node in nodes
            for value in node.inputs
            if value is not None
            and value not in made
            and not (value in constants and constants[value].size <= FEW)
        )
        outputs = tuple(
            value
            for node in nodes
            for value in node.outputs
            if value in units.fetched or any(user not in members for user in units.users.get(value, ()))
        )
        if not outputs:
            return None
        parts = tuple(part for number in numbers for part in units.parts[number])
        return Match(parts, tuple(inputs), outputs, self._region(nodes, tuple(inputs), outputs))

    def _region(self, nodes: list[Node], inputs: tuple[Value, ...], outputs: tuple[Value, ...]) -> Region:
        """The region of some nodes: one object where the same calls are connected in the same way."""
        place: dict[Value | None, int] = {None: -1, **{value: number for number, value in enumerate(inputs)}}
        rows: list[int] = []
        for node in nodes:
            rows.append(self._number(node.call))
            rows += [place[value] if value in place else self._constant(value) for value in node.inputs]
            for value in node.outputs:
                place[value] = len(place)
        key = (tuple(rows), *(place[value] for value in outputs))
        if key not in self._regions:
            self._regions[key] = Region.of(nodes, inputs, outputs)
        return self._regions[key]

    def _constant(self, value: Value | None) -> int:
        """A number below -1 for a small constant, the same for equal ones."""
        assert value is not None  # which has a place
        array = self.graph.constants[value]
        return -2 - self._number((value.spec, array.tobytes()))

    def _number(self, thing: object) -> int:
        """A number for a call or a constant, the same for equal ones."""
        return self._numbers.setdefault(thing, len(self._numbers))


def find_regions(
    kernel: Kernel, graph: Graph, device: Device, wholes: Sequence[Whole] = ()
) -> tuple[list[Match], dict[Node, str]]:
    """The regions of a graph that placement would offer to a compiler, and why it does not claim the other nodes."""
    return Regions(graph, wholes).find(lambda node: kernel.claim_refusal(node.call, device))


# Partitions ------------------------------------------------------------------------------------------------------


def _partitions(units: Units, crossing: set[Node], anywhere: set[Node]) -> Iterator[list[Numbers]]:
    """The partitions of the claimed units, or of some of them, into convex connected sets."""
    largest = _largest(units, units.claimed)
    yield largest
    numbers = {node for node in units.nodes if all(value.spec.size == 1 for value in node.outputs)}
    for claimed in (
        units.claimed,
        units.without(numbers),
    ):  # a number that many need joins what else is apart
        yield _components(units, claimed, _borders(units.after, claimed, backwards=True))
    heavy = {
        part
        for node, parts in zip(units.nodes, units.parts, strict=True)
        if node.op.scalar is None
        for part in parts
    }
    for left_out in (crossing, anywhere, heavy):
        yield _largest(units, units.without(left_out))
    yield _cones(units)
    for size in reversed(SIZES):
        yield [piece for region in largest for piece in _pieces(units, region, size)]
    yield [[number] for number, claimed in enumerate(units.claimed) if claimed]


def _largest(units: Units, claimed: list[bool]) -> list[Numbers]:
    return _components(units, claimed, _borders(units.before, claimed))


def _borders(sources: list[Numbers], claimed: list[bool], backwards: bool = False) -> Numbers:
    """For each unit the most borders, from a claimed one to one that is not, on a path to it; or back from it."""
    counts = [0] * len(claimed)
    order = range(len(claimed))
    for number in reversed(order) if backwards else order:
        counts[number] = max(
            (counts[other] + (claimed[other] and not claimed[number]) for other in sources[number]), default=0
        )
    return counts


def _components(units: Units, claimed: list[bool], levels: Numbers) -> list[Numbers]:
    """Sets of claimed units of one level that tensors join, each in order."""
    joined = DisjointSets[int]()
    for number, others in enumerate(units.before):
        if claimed[number]:
            for other in others:
                if claimed[other] and levels[other] == levels[number]:
                    joined.join(other, number)
    found: dict[int, Numbers] = {}
    for number, is_claimed in enumerate(claimed):
        if is_claimed:
            found.setdefault(joined.of(number), []).append(number)
    return list(found.values())


def _cones(units: Units) -> list[Numbers]:
    """Each claimed unit with the root that alone needs it: its only user, or what all of its users are needed for."""
    root = list(range(len(units.nodes)))
    for number in reversed(range(len(root))):
        users = units.after[number]
        if (
            not units.claimed[number]
            or not users
            or not units.fetched.isdisjoint(units.nodes[number].outputs)
        ):
            continue
        roots = {root[user] for user in users}
        if len(roots) == 1 and all(units.claimed[user] for user in users):
            (root[number],) = roots
    found: dict[int, Numbers] = {}
    for number, claimed in enumerate(units.claimed):
        if claimed:
            found.setdefault(root[number], []).append(number)
    return list(found.values())


def _pieces(units: Units, region: Numbers, size: int) -> list[Numbers]:
    """A region cut, in the order of its units, into pieces of half to one and a half times the size.

    Each cut is where the fewest units before it have made what is still needed behind it. What lies between two cuts of
    a convex set is convex; parts of it that no tensor joins are pieces of their own.
    """
    alive = _alive(units, region)
    pieces: list[Numbers] = []
    start = 0
    while len(region) - start > size + size // 2:
        window = range(start + size // 2, start + size + size // 2 + 1)
        cut = min(window, key=lambda at: (alive[at], abs(at - start - size), at))
        pieces.append(region[start:cut])
        start = cut
    pieces.append(region[start:])
    if len(pieces) == 1:
        return pieces
    level = [-1] * len(units.nodes)
    for number, piece in enumerate(pieces):
        for unit in piece:
            level[unit] = number
    return _components(units, [at >= 0 for at in level], level)


def _alive(units: Units, region: Numbers) -> Numbers:
    """For each place in a region the number of units before it whose results are needed in the region from there on."""
    position = {number: place for place, number in enumerate(region)}
    changes = [0] * (len(region) + 1)
    for place, number in enumerate(region):
        last = max((position[user] for user in units.after[number] if user in position), default=place)
        if last > place:
            changes[place + 1] += 1
            changes[last + 1] -= 1
    alive, total = [], 0
    for change in changes:
        total += change
        alive.append(total)
    return alive

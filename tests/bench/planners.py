"""How others place: the strategies of known systems behind one interface, on the same problem as the exact solver.

A planner takes a Problem and gives a label for each node. ``complete`` adds the best labels of the other variables, given
those, so that every plan is charged by one cost model, with shared transfers. The strategies are written from papers and
from the behaviour of the systems; where a system leaves a choice open, it is made in the planner's favour: of the kernels
of one device each planner takes the fastest.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from opyard.graph import Value
from opyard.placement.match import Match
from opyard.placement.network import Network
from opyard.placement.problem import Problem
from opyard.placement.solver import solve


@dataclass(slots=True, eq=False)
class Way:
    """One way to run some nodes together: labels of theirs that belong together, at one price in nanoseconds."""

    match: Match
    device: str
    name: str
    cost: float = 0.0
    labels: dict[int, int] = field(default_factory=dict)


class Catalog:
    """The ways of a problem: all of them, and for each node those that run it alone, by device."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.count = len(problem.options)
        found: dict[tuple[Match, object], Way] = {}
        for number, options in enumerate(problem.options):
            for label, same in enumerate(options.choices):
                for choice in same:
                    key, kernel = (choice.match, choice.candidate), choice.candidate.kernel
                    way = found.setdefault(key, Way(choice.match, choice.candidate.device.name, kernel.name))
                    way.labels[number] = label
                    if choice.pays:
                        way.cost = float(options.costs[label])
        self.ways = self._best(found.values())
        self.fused = [way for way in self.ways if len(way.labels) > 1]
        self.alone: list[dict[str, Way]] = [{} for _ in range(self.count)]
        for way in self.ways:
            if len(way.labels) == 1:
                (number,) = way.labels
                best = self.alone[number].setdefault(way.device, way)
                if way.cost < best.cost:
                    self.alone[number][way.device] = way

    @staticmethod
    def _best(ways: Iterable[Way]) -> list[Way]:
        """The complete ways, of those with equal labels one."""
        kept = {tuple(w.labels.items()): w for w in ways if len(w.labels) == len(w.match.nodes)}
        return list(kept.values())

    def priority(self) -> list[str]:
        """The devices in the order in which a user would list them: by peak speed, the one with the user's arrays last."""
        devices = {c.candidate.device for o in self.problem.options for same in o.choices for c in same}
        return [
            d.name for d in sorted(devices, key=lambda d: (d.memory == "host", -d.capabilities.flops, d.name))
        ]


class Cover:
    """Ways that are chosen so far; no node is in two of them."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.taken: list[Way | None] = [None] * catalog.count

    def fits(self, way: Way) -> bool:
        """Whether none of its nodes is taken."""
        return all(self.taken[number] is None for number in way.labels)

    def take(self, way: Way) -> None:
        """Chooses a way."""
        for number in way.labels:
            self.taken[number] = way

    def labels(self) -> list[int]:
        """The label of each node; those that are not taken run alone on the first device that can."""
        order = self.catalog.priority()
        for number, way in enumerate(self.taken):
            if way is None:
                alone = self.catalog.alone[number]
                self.take(alone[min(alone, key=order.index)])
        return [way.labels[number] for number, way in enumerate(self.taken) if way is not None]


def complete(problem: Problem, labels: list[int]) -> tuple[list[int], float]:
    """The labels of all variables and their cost: the best transfers for these nodes' labels.

    The variables beside the nodes are not connected with each other, so each has a best label of its own.
    """
    network = problem.network
    whole = labels + [0] * (len(network.unary) - len(labels))
    for variable in range(len(labels), len(whole)):
        costs = network.costs_towards(variable, network.neighbours[variable], whole)
        whole[variable] = int(np.argmin(costs))
    return whole, network.cost(whole)


# Planners --------------------------------------------------------------------------------------------------------


def priority_order(problem: Problem) -> list[int]:
    """Each device in turn takes all that it can, the largest fused kernels first.

    ONNX Runtime (onnxruntime/core/framework/graph_partitioner.cc), OpenVINO HETERO (src/plugins/hetero/src/plugin.cpp),
    TensorFlow (tensorflow/core/common_runtime/placer.cc).
    """
    catalog = Catalog(problem)
    cover, order = Cover(catalog), catalog.priority()
    rank = {name: number for number, name in enumerate(order)}
    for way in sorted(catalog.ways, key=lambda w: (rank[w.device], -len(w.labels), min(w.labels), w.cost)):
        if cover.fits(way):
            cover.take(way)
    return cover.labels()


def expansion(problem: Problem) -> list[int]:
    """Seeds where the weights are, grown over the neighbours; then fused within each device.

    ggml (src/ggml-backend.cpp, ggml_backend_sched_split_graph): ops with weights start on the first device that can run
    them; four sweeps carry devices to neighbours that are not assigned; the rest goes where most of its inputs are.
    """
    catalog = Catalog(problem)
    order, nodes = catalog.priority(), problem.graph.nodes
    where: list[str | None] = [None] * catalog.count
    for number, node in enumerate(nodes):
        if any(value in problem.graph.constants for value in node.inputs):
            where[number] = min(catalog.alone[number], key=order.index)
    for last in (True, False):  # the last device, which can run everything, does not spread at first
        for numbers in (range(catalog.count), reversed(range(catalog.count))):
            current: str | None = None
            for number in numbers:
                if where[number] is not None:
                    current = None if last and where[number] == order[-1] else where[number]
                elif current in catalog.alone[number]:
                    where[number] = current
    for number, node in enumerate(nodes):
        if where[number] is None:
            near = [
                where[problem.number[v.node]] for v in node.inputs if v is not None and v.node is not None
            ]
            where[number] = min(catalog.alone[number], key=lambda d: (-near.count(d), order.index(d)))
    cover = Cover(catalog)
    for way in sorted(catalog.fused, key=lambda w: (-len(w.labels), min(w.labels), w.cost)):
        if cover.fits(way) and all(where[number] == way.device for number in way.labels):
            cover.take(way)
    for number, device in enumerate(where):
        if cover.taken[number] is None and device is not None:
            cover.take(catalog.alone[number][device])
    return cover.labels()


def first_match(problem: Problem) -> list[int]:
    """Patterns in the order of a list, each taking all of its places that are free; then single ops by device.

    TVM Relax BYOC (src/relax/transform/fuse_ops.cc, PatternBasedPartitioner). The list has the devices' patterns by priority.
    """
    catalog = Catalog(problem)
    cover, order = Cover(catalog), catalog.priority()
    for way in sorted(catalog.fused, key=lambda w: (order.index(w.device), w.name, min(w.labels))):
        if cover.fits(way):
            cover.take(way)
    return cover.labels()


def without_transfers(problem: Problem) -> list[int]:
    """The least sum of kernel times over all covers, transfers left out.

    Collage (B. Jeon et al., "Collage: seamless integration of deep learning backends with automatic placement", PACT 2022)
    computes this by dynamic programming. Here it is the minimum of a network that has no transfers in it.
    """
    catalog, network = Catalog(problem), Network()
    fused: list[list[int]] = []
    number_of = {id(way): number for number, way in enumerate(catalog.fused)}
    for options in problem.options:
        fused.append([-1] * len(options.costs))
        network.add_variable(options.costs)
    pairs: dict[tuple[int, int], set[int]] = {}
    for way in catalog.fused:
        members = sorted(way.labels)
        for number, label in way.labels.items():
            fused[number][label] = number_of[id(way)]
        for first, second in pairwise(members):
            pairs.setdefault((first, second), set()).add(number_of[id(way)])
    for (first, second), bound in pairs.items():
        a, b = np.array(fused[first]), np.array(fused[second])
        matters = np.isin(a, list(bound))[:, None] | np.isin(b, list(bound))[None, :]
        network.add_table(first, second, np.where(matters & (a[:, None] != b[None, :]), np.inf, 0.0))
    return solve(network).labels


def heft(problem: Problem) -> list[int]:
    """Ops by their distance from the end, each on the device that finishes it first, transfers included; then fused.

    H. Topcuoglu, S. Hariri and M. Wu, "Performance-effective and low-complexity task scheduling for heterogeneous
    computing", IEEE Transactions on Parallel and Distributed Systems 13 (2002): HEFT, with insertion. It minimises the
    time of devices that work in parallel, so by the sum of all times it is judged for what it was not made for.
    """
    catalog = Catalog(problem)
    readers = _readers(problem)
    mean = [float(np.mean([way.cost for way in alone.values()])) for alone in catalog.alone]
    rank = [0.0] * catalog.count
    for number in reversed(range(catalog.count)):
        below = 0.0
        for value, users in readers[number]:
            move = float(problem.places.table(value.spec)[:-1, :-1].mean())
            below = max([below, *(move + rank[user] for user in users)])
        rank[number] = mean[number] + below
    busy: dict[str, list[tuple[float, float]]] = {name: [] for name in catalog.priority()}
    chosen: list[Way | None] = [None] * catalog.count
    finish = [0.0] * catalog.count
    for number in sorted(range(catalog.count), key=lambda n: (-rank[n], n)):
        best: tuple[float, float, Way] | None = None
        for way in catalog.alone[number].values():
            ready = 0.0
            for value, source, target, maker in _arrivals(problem, way, chosen):
                move = float(problem.places.table(value.spec)[source, target])
                ready = max(ready, move + (finish[maker] if maker >= 0 else 0.0))
            start = _gap(busy[way.device], ready, way.cost)
            if best is None or start + way.cost < best[0]:
                best = start + way.cost, start, way
        assert best is not None
        finish[number], start, way = best
        chosen[number] = way
        slots = busy[way.device]
        slots.insert(bisect_left(slots, (start, finish[number])), (start, finish[number]))
    return _fused_where_cheaper(catalog, chosen)


def greedy_with_transfers(problem: Problem) -> list[int]:
    """Ops in topological order, each where its kernel and the copies that it newly needs cost least; then fused.

    The greedy simulation of M. Abadi et al., "TensorFlow: large-scale machine learning on heterogeneous distributed
    systems" (2015), section 3.2.1, which no version of the placer that was published has.
    """
    catalog = Catalog(problem)
    chosen: list[Way | None] = [None] * catalog.count
    present: dict[Value, set[int]] = {}
    for number in range(catalog.count):
        best: tuple[float, Way] | None = None
        for way in catalog.alone[number].values():
            cost = way.cost
            for value, source, target, _ in dict.fromkeys(_arrivals(problem, way, chosen)):
                table = problem.places.table(value.spec)
                cost += min(float(table[place, target]) for place in present.get(value, {source}))
            if best is None or cost < best[0]:
                best = cost, way
        assert best is not None
        chosen[number] = best[1]
        for value, source, target, _ in _arrivals(problem, best[1], chosen):
            present.setdefault(value, {source}).add(target)
    return _fused_where_cheaper(catalog, chosen)


PLANNERS: dict[str, Callable[[Problem], list[int]]] = {
    "priority order": priority_order,
    "expansion": expansion,
    "first match": first_match,
    "no transfers": without_transfers,
    "HEFT": heft,
    "greedy": greedy_with_transfers,
}


# Parts of planners -----------------------------------------------------------------------------------------------


def _readers(problem: Problem) -> list[list[tuple[Value, list[int]]]]:
    """For each node its outputs, each with the nodes that take it."""
    users: dict[Value, list[int]] = {}
    for node in problem.graph.nodes:
        for value in dict.fromkeys(node.inputs):
            if value is not None:
                users.setdefault(value, []).append(problem.number[node])
    return [[(value, users.get(value, [])) for value in node.outputs] for node in problem.graph.nodes]


def _arrivals(problem: Problem, way: Way, chosen: list[Way | None]) -> Iterator[tuple[Value, int, int, int]]:
    """What a way of one node takes: values, the places where they are made and taken, and the nodes that make them or -1."""
    ((number, label),) = way.labels.items()
    for value, target in zip(
        problem.graph.nodes[number].inputs, problem.options[number].takes[label], strict=True
    ):
        if value is None or target == problem.places.nowhere:
            continue
        if value.node is None:
            yield value, problem.places.of(problem.homes.of(value)), int(target), -1
        else:
            maker = problem.number[value.node]
            made = chosen[maker]
            assert made is not None
            yield (
                value,
                int(problem.options[maker].gives[made.labels[maker], value.index]),
                int(target),
                maker,
            )


def _gap(slots: list[tuple[float, float]], ready: float, length: float) -> float:
    """The first time from ``ready`` on at which a device is idle for so long. ``slots`` are busy times in order."""
    index = max(0, bisect_left(slots, (ready, 0.0)) - 1)
    start = ready
    for begin, end in slots[index:]:
        if begin - start >= length:
            break
        start = max(start, end)
    return start


def _fused_where_cheaper(catalog: Catalog, chosen: list[Way | None]) -> list[int]:
    """Nodes on one device become fused where the fused kernel costs less than its parts, the largest first."""
    cover = Cover(catalog)
    for way in sorted(catalog.fused, key=lambda w: (-len(w.labels), min(w.labels), w.cost)):
        parts = [part for part in (chosen[number] for number in way.labels) if part is not None]
        together = all(part.device == way.device for part in parts)
        if together and cover.fits(way) and way.cost < sum(part.cost for part in parts):
            cover.take(way)
    for part in chosen:
        if part is not None and cover.fits(part):
            cover.take(part)
    return cover.labels()

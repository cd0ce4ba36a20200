"""A simple solver: several greedy starts, then single-node moves until none helps (iterated conditional modes).

It prices transfers, and lets a tensor pay once for each address space that needs it. Source of the local search: Besag,
"On the statistical analysis of dirty pictures", Journal of the Royal Statistical Society B 48 (1986).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..costs import Costs
from ..device import Device, shares_arrays
from ..errors import PlacementError
from ..graph import Graph, Node, Value
from ..registry import Registry
from ..selection import Candidate, Policy, active_policy, candidates
from .model import Alternative, Decision, Placement

MAX_SWEEPS = 20


def place(
    graph: Graph,
    devices: Sequence[Device],
    registry: Registry,
    costs: Costs,
    *,
    home: Device | None = None,
    policy: Policy | None = None,
    unavailable: Iterable[tuple[str, str]] = (),
) -> Placement:
    """Assigns every node of a graph with concrete shapes to a kernel on one of the devices.

    home         the device whose arrays are fed and fetched; the first host device by default
    unavailable  (op, backend/kernel) pairs that must not be used
    Raises PlacementError, naming the op and every refusal, when a node has no kernel, and for no devices at all.
    """
    if not devices:
        raise PlacementError("no device was given to place on; pass for example registry.devices().")
    chosen_policy = policy or active_policy()
    where = home or next((d for d in devices if d.memory == "host"), devices[0])
    search = _Search(graph, where, costs)
    banned = set(unavailable)
    memo: dict[object, tuple[Candidate, ...]] = {}
    for node in graph.nodes:
        if node.call not in memo:
            memo[node.call] = candidates(node.call, devices, registry, chosen_policy, costs)
        rows = [
            replace(c, estimate=None, refusal=c.refusal or "it failed in this run")
            if (node.op.name, c.kernel.id) in banned
            else c
            for c in memo[node.call]
        ]
        search.add(node, rows, chosen_policy)
    search.solve()
    return search.placement()


class _Search:
    """The state of one search: for each node its usable candidates and the index of the one in use."""

    def __init__(self, graph: Graph, home: Device, costs: Costs) -> None:
        self.graph = graph
        self.home = home
        self.costs = costs
        self.usable: dict[Node, list[Candidate]] = {}
        self.refused: dict[Node, list[Candidate]] = {}
        self.at: dict[Node, int] = {}
        self.consumers: dict[Value, list[Node]] = {}
        self.fetched = set(graph.outputs.values())
        self._moves: dict[tuple[str, str, float], float] = {}
        for node in graph.nodes:
            for value in set(node.inputs):
                if value is not None:
                    self.consumers.setdefault(value, []).append(node)

    def add(self, node: Node, rows: Sequence[Candidate], policy: Policy) -> None:
        """Takes in a node with its candidates. Where the policy prefers some, the others do not compete."""
        usable = [c for c in rows if c.refusal is None]
        if not usable:
            reasons = (
                "; ".join(f"{c.kernel.id} on {c.device.name}: {c.refusal}" for c in rows)
                or "no kernel is registered on these devices"
            )
            raise PlacementError(
                f"no kernel can run {node.call} (node {node.name!r}, {node.source}): {reasons}. "
                f"Add a device that can (devices='auto' takes all), or see `opyard kernels {node.op.name}`."
            )
        best = min(policy.preference(c.kernel) for c in usable)
        self.usable[node] = [c for c in usable if policy.preference(c.kernel) == best]
        self.refused[node] = [c for c in rows if c not in self.usable[node]]

    def solve(self) -> None:
        """Keeps the best of: greedy with transfers, and each device wherever it can run a node."""
        names = sorted({c.device.name for rows in self.usable.values() for c in rows})
        starts = [self._greedy(), *(self._on(name) for name in names)] if len(names) > 1 else [self._greedy()]
        results = []
        for start in starts:
            self.at = dict(start)
            self._improve()
            results.append((self.total(), dict(self.at)))
        self.at = min(results, key=lambda pair: pair[0])[1]

    def _on(self, device: str) -> dict[Node, int]:
        return {
            node: next((i for i, c in enumerate(rows) if c.device.name == device), 0)
            for node, rows in self.usable.items()
        }

    def _greedy(self) -> dict[Node, int]:
        self.at = {}
        for node in self.graph.nodes:
            rows = self.usable[node]
            prices = [
                c.seconds
                + sum(self._move(self._source(v), c.device, v) for v in set(node.inputs) if v is not None)
                for c in rows
            ]
            self.at[node] = prices.index(min(prices))
        return self.at

    def _improve(self) -> None:
        for _ in range(MAX_SWEEPS):
            changed = False
            for node in self.graph.nodes:
                if len(self.usable[node]) > 1:
                    prices = self._prices(node)
                    best = prices.index(min(prices))
                    if prices[best] < prices[self.at[node]]:
                        self.at[node], changed = best, True
            if not changed:
                return

    def _prices(self, node: Node) -> list[float]:
        """For each usable candidate of the node, the part of the total that depends on it."""
        before, prices = self.at[node], []
        values = {*node.outputs, *(v for v in node.inputs if v is not None)}
        for index, candidate in enumerate(self.usable[node]):
            self.at[node] = index
            prices.append(candidate.seconds + sum(map(self._traffic, sorted(values, key=lambda v: v.name))))
        self.at[node] = before
        return prices

    def _device(self, node: Node) -> Device:
        return self.usable[node][self.at[node]].device

    def _source(self, value: Value) -> Device | None:
        """Where a value is made; None for a constant, which is brought to its places once, before any run."""
        if value.node is not None:
            return self._device(value.node)
        return None if value in self.graph.constants else self.home

    def _move(self, source: Device | None, target: Device, value: Value) -> float:
        if source is None or shares_arrays(source, target):
            return 0.0
        key = (source.name, target.name, float(value.spec.nbytes))
        if key not in self._moves:
            self._moves[key] = self.costs.transfer_seconds(source, target, key[2])
        return self._moves[key]

    def _traffic(self, value: Value) -> float:
        """Seconds that bringing a value to all its consumers takes; devices that share arrays share the copy."""
        source = self._source(value)
        if source is None:
            return 0.0
        places: list[Device] = []
        for target in [
            *map(self._device, self.consumers.get(value, ())),
            *([self.home] if value in self.fetched else []),
        ]:
            if not shares_arrays(source, target) and not any(
                shares_arrays(target, known) for known in places
            ):
                places.append(target)
        return sum(self._move(source, place, value) for place in places)

    def total(self) -> float:
        """Predicted seconds of one run."""
        kernels = sum(self.usable[node][self.at[node]].seconds for node in self.graph.nodes)
        return kernels + sum(self._traffic(value) for value in self.graph.values())

    def placement(self) -> Placement:
        """The result, with the price of every alternative."""
        decisions = []
        for node in self.graph.nodes:
            prices, at = self._prices(node), self.at[node]
            ranked = sorted((price - prices[at], i) for i, price in enumerate(prices) if i != at)
            alternatives = [Alternative(self.usable[node][i], extra) for extra, i in ranked]
            alternatives += [Alternative(c, None) for c in self.refused[node]]
            device = self._device(node)
            transfer = sum(self._move(self._source(v), device, v) for v in set(node.inputs) if v is not None)
            decisions.append(Decision(node, self.usable[node][at], transfer, tuple(alternatives)))
        return Placement(self.graph, self.home, tuple(decisions), self.total())

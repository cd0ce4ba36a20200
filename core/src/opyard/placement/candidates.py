"""Candidates: every way to run every part of a graph, each accepted with an estimate or refused with a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ..costs import Costs
from ..driver import Device
from ..errors import PlacementError
from ..graph import Graph, Node
from ..kernels import Kernel, Work
from ..operation import Call
from ..ops.arithmetic import identity
from ..registry import Registry, describe_error
from ..selection import Candidate, Policy, candidates, consider
from ..spec import TensorSpec
from .match import Match
from .matching import Index, find_matches
from .patterns import Pattern
from .wholes import Whole

Ways = list[tuple[Match, Candidate]]


class Collector:
    """Finds the candidates of a graph. Equal calls are asked about once, however often they occur."""

    def __init__(
        self,
        devices: Sequence[Device],
        registry: Registry,
        policy: Policy,
        costs: Costs,
        unavailable: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.devices = devices
        self.registry = registry
        self.policy = policy
        self.costs = costs
        self.unavailable = set(unavailable)
        self._known: dict[object, tuple[Candidate, ...]] = {}
        self._patterns: dict[object, Candidate] = {}

    def ways(self, graph: Graph, wholes: Sequence[Whole]) -> tuple[dict[Node, Ways], dict[Node, Ways]]:
        """For each node the ways to run it, and those that are refused. Raises PlacementError where there is no way."""
        self._check_scopes(graph)
        usable: dict[Node, Ways] = {node: [] for node in graph.nodes}
        refused: dict[Node, Ways] = {node: [] for node in graph.nodes}
        pinned = dict(self.policy.pins)
        closed: dict[Node, str] = {}
        for whole in wholes:
            match = Match(whole.nodes, whole.inputs, whole.outputs, whole.call)
            self._sort(match, self._candidates(whole.call), usable, refused)
            if whole.call.op.name in pinned:
                reason = f"{whole.call.op.name} is pinned to {pinned[whole.call.op.name]}"
                closed.update(dict.fromkeys(whole.nodes, reason))
        for match, rows in self._pattern_matches(graph, wholes):
            self._sort(match, rows, usable, refused)
        for node in graph.nodes:
            rows = self._candidates(node.call)
            if node in closed:
                rows = [replace(c, estimate=None, refusal=c.refusal or closed[node]) for c in rows]
            self._sort(Match.single(node), rows, usable, refused)
        for node in graph.nodes:
            self._follow_soft_scope(node, usable, refused)
            self._prefer(node, usable, refused)
            if not usable[node]:
                raise PlacementError(_no_way(node, refused[node]))
        return usable, refused

    def _pattern_matches(
        self, graph: Graph, wholes: Sequence[Whole]
    ) -> Iterator[tuple[Match, Sequence[Candidate]]]:
        """Every place where the pattern of a kernel occurs, with that kernel on each device of its backend."""
        backends = {device.backend for device in self.devices}
        kernels = [
            k
            for k in self.registry.patterns
            if k.backend in backends and not self.registry.why_aside("pattern", k)
        ]
        if not kernels:
            return
        index = Index(graph, wholes)
        for kernel in kernels:
            try:
                pattern = Pattern.of(kernel)
            except Exception as error:  # it is shown by `opyard doctor`; other kernels do without it
                self.registry.set_aside("pattern", kernel, describe_error(error))
                continue
            for match in find_matches(pattern, index):
                yield match, self._pattern_candidates(kernel, match)

    def _pattern_candidates(self, kernel: Kernel, match: Match) -> list[Candidate]:
        rows, likeness = [], _likeness(match.work)
        pinned = [node.op.name for node in match.nodes if node.op.name in dict(self.policy.pins)]
        for device in (d for d in self.devices if d.backend == kernel.backend):
            key = (kernel, likeness, device)
            if key not in self._patterns:
                candidate = consider(kernel, match.work, device, self.registry, self.policy, self.costs)
                failed = self._is_unavailable(match.work, kernel)
                self._patterns[key] = self._failed(candidate) if failed else candidate
            candidate = self._patterns[key]
            if pinned:
                candidate = replace(
                    candidate, estimate=None, refusal=candidate.refusal or f"{pinned[0]} is pinned"
                )
            rows.append(candidate)
        return rows

    def layouts(self) -> set[tuple[str, str]]:
        """(backend, layout) pairs of all kernels of the devices' backends."""
        backends = {device.backend for device in self.devices}
        kernels = (k for k in self.registry.all_kernels() if k.layouts and k.backend in backends)
        return {
            (kernel.backend, layout) for kernel in kernels for layout in kernel.layouts.values() if layout
        }

    def conversions(self, spec: TensorSpec) -> list[Candidate]:
        """The kernels that change the layout of a tensor: those of the op identity that take and give different ones."""
        return [c for c in self._candidates(identity.op.call(spec)) if c.kernel.layouts]

    def _sort(
        self, match: Match, rows: Iterable[Candidate], usable: dict[Node, Ways], refused: dict[Node, Ways]
    ) -> None:
        for candidate in rows:
            elsewhere = _pinned_elsewhere(match, candidate.device) if candidate.refusal is None else None
            if elsewhere is not None:
                candidate = replace(candidate, estimate=None, refusal=elsewhere)
            for node in match.nodes:
                (usable if candidate.refusal is None else refused)[node].append((match, candidate))

    def _check_scopes(self, graph: Graph) -> None:
        names = [device.name for device in self.devices]
        for node in graph.nodes:
            scope = node.mark.scope
            if scope is not None and not scope.soft and not any(map(scope.admits, names)):
                raise PlacementError(
                    f"{node.op.name} ({node.source}) is pinned to {scope.device!r}, which is not among the devices to place on: "
                    f"{', '.join(names)}. Name it in devices=..., or let the pin give way: device({scope.device!r}, soft=True)."
                )

    def _follow_soft_scope(self, node: Node, usable: dict[Node, Ways], refused: dict[Node, Ways]) -> None:
        """Where a kernel on the device of a soft scope accepts a node, the others do not compete."""
        scope = node.mark.scope
        if scope is None or not scope.soft:
            return
        if not any(scope.admits(c.device.name) for m, c in usable[node] if len(m.nodes) == 1):
            return
        for match, candidate in usable[node]:
            if not scope.admits(candidate.device.name):
                reason = f"{node.op.name} is wanted on {scope.device} (soft pin)"
                refused[node].append((match, replace(candidate, estimate=None, refusal=reason)))
        usable[node] = [(m, c) for m, c in usable[node] if scope.admits(c.device.name)]

    def _prefer(self, node: Node, usable: dict[Node, Ways], refused: dict[Node, Ways]) -> None:
        """Where the policy prefers some of the single kernels, the others do not compete."""
        singles = [self.policy.preference(c.kernel) for m, c in usable[node] if len(m.nodes) == 1]
        best = min(singles, default=0)
        kept = []
        for match, candidate in usable[node]:
            if len(match.nodes) == 1 and self.policy.preference(candidate.kernel) > best:
                refused[node].append(
                    (match, replace(candidate, estimate=None, refusal="another kernel is preferred"))
                )
            else:
                kept.append((match, candidate))
        usable[node] = kept

    def _candidates(self, call: Call) -> tuple[Candidate, ...]:
        if call not in self._known:
            rows = candidates(call, self.devices, self.registry, self.policy, self.costs, any_layout=True)
            self._known[call] = tuple(
                self._failed(c) if self._is_unavailable(call, c.kernel) else c for c in rows
            )
        return self._known[call]

    def _is_unavailable(self, work: Work, kernel: Kernel) -> bool:
        return (work.title, kernel.id) in self.unavailable

    @staticmethod
    def _failed(candidate: Candidate) -> Candidate:
        return replace(candidate, estimate=None, refusal=candidate.refusal or "it failed in this run")


def _likeness(work: Work) -> object:
    """Equal where the texts of regions are equal, and ten times as fast to make."""
    if isinstance(work, Call):
        return work
    graph = work.graph
    number = {value: position for position, value in enumerate(graph.values())}
    return (
        tuple(name in graph.inputs for name in work.input_names),
        tuple((node.call, *(None if v is None else number[v] for v in node.inputs)) for node in graph.nodes),
        tuple(array.tobytes() for array in graph.constants.values()),
        tuple(number[value] for value in graph.outputs.values()),
    )


def _pinned_elsewhere(match: Match, device: Device) -> str | None:
    """Why a match must not run on a device, by the scopes of its nodes, or None."""
    for node in match.nodes:
        scope = node.mark.scope
        if scope is not None and not scope.soft and not scope.admits(device.name):
            return f"{node.op.name} is pinned to {scope.device} ({node.source})"
    return None


def _no_way(node: Node, refused: Ways) -> str:
    reasons = "; ".join(
        f"{c.kernel.id} on {c.device.name}: {c.refusal}" for m, c in refused if len(m.nodes) == 1
    )
    return (
        f"no kernel can run {node.call} (node {node.name!r}, {node.source}): {reasons or 'no kernel is registered on these devices'}. "
        f"Add a device that can (devices='auto' takes all), or see `opyard kernels {node.op.name}`."
    )

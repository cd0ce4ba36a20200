"""Candidates: every way to run every part of a graph, each accepted with an estimate or refused with a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ..costs import Costs
from ..driver import Device
from ..errors import PlacementError
from ..graph import Graph, Node
from ..kernels import REGIONS, Kernel, Work
from ..operation import Call
from ..ops.arithmetic import identity
from ..registry import Registry, describe_error
from ..selection import Candidate, Policy, candidates, consider
from ..spec import TensorSpec
from .match import Match
from .matching import Index, find_matches
from .nested import Nested, PlaceBody
from .patterns import Pattern
from .regions import Regions, WhyNot
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
        place_body: PlaceBody | None = None,
    ) -> None:
        self.devices = devices
        self.registry = registry
        self.policy = policy
        self.costs = costs
        self.unavailable = set(unavailable)
        self.nested = Nested(registry, policy, costs, place_body) if place_body else None
        self._pins = dict(policy.pins)
        self._known: dict[object, tuple[Candidate, ...]] = {}
        self._several: dict[object, Candidate] = {}

    def ways(self, graph: Graph, wholes: Sequence[Whole]) -> tuple[dict[Node, Ways], dict[Node, Ways]]:
        """For each node the ways to run it, and those that are refused. Raises PlacementError where there is no way."""
        self._check_scopes(graph)
        usable: dict[Node, Ways] = {node: [] for node in graph.nodes}
        refused: dict[Node, Ways] = {node: [] for node in graph.nodes}
        pins = self._pins
        closed: dict[Node, str] = {}
        for whole in wholes:
            match = Match(whole.nodes, whole.inputs, whole.outputs, whole.call)
            self._sort(match, self._candidates(whole.call), usable, refused)
            if whole.call.op.name in pins:
                reason = f"{whole.call.op.name} is pinned to {pins[whole.call.op.name]}"
                closed.update(dict.fromkeys(whole.nodes, reason))
            for node in whole.nodes if pins else ():
                if node.op.name in pins:
                    closed.setdefault(whole.node, f"{node.op.name} is pinned to {pins[node.op.name]}")
        for match, rows in self._pattern_matches(graph, wholes):
            self._sort(match, rows, usable, refused)
        rivals = dict.fromkeys(match for ways in usable.values() for match, _ in ways)
        for match, rows in self._region_matches(graph, wholes, rivals, closed):
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
        devices = [device for device in self.devices if device.backend == kernel.backend]
        return [self._candidate(kernel, match, device) for device in devices]

    def _candidate(self, kernel: Kernel, match: Match, device: Device) -> Candidate:
        """A kernel of several nodes on a device. Equal regions are one object, and are asked about once."""
        key = (kernel, match.work, device)
        if key not in self._several:
            candidate = consider(kernel, match.work, device, self.registry, self.policy, self.costs)
            failed = self._is_unavailable(match.work, kernel)
            self._several[key] = self._failed(candidate) if failed else candidate
        candidate = self._several[key]
        pinned = (self._pinned_away(node, kernel) for node in match.nodes) if self._pins else ()
        if reason := next(filter(None, pinned), None):
            candidate = replace(candidate, estimate=None, refusal=candidate.refusal or reason)
        return candidate

    def _region_matches(
        self, graph: Graph, wholes: Sequence[Whole], rivals: Iterable[Match], closed: dict[Node, str]
    ) -> Iterator[tuple[Match, Sequence[Candidate]]]:
        """The regions of each compiler on each device of its backend; and each node that it does not take, refused."""
        compilers = [
            (k, d) for k in self.registry.region_compilers for d in self.devices if d.backend == k.backend
        ]
        regions = Regions(graph, wholes, rivals if compilers else ())
        for kernel, device in compilers:
            found, reasons = regions.find(self._why_not(kernel, device, closed))
            for match in found:
                yield match, [self._candidate(kernel, match, device)]
            refusals = {reason: Candidate(kernel, device, None, reason) for reason in reasons.values()}
            for node, reason in reasons.items():
                yield Match.single(node), [refusals[reason]]

    def _why_not(self, kernel: Kernel, device: Device, closed: dict[Node, str]) -> WhyNot:
        """Says why a node cannot be a part of a compiler's region on a device, or None."""
        failed = "it failed in this run" if (REGIONS, kernel.id) in self.unavailable else None
        never = self.policy.refusal(REGIONS, kernel) or self.registry.why_aside(REGIONS, kernel) or failed
        claims: dict[Call, str | None] = {}

        def why_not(node: Node) -> str | None:
            elsewhere = _pinned_elsewhere((node,), device) or self._wanted_elsewhere(node, device)
            if reason := never or closed.get(node) or elsewhere or self._pinned_away(node, kernel):
                return reason
            if node.call not in claims:
                reason = kernel.claim_refusal(node.call, device)
                claims[node.call] = reason and f"{kernel.id} does not claim it: {reason}"
            return claims[node.call]

        return why_not

    def _wanted_elsewhere(self, node: Node, device: Device) -> str | None:
        """Says that a soft scope wants a node on another device, on which some kernel takes it, or None."""
        scope = node.mark.scope
        if scope is None or not scope.soft or scope.admits(device.name):
            return None
        there = any(c.refusal is None and scope.admits(c.device.name) for c in self._candidates(node.call))
        return f"{node.op.name} is wanted on {scope.device} (soft pin)" if there else None

    def _pinned_away(self, node: Node, kernel: Kernel) -> str | None:
        """Says that the policy pins the op of a node to another kernel, or None."""
        pinned = self._pins.get(node.op.name)
        return None if pinned in (None, kernel.id) else f"{node.op.name} is pinned to {pinned}"

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
            elsewhere = (
                _pinned_elsewhere(match.nodes, candidate.device) if candidate.refusal is None else None
            )
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
            if call.programs and self.nested is not None:
                rows = tuple(self.nested.candidates(call, self.devices))
            else:
                rows = candidates(call, self.devices, self.registry, self.policy, self.costs, any_layout=True)
            self._known[call] = tuple(
                self._failed(c) if self._is_unavailable(call, c.kernel) else c for c in rows
            )
        return self._known[call]

    def _is_unavailable(self, work: Work, kernel: Kernel) -> bool:
        return (kernel.scope(work), kernel.id) in self.unavailable

    @staticmethod
    def _failed(candidate: Candidate) -> Candidate:
        return replace(candidate, estimate=None, refusal=candidate.refusal or "it failed in this run")


def _pinned_elsewhere(nodes: Iterable[Node], device: Device) -> str | None:
    """Why a match must not run on a device, by the scopes of its nodes, or None."""
    for node in nodes:
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

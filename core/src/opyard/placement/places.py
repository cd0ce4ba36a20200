"""Places: where and how a tensor can lie, and what bringing it from one place to others costs.

A place is an address space with an array type, shared by all devices that can use each other's arrays, and a layout.
Conversions are the copies between address spaces, in the plain layout, and the kernels of the op ``identity`` that
change the layout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..costs import Costs as Prices
from ..driver import Device, shares_arrays
from ..selection import Candidate
from ..spec import TensorSpec
from .network import Costs

NANOSECONDS = 1e9
Sets = list[tuple[int, ...]]


def whole_nanoseconds(seconds: float) -> float:
    """Seconds as a whole number of nanoseconds."""
    return float(np.rint(seconds * NANOSECONDS))


@dataclass(frozen=True, slots=True, eq=False)
class Hop:
    """One conversion to ``place``: a copy between two devices or, with a candidate, a change of layout on one."""

    place: int
    source: Device
    target: Device
    candidate: Candidate | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Ways:
    """For one spec: cheapest nanoseconds between places, the first step of the way, and the single conversions."""

    cost: Costs
    step: npt.NDArray[np.intp]
    hops: dict[tuple[int, int], Hop]


class Places:
    """The places of some devices, numbered from 0; the number ``nowhere`` stands for a tensor that stays inside a kernel.

    layouts      (backend, layout) pairs beside the plain layout
    conversions  gives the candidates that change the layout of a tensor of a spec
    """

    def __init__(
        self,
        devices: Iterable[Device],
        prices: Prices,
        layouts: Iterable[tuple[str, str]] = (),
        conversions: Callable[[TensorSpec], Iterable[Candidate]] = lambda spec: (),
    ) -> None:
        self._prices = prices
        self._conversions = conversions
        self.spaces: list[Device] = []
        """The first device of each address space; the number of a space is that of its place in the plain layout."""
        self._space: dict[Device, int] = {}
        for device in devices:
            self._add(device)
        self._number = {(space, ""): space for space in range(len(self.spaces))}
        for backend, layout in sorted(set(layouts)):
            for space in sorted({s for device, s in self._space.items() if device.backend == backend}):
                self._number.setdefault((space, layout), len(self._number))
        self._space_of = [space for space, _ in self._number]
        self._by_layout = bool(len(self._number) > len(self.spaces))
        self._known: dict[object, _Ways] = {}
        self._delivered: dict[object, Costs] = {}

    def _add(self, device: Device) -> None:
        for number, known in enumerate(self.spaces):
            if shares_arrays(known, device):
                self._space[device] = number
                return
        self._space[device] = len(self.spaces)
        self.spaces.append(device)

    @property
    def nowhere(self) -> int:
        """The number after the last place."""
        return len(self._number)

    def of(self, device: Device, layout: str = "") -> int:
        """The place of a device's arrays in a layout."""
        return self._number[self._space[device], layout]

    def space(self, place: int) -> int:
        """The address space of a place."""
        return self._space_of[place]

    def key(self, spec: TensorSpec) -> object:
        """What conversions of a spec depend on: specs with equal keys have equal costs."""
        return spec if self._by_layout else spec.nbytes

    def table(self, spec: TensorSpec) -> Costs:
        """Nanoseconds ``[from, to]`` of the cheapest ways. From nowhere nothing can be brought; to nowhere is free."""
        key = (self.key(spec), "table")
        if key not in self._delivered:
            whole = np.zeros((self.nowhere + 1, self.nowhere + 1))
            whole[:-1, :-1] = self._ways(spec).cost
            whole[-1, :-1] = np.inf
            self._delivered[key] = whole
        return self._delivered[key]

    def route(self, spec: TensorSpec, sources: Iterable[int], target: int) -> tuple[int, list[Hop]]:
        """The cheapest way to a place from any of those where the tensor already is: where it starts, and its steps."""
        ways = self._ways(spec)
        start = at = min(sources, key=lambda place: (ways.cost[place, target], place))
        hops = []
        while at != target:
            hops.append(ways.hops[at, int(ways.step[at, target])])
            at = hops[-1].place
        return start, hops

    def seconds(self, spec: TensorSpec, hop: Hop) -> float:
        """What one conversion on a cheapest way takes."""
        return float(self._ways(spec).cost[self.of(hop.source), hop.place]) / NANOSECONDS

    def deliveries(self, spec: TensorSpec, wanted: list[int], sets: Sets) -> Costs:
        """Nanoseconds ``[from, set]`` of bringing a tensor to all ``wanted`` places that a set names by their index.

        Steps on the way are paid for once, whatever they lead to. Source: S. Dreyfus and R. Wagner, "The Steiner problem
        in graphs", Networks 1 (1971). The set of all places, where it is larger than its neighbours, is priced way by way.
        """
        key = (self.key(spec), tuple(wanted), len(sets))
        if key not in self._delivered:
            cost = self._ways(spec).cost
            known: dict[tuple[int, ...], Costs] = {(): np.zeros(len(cost))}
            for places in sorted(sets, key=len):
                if places not in known:
                    known[places] = _tree(cost, wanted, places, known)
            table = np.stack([known[places] for places in sets], axis=1)
            beyond = np.array([[np.inf if places else 0.0 for places in sets]])
            self._delivered[key] = np.concatenate([table, beyond])  # from nowhere nothing can be brought
        return self._delivered[key]

    def _ways(self, spec: TensorSpec) -> _Ways:
        key = self.key(spec)
        if key not in self._known:
            self._known[key] = self._find_ways(spec)
        return self._known[key]

    def _find_ways(self, spec: TensorSpec) -> _Ways:
        """Source of the all-pairs step: R. W. Floyd, "Algorithm 97: shortest path", Communications of the ACM 5 (1962)."""
        count = len(self._number)
        cost = np.full((count, count), np.inf)
        np.fill_diagonal(cost, 0.0)
        hops: dict[tuple[int, int], Hop] = {}
        for number, hop, seconds in self._direct(spec):
            nanoseconds = whole_nanoseconds(seconds)
            if nanoseconds < cost[number, hop.place]:
                cost[number, hop.place], hops[number, hop.place] = nanoseconds, hop
        step = np.broadcast_to(np.arange(count), (count, count)).copy()
        for middle in range(count):
            through = cost[:, middle, None] + cost[None, middle, :]
            better = through < cost
            cost = np.where(better, through, cost)
            step = np.where(better, step[:, middle, None], step)
        return _Ways(cost, step, hops)

    def _direct(self, spec: TensorSpec) -> Iterable[tuple[int, Hop, float]]:
        for i, source in enumerate(self.spaces):
            for j, target in enumerate(self.spaces):
                if i != j:
                    yield (
                        i,
                        Hop(j, source, target),
                        self._prices.transfer_seconds(source, target, spec.nbytes),
                    )
        for candidate in self._conversions(spec) if self._by_layout else ():
            kernel, device = candidate.kernel, candidate.device
            start = self._number.get((self._space[device], kernel.layouts.get("x", "")))
            end = self._number.get((self._space[device], kernel.output_layout(0)))
            if start is not None and end is not None and candidate.refusal is None:
                yield start, Hop(end, device, device, candidate), candidate.seconds


def _tree(
    cost: Costs, wanted: list[int], places: tuple[int, ...], known: dict[tuple[int, ...], Costs]
) -> Costs:
    """The cheapest tree from each place to all of ``places``, given those to smaller sets."""
    if len(places) == 1:
        return cost[:, wanted[places[0]]]
    best = np.full(len(cost), np.inf)
    for bits in range(1, 2 ** (len(places) - 1)):  # each split of the set in two
        part = tuple(p for i, p in enumerate(places) if bits >> i & 1)
        rest = tuple(p for i, p in enumerate(places) if not bits >> i & 1)
        if part not in known or rest not in known:
            return np.asarray(cost[:, [wanted[p] for p in places]].sum(axis=1), np.float64)
        best = np.minimum(best, known[part] + known[rest])
    joined: Costs = np.min(cost + best[None, :], axis=1)
    return joined

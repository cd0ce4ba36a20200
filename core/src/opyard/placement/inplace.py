"""Measuring in place: whole plans are run, and what their steps took there replaces what kernels took by themselves.

The best plan by what is known is run, then what is known is corrected by its steps, and so on, until the best plan is one
that was run already. Kernels that no plan has used yet are believed to be as fast as they were by themselves, so a plan
that looks better is always tried. The best plan on each single device is tried first, and the best of all is run once
more: of several times that are uncertain, the least is more often too low than too high.

A plan takes more than its parts by themselves, for its arrays come from memory, and other programs run beside it. So once a plan ran,
estimates of kernels that nobody measured are multiplied with what it took over its prediction: else they would look better for
being unknown. Where the time is up before the plan that looks best was run, what no plan ran is believed to take the most that it may.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ..driver import Device
from ..kernels import Kernel, Work
from ..units import format_seconds
from .bounds import Arm, Bounds, Key
from .identity import describe_kernel, describe_work
from .measured import TRANSFER_BYTES, MeasuredCosts, transfer_key
from .model import Placement
from .store import SCALED, Measurement

MOST_PLANS = 12
LATE_ROUNDS = 1
"""Rounds at least, where they take longer than there is time: runs of seconds differ little."""

LATE_RUNS = 1 + 2 * LATE_ROUNDS
"""How often a placement is run then: as a whole and step by step, and as a whole once before."""


@dataclass(frozen=True, slots=True, eq=False)
class StepTime:
    """Seconds of a step in its plan: of a kernel on ``device``, or of a copy of ``nbytes`` to it from ``source``.

    A branch or loop has neither kernel nor source: what is inside is not timed by itself.
    """

    seconds: float
    work: Work | None
    kernel: Kernel | None
    device: Device
    source: Device | None = None
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Seconds of a run of a plan, from the medians of ``rounds``, and of its steps, which add up to it."""

    seconds: float
    rounds: int
    steps: tuple[StepTime, ...]


@dataclass(frozen=True, slots=True)
class PlanTime:
    """For the report: the devices that a plan used, what was predicted when it was tried, and what it took."""

    devices: tuple[str, ...]
    predicted: float
    seconds: float

    def __str__(self) -> str:
        return f"{' and '.join(self.devices)}: {format_seconds(self.seconds)}, predicted {format_seconds(self.predicted)}"


Rehearse = Callable[[Placement, float], Rehearsal]
"""Runs a placement for about so many seconds."""


@dataclass(slots=True)
class Trials:
    """The plans that were run, and what the store is told about their steps.

    scales  for each device what kernels take over their estimates: at first by themselves, then in the first plan on it
    """

    costs: MeasuredCosts
    report: list[PlanTime] = field(default_factory=list)
    scales: dict[str, float] = field(default_factory=dict)
    _in_place: dict[str, float] = field(default_factory=dict)
    _known: dict[object, Rehearsal] = field(default_factory=dict)
    _runs: Counter[object] = field(default_factory=Counter)

    def runs(self, placement: Placement) -> int:
        """How often this plan was run already."""
        return self._runs[_signature(placement)]

    def add(self, placement: Placement, found: Rehearsal) -> None:
        """Takes the times of a plan over into the store, in place of those of an earlier run of it."""
        decisions = (decision for part in placement.with_bodies() for decision in part.decisions)
        used = tuple(sorted({decision.chosen.device.name for decision in decisions}))
        self.report.append(PlanTime(used, placement.makespan, found.seconds))
        self._scale(found)
        self._known[_signature(placement)] = found
        self._runs[_signature(placement)] += 1
        best = min(self._known.values(), key=lambda known: known.seconds)
        means = _means(best)
        self._put(best, means)
        self._put_copies(best)
        for other in self._known.values():
            if other is not best:
                self._put(other, _without_shared(other, means, self.costs))

    def keep_estimates(self, arms: Iterable[Arm], is_sure: bool) -> None:
        """Keeps what is believed of kernels that no plan ran; unless that ``is_sure``, the most that they may take."""
        ran = {_key(step) for known in self._known.values() for step in known.steps}
        for arm in arms:
            is_measured = arm.estimate.source == "measured"
            if arm.key in ran or (is_measured and is_sure):
                continue
            scale = max(1.0, self._in_place.get(arm.device.name, 1.0)) if is_measured else 1.0
            seconds = arm.estimate.seconds if is_sure else arm.high * scale
            self.costs.store.put(*arm.key[:2], arm.device, Measurement(seconds, verdict=SCALED))

    def _scale(self, rehearsal: Rehearsal) -> None:
        took, believed = defaultdict[str, float](float), defaultdict[str, float](float)
        costs = Bounds(self.costs, scales=self.scales)
        for step in rehearsal.steps:
            if step.work is not None and step.kernel is not None:
                name = step.device.name
                took[name] += step.seconds
                believed[name] += costs.kernel_seconds(step.kernel, step.work, step.device).seconds
        for name, seconds in took.items():
            if believed[name] > 0 and name not in self._in_place:
                self._in_place[name] = seconds / believed[name]
                self.scales[name] = self.scales.get(name, 1.0) * self._in_place[name]

    def _put(self, rehearsal: Rehearsal, means: Mapping[Key, float]) -> None:
        for step in rehearsal.steps:
            key = _key(step)
            if key in means and step.kernel is not None:
                measured = Measurement(means[key], 0.0, rehearsal.rounds)
                self.costs.store.put(key[0], key[1], step.device, measured)

    def _put_copies(self, rehearsal: Rehearsal) -> None:
        """Shifts the times of copies between two devices by what they were off on the whole."""
        pairs: dict[tuple[Device, Device], list[StepTime]] = {}
        for step in rehearsal.steps:
            if step.source is not None:
                pairs.setdefault((step.source, step.device), []).append(step)
        for (source, target), steps in pairs.items():
            known = [self.costs.transfer_seconds(source, target, step.nbytes) for step in steps]
            shift = (sum(step.seconds for step in steps) - sum(known)) / len(steps)
            ends = [self.costs.transfer_seconds(source, target, size) for size in TRANSFER_BYTES]
            for size, seconds in zip(TRANSFER_BYTES, ends, strict=True):
                measured = Measurement(max(0.0, seconds + shift), 0.0, rehearsal.rounds)
                self.costs.store.put(*transfer_key(target, size), source, measured)


def _signature(placement: Placement) -> object:
    return tuple(
        (tuple(node.name for node in d.match.nodes), d.chosen.kernel.id, d.chosen.device.name)
        for part in placement.with_bodies()
        for d in part.decisions
    )


def _key(step: StepTime) -> Key:
    if step.work is None or step.kernel is None:
        return ("", "", "")
    return describe_work(step.work), describe_kernel(step.kernel), step.device.name


def _means(rehearsal: Rehearsal) -> dict[Key, float]:
    """Mean seconds of each kernel with its work."""
    times: dict[Key, list[float]] = {}
    for step in rehearsal.steps:
        if step.kernel is not None:
            times.setdefault(_key(step), []).append(step.seconds)
    return {key: sum(found) / len(found) for key, found in times.items()}


def _without_shared(other: Rehearsal, best: Mapping[Key, float], costs: MeasuredCosts) -> dict[Key, float]:
    """What to believe about the kernels of a slower plan that the best one does not use.

    Its other kernels are believed as fast as in the best plan. If they were slower here, that is put down to these.
    """
    own = {key: seconds for key, seconds in _means(other).items() if key not in best}
    predicted = rest = 0.0
    for step in other.steps:
        key = _key(step)
        if step.kernel is None and step.source is None:
            predicted += step.seconds
        elif step.source is not None:
            predicted += costs.transfer_seconds(step.source, step.device, step.nbytes)
        elif key in best:
            predicted += best[key]
        else:
            rest += own[key]
    scale = max(1.0, (other.seconds - predicted) / rest) if rest else 1.0
    return {key: seconds * scale for key, seconds in own.items()}

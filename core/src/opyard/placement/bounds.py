"""What is known about costs as intervals, and the two placements whose difference is worth measuring.

Source of the rule: S. Chen, T. Lin, I. King, M. Lyu, W. Chen, "Combinatorial Pure Exploration of Multi-Armed Bandits",
NIPS 2014 (the algorithm CLUCB): take the plan that is best by what is believed; then the plan that is best when every
kernel of that plan is as slow as it may be and every other kernel as fast. While the two differ, only the kernels in which
they differ can change the decision. This sees joint changes, such as moving a chain of ops to another device.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..costs import Estimate
from ..driver import Device
from ..kernels import Kernel, Work
from .identity import describe_kernel, describe_work
from .measured import MeasuredCosts
from .measuring import LEAST_ROUNDS
from .model import Placement
from .store import SCALED

PRIOR_FACTOR = 4.0
"""An estimate that nobody measured may be wrong by this factor, either way."""

FEW_ROUNDS_FACTOR = 1.5
"""The same for a median of fewer rounds than make a range between quartiles meaningful."""

KNOWN = ("measured", SCALED)
"""Sources of estimates that are on the scale of what was measured."""


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """A kernel on a device for some work: what can be measured. ``low`` and ``high`` are the seconds it may take."""

    work: Work
    kernel: Kernel
    device: Device
    estimate: Estimate
    low: float
    high: float

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells arms of different placements apart."""
        return describe_work(self.work), describe_kernel(self.kernel), self.device.name


Key = tuple[str, str, str]


class Bounds:
    """Costs that remember what they were asked, and answer with bounds instead of estimates where that is wanted.

    slow     arms that are given at their upper bound, and all others at their lower; None: everything as believed
    only     arms that may be used, and no others; None: all
    without  arms that may not be used, with the reason
    device   the name of the only device that may be used; None: all
    scales   what estimates of kernels are multiplied with that nobody measured, by the names of devices
    """

    def __init__(
        self,
        costs: MeasuredCosts,
        *,
        slow: Collection[Key] | None = None,
        only: Collection[Key] | None = None,
        without: dict[Key, str] | None = None,
        device: str | None = None,
        scales: Mapping[str, float] | None = None,
    ) -> None:
        self._costs = costs
        self._slow = slow
        self._only = only
        self._without = without or {}
        self._device = device
        self._scales = scales or {}
        self.arms: dict[Key, Arm] = {}
        self.conversions: dict[Key, Arm] = {}
        self.pairs: set[tuple[Device, Device]] = set()

    def kernel_seconds(self, kernel: Kernel, call: Work, device: Device) -> Estimate:
        """The bound, the estimate, or the refusal."""
        believed = self._costs.kernel_seconds(kernel, call, device)
        if believed.refusal or not believed.seconds >= 0:
            return believed
        if believed.source not in KNOWN:
            seconds = believed.seconds * self._scales.get(device.name, 1.0)
            believed = Estimate(seconds, believed.source)
        arm = Arm(call, kernel, device, believed, *self._interval(kernel, call, device, believed))
        key = arm.key
        if kernel.layouts and call.title == "identity":  # a change of layout, which no decision names
            self.conversions[key] = arm
            return believed
        if key in self._without:
            return Estimate(float("inf"), believed.source, self._without[key])
        if self._device not in (None, device.name):
            return Estimate(float("inf"), believed.source, f"only {self._device} is looked at")
        if self._only is not None and key not in self._only:
            return Estimate(float("inf"), believed.source, "not a part of the plan that is priced")
        seconds = believed.seconds
        if self._slow is not None:
            seconds = arm.high if key in self._slow else arm.low
        self.arms[key] = arm
        return Estimate(seconds, believed.source)

    def transfer_seconds(self, source: Device, target: Device, nbytes: float) -> float:
        """As believed."""
        self.pairs.add((source, target))
        return self._costs.transfer_seconds(source, target, nbytes)

    def chosen(self, placement: Placement) -> dict[Key, Arm]:
        """The arms that a placement uses, which was made with these costs."""
        keys = (
            (describe_work(d.match.work), describe_kernel(d.chosen.kernel), d.chosen.device.name)
            for part in placement.with_bodies()
            for d in part.decisions
        )
        return {key: self.arms[key] for key in keys if key in self.arms}

    def _interval(
        self, kernel: Kernel, work: Work, device: Device, believed: Estimate
    ) -> tuple[float, float]:
        found = self._costs.measurement(kernel, work, device)
        if found is None or found.verdict == SCALED:
            return believed.seconds / PRIOR_FACTOR, believed.seconds * PRIOR_FACTOR
        if found.rounds < LEAST_ROUNDS:
            return found.seconds / FEW_ROUNDS_FACTOR, found.seconds * FEW_ROUNDS_FACTOR
        return max(0.0, found.seconds - found.spread), found.seconds + found.spread

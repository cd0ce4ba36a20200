"""Costs: estimated seconds of kernels and transfers, behind the interface that measured costs share."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import NamedTuple, Protocol

from .driver import Capabilities, Device, shares_arrays
from .kernels import Kernel, Work, resolve


class Estimate(NamedTuple):
    """Seconds of one call, and where the number comes from: "roofline", "kernel", "measured", or "scaled", an estimate times what
    whole plans took over theirs.

    refusal  why the kernel must not be chosen at all, as a sentence; empty when it may
    """

    seconds: float
    source: str
    refusal: str = ""


class Costs(Protocol):
    """What placement asks."""

    def kernel_seconds(self, kernel: Kernel, work: Work, device: Device) -> Estimate:
        """Time of one call of an accepted kernel."""

    def transfer_seconds(self, source: Device, target: Device, nbytes: float) -> float:
        """Time to make an array of one device an array of the other."""


class Roofline:
    """The prior: work over peak, or bytes over bandwidth, whichever is longer, over the kernel's efficiency, plus the launch.

    Source: Williams, Waterman, Patterson, "Roofline", Communications of the ACM 52 (2009).

    capabilities  gives the numbers of a device; its own unless given
    """

    def __init__(self, capabilities: Callable[[Device], Capabilities] = attrgetter("capabilities")) -> None:
        self._capabilities = capabilities

    def kernel_seconds(self, kernel: Kernel, work: Work, device: Device) -> Estimate:
        """The kernel's own estimate if it has one, else the roofline."""
        if kernel.cost is not None:
            return Estimate(float(resolve(kernel.cost)(work, device)), "kernel")
        can, (flops, nbytes) = self._capabilities(device), work.cost
        return Estimate(
            max(flops / can.flops, nbytes / can.bandwidth) / kernel.efficiency + can.launch_seconds,
            "roofline",
        )

    def transfer_seconds(self, source: Device, target: Device, nbytes: float) -> float:
        """Nothing between devices that share arrays, else the fixed times of both plus the bytes at the slower rate."""
        if shares_arrays(source, target):
            return 0.0
        a, b = self._capabilities(source), self._capabilities(target)
        if source.memory == target.memory:
            return max(a.wrap_seconds, b.wrap_seconds)
        hops = [c for c, d in ((a, source), (b, target)) if d.memory != "host"]
        return sum(c.transfer_seconds + nbytes / c.transfer_bandwidth for c in hops)

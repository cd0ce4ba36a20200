"""MeasuredCosts: what was measured on this machine, and the roofline for all else."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from .. import settings
from ..costs import Estimate, Roofline
from ..driver import Capabilities, Device, shares_arrays
from ..kernels import Kernel, Work
from .identity import describe_kernel, describe_work, fingerprint
from .store import FILE, SCALED, WRONG, CostStore, Measurement

TRANSFER_BYTES = (1 << 12, 1 << 24)
"""Transfers are measured at two sizes; a line through both gives all others."""


class MeasuredCosts:
    """Costs out of a store: "measured" or "scaled" where there is a row, else the roofline of the measured or declared capabilities.

    A kernel that was recorded as wrong on this machine is refused with that sentence.
    """

    def __init__(self, store: CostStore) -> None:
        self.store = store
        self._prior = Roofline(self._capabilities)
        self._memo: dict[Any, Any] = {}
        self._version = store.version

    def kernel_seconds(self, kernel: Kernel, call: Work, device: Device) -> Estimate:
        """The median that was measured, else the prior."""
        found = self.measurement(kernel, call, device)
        if found is None:
            work: Any = call
            return self._prior.kernel_seconds(kernel, work, device)
        if found.verdict == WRONG:
            return Estimate(float("inf"), "measured", wrong_sentence(found.reason))
        return Estimate(found.seconds, SCALED if found.verdict == SCALED else "measured")

    def transfer_seconds(self, source: Device, target: Device, nbytes: float) -> float:
        """By the line through the measured sizes, else the prior."""
        if shares_arrays(source, target):
            return 0.0
        small, large = (self.transfer_measurement(source, target, size) for size in TRANSFER_BYTES)
        if small is None or large is None:
            return self._prior.transfer_seconds(source, target, nbytes)
        low, high = TRANSFER_BYTES
        slope = max(0.0, large.seconds - small.seconds) / (high - low)
        return small.seconds + slope * max(0.0, nbytes - low)

    def measurement(self, kernel: Kernel, work: Work, device: Device) -> Measurement | None:
        """The row of a kernel, or None."""
        if not self.store.is_there:
            return None
        return self.store.get(describe_work(work), describe_kernel(kernel), device)

    def transfer_measurement(self, source: Device, target: Device, nbytes: int) -> Measurement | None:
        """The row of a transfer of this size, or None."""
        found: Measurement | None = self._remembered(
            (source, target, nbytes), lambda: self.store.get(*transfer_key(target, nbytes), source)
        )
        return found

    def doubts(self, kernel: Kernel) -> bool:
        """Whether a kernel of an op was recorded as wrong for any work, so that it must be looked at call by call."""
        if not self.store.is_there:
            return False

        def look() -> set[tuple[str, str]]:
            return {(name, work.partition("(")[0]) for name, work, _ in self.store.wrong()}

        return (describe_kernel(kernel), kernel.op) in self._remembered(("wrong",), look)

    def _capabilities(self, device: Device) -> Capabilities:
        found: Capabilities = self._remembered(
            (device,), lambda: self.store.capabilities(device) or device.capabilities
        )
        return found

    def _remembered(self, key: tuple[Any, ...], look: Any) -> Any:
        """What ``look`` gives, asked once until this process changes the store or the number of threads."""
        if self._version != self.store.version:
            self._memo, self._version = {}, self.store.version
        whole = (settings.num_threads(), *key)
        if whole not in self._memo:
            self._memo[whole] = look()
        return self._memo[whole]


def transfer_key(target: Device, nbytes: int) -> tuple[str, str]:
    """Work and kernel, for the store, of a transfer to ``target``."""
    return f"transfer of {nbytes} bytes", f"transfer to {target.name} {fingerprint(target)}"


def wrong_sentence(reason: str) -> str:
    """Why a kernel is refused that disagreed with the reference, and what to do after a repair."""
    return f"wrong on this machine: {reason}; after a repair raise the kernel's version, or forget it: opyard costs --clear"


_lock = threading.Lock()
_default: dict[Path, MeasuredCosts] = {}


def default_costs() -> MeasuredCosts:
    """The costs of sessions that are given none: one for each cache folder and process. It opens nothing by itself."""
    path = settings.cache_dir() / FILE
    found = _default.get(path)
    if found is None:
        with _lock:
            found = _default.setdefault(path, MeasuredCosts(CostStore(path)))
    return found

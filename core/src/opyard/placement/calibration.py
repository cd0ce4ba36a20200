"""Calibration: the capabilities of a device as they are, measured with its own kernels and copies in a few seconds.

Other programs only ever make a try slower, and on a busy machine most tries of a kernel that waits for all processors are
slow. So all numbers are tried in turns, round after round, spread over the time there is, and of each the best try counts;
of the operations the median of the tries near the best, for the very best depends on the clock of a moment, and of the
bandwidth the first quartile, for in some tries a cache happens to hold a part of the arrays.
Where even the best tries of a number disagree, nobody knows what the device can do, and nothing is kept.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from statistics import median
from typing import Any

import numpy as np

from ..driver import HOST, Capabilities, Device
from ..kernels import Kernel
from ..operation import Call
from ..registry import REFERENCE, Registry
from ..selection import active_policy
from ..spec import TensorSpec
from .measuring import BATCH_SECONDS, MOST_CALLS, Batch, make_start
from .store import CostStore, CostsWarning

LEAST_BUDGET, MOST_BUDGET = 0.01, 10.0
GROWTH_SHARE, LEAST_SHARE = 0.4, 0.7
"""Parts of the time: for finding the sizes to try, and until tries that agree may end it."""

FIRST_TRIES, LEAST_ROUNDS = 3, 2
AGREEING = 3
"""As many of the best tries of a number have to agree."""

RATES = ("flops", "bandwidth")
QUARTILE, NEAR = 0.25, 1.1

LOSS = 0.5
"""Wide matrix products that reach less than this part of the best rate were disturbed."""

SETTLED, SCATTERED = 1.03, 1.25
"""They agree when the worst of them is slower than the best by no more than the first; beyond the second they scatter."""

SMALL, LARGE = 1 << 4, 1 << 24
"""Elements of the arrays that show the fixed times, and, where the budget allows, the bandwidths."""

LEAST_ELEMENTS = 1 << 12
LEAST_WIDTH, SURE_WIDTH, MOST_WIDTH = 64, 512, 8192
"""Widths of matrix products; those up to the second, some milliseconds each, are measured even beyond the budget."""

GROWTH = 4
LONGEST_TRY = 0.02
"""Seconds: sizes grow while a try takes less. Short tries are many, and find the moments when nobody disturbs them."""


@dataclass(slots=True)
class Probe:
    """Something that is tried again and again: kernels of one call, or a copy there and back. ``work`` is what one try does.

    batches  each with a factor: a kernel that reaches a tenth of the peak would take a tenth of its time at the peak
    whole    whether a try is the sum of the batches and not the best of them
    lucky    the part of the tries that is not believed, because they were quicker than they should be
    near     of the tries that take up to so many times the best one, the median counts
    spent    seconds of all tries together
    """

    work: float
    batches: Sequence[tuple[Batch, float]]
    whole: bool = False
    lucky: float = 0.0
    near: float = 1.0
    tries: list[float] = field(default_factory=list)
    spent: float = 0.0

    def warm(self) -> None:
        """Settles the sizes of the batches, and tries some times."""
        for batch, _ in self.batches:
            batch.warm()
        for _ in range(FIRST_TRIES):
            self.attempt()

    def attempt(self) -> None:
        """One try."""
        begin = time.perf_counter()
        for batch, _ in self.batches:
            batch.sample()
        self.spent += time.perf_counter() - begin
        seconds = [batch.samples[-1] * factor for batch, factor in self.batches]
        self.tries.append(sum(seconds) if self.whole else min(seconds))

    @property
    def seconds(self) -> float:
        """What a try takes if nobody disturbs it."""
        tries = sorted(self.tries)
        best = tries[int(self.lucky * len(tries))]
        return max(median(seconds for seconds in tries if best <= seconds <= self.near * best), 1e-12)

    @property
    def rate(self) -> float:
        """Work per second in such a try."""
        return self.work / self.seconds

    @property
    def scatter(self) -> float:
        """How much slower the worst of the best tries is than the best; where some are not believed, than half as many leave."""
        rank, tries = int(self.lucky * len(self.tries)), sorted(self.tries)
        return tries[rank] / tries[rank // 2] if rank else tries[:AGREEING][-1] / max(tries[0], 1e-12)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured of a device, and a sentence for each number whose best tries disagree."""

    capabilities: Capabilities
    doubts: tuple[str, ...] = ()


def calibrate(device: Device, registry: Registry, budget_seconds: float = MOST_BUDGET) -> Calibration:
    """Measures a device: the start of a kernel, bandwidth by ``add``, float32 operations by ``matmul``, and copies.

    What cannot be measured stays as the device declares it: where it has no such kernel, where a copy is none because its
    arrays are the host's, and all of the reference, whose kernels have no rate in common. ``budget_seconds`` is at
    most 10 and is kept to within some rounds of tries.
    """
    declared = device.capabilities
    if device.backend == REFERENCE:
        return Calibration(declared)
    begin = time.perf_counter()
    budget = min(max(budget_seconds, LEAST_BUDGET), MOST_BUDGET)
    probes: dict[str, list[Probe]] = {}
    parts = (_copies, _launch, _stream, _multiply)
    for number, part in enumerate(parts, start=1):
        deadline = begin + GROWTH_SHARE * budget * number / len(parts)
        for name, probe in part(device, registry, deadline):
            probes.setdefault(name, []).append(probe)
    _repeat(probes, begin + LEAST_SHARE * budget, begin + budget)
    return Calibration(replace(declared, **_numbers(probes)), tuple(_doubts(probes)))


def _repeat(probes: dict[str, list[Probe]], least: float, deadline: float) -> None:
    """Tries everything some times more, and then until all best tries agree, but not before ``least``, or until the deadline.

    Next is what has taken the least time so far: what takes long when others disturb it must not keep the rest from its turn.
    """
    flat = [probe for found in probes.values() for probe in found]
    for probe in flat * LEAST_ROUNDS:
        probe.attempt()
    while flat and (now := time.perf_counter()) < deadline:
        if now > least and all(probe.scatter <= SETTLED for probe in flat):
            return
        min(flat, key=attrgetter("spent")).attempt()


def calibrated(
    device: Device, store: CostStore, registry: Registry, budget_seconds: float = MOST_BUDGET
) -> Capabilities:
    """The capabilities that the store has of the device; measured, and kept there, if it has none.

    What scatters is not kept: a CostsWarning says so, and what the device declares is given.
    """
    found = store.capabilities(device)
    if found is not None:
        return found
    measured = calibrate(device, registry, budget_seconds)
    if refusal := keep(device, store, measured):
        warnings.warn(refusal, CostsWarning, stacklevel=2)
        return device.capabilities
    return measured.capabilities


def keep(device: Device, store: CostStore, measured: Calibration) -> str:
    """Keeps what was measured, and gives an empty text; or the sentence why not, where tries scatter."""
    if measured.doubts:
        return f"{device.name} was not calibrated, because other programs use it ({'; '.join(measured.doubts)}); what it declares is used. Try again on a quiet machine."
    store.put_capabilities(device, measured.capabilities)
    return ""


def _best(probes: Sequence[Probe]) -> Probe:
    """The probe with the highest rate."""
    return max(probes, key=attrgetter("rate"))


def _doubts(probes: dict[str, list[Probe]]) -> Iterator[str]:
    """What is wrong with the rates: tries that scatter, or products that, against all experience, lose speed as they grow."""
    for name in RATES:
        scatter = _best(probes[name]).scatter if name in probes else 1.0
        if scatter > SCATTERED:
            yield f"{name}: the best tries differ by {100 * (scatter - 1):.0f} %"
    products = probes.get("flops", [])
    if products and products[-1].rate < LOSS * _best(products).rate:
        yield "flops: wide matrix products are slower than narrow ones"


def _numbers(probes: dict[str, list[Probe]]) -> dict[str, Any]:
    """The measured capabilities by name."""
    found: dict[str, Any] = {}
    for name in RATES:
        if name in probes:
            found[name] = _best(probes[name]).rate
    for name in ("launch_seconds", "wrap_seconds", "transfer_seconds"):
        if name in probes:
            found[name] = probes[name][0].seconds
    for probe in probes.get("transfer_bandwidth", ()):
        moving = probe.seconds - found["transfer_seconds"]
        if moving > 0:
            found["transfer_bandwidth"] = max(probe.work / moving, found.get("transfer_bandwidth", 0.0))
    return found


Found = Iterator[tuple[str, Probe]]


def _launch(device: Device, registry: Registry, deadline: float) -> Found:
    probe = _kernels("add", (SMALL,), (SMALL,), device=device, registry=registry)
    if probe is not None:
        yield "launch_seconds", probe


def _stream(device: Device, registry: Registry, deadline: float) -> Found:
    """Additions of more and more elements. The largest arrays count: how much of others a cache holds differs from moment to moment."""

    def make(elements: int) -> Probe | None:
        probe = _kernels("add", (elements,), (elements,), device=device, registry=registry)
        if probe is not None:
            probe.work, probe.lucky = 4.0 * 3 * elements, QUARTILE
        return probe

    yield from [("bandwidth", probe) for probe in _long_enough(make, 3, device, deadline)][-1:]


def _multiply(device: Device, registry: Registry, deadline: float) -> Found:
    """Matrix products, wider and wider until one takes long enough; one for each try.

    All threads of a product wait for each other. Where other programs hold one of them up, the more products there are in a
    try, the less likely it is that none of them has to wait.
    """
    width = LEAST_WIDTH
    while width <= MOST_WIDTH and _fits(device, 4 * 3 * width**2):
        probe = _kernels(
            "matmul", (width, width), (width, width), device=device, registry=registry, most_calls=1
        )
        if probe is None:
            return
        probe.work, probe.near = 2.0 * width**3, NEAR
        yield "flops", probe
        width *= 2
        if width > SURE_WIDTH and _ends(8 * probe.seconds, deadline):
            return


def _copies(device: Device, registry: Registry, deadline: float) -> Found:
    """Copies of few and of many bytes, both ways; in the host's memory the time to take an array over."""
    if device.array_type is np.ndarray and device.memory == HOST:
        return
    small = _there_and_back(device, SMALL)
    if device.memory == HOST:
        yield "wrap_seconds", small
        return
    yield "transfer_seconds", small

    def make(elements: int) -> Probe:
        probe = _there_and_back(device, elements)
        probe.work = 4.0 * (elements - SMALL)
        return probe

    yield from (("transfer_bandwidth", probe) for probe in _long_enough(make, 1, device, deadline))


def _long_enough(
    make: Callable[[int], Probe | None], arrays: int, device: Device, deadline: float
) -> Iterator[Probe]:
    """Probes of more and more elements, of those that take as long as a batch, or else the last.

    For copies all of them count, because their rates differ: the largest arrays get their memory anew from the system at each
    try. Devices for which none is long enough are so fast that all but the largest may lie in a cache.

    arrays  of so many elements that a try needs
    """
    last, elements = None, LEAST_ELEMENTS
    while elements <= LARGE and _fits(device, 4 * arrays * elements):
        last = make(elements)
        if last is None or _ends(GROWTH * last.seconds, deadline):
            break
        if last.seconds >= BATCH_SECONDS:
            yield last
            last = None
        elements *= GROWTH
    if last is not None:
        yield last


def _there_and_back(device: Device, elements: int) -> Probe:
    """One copy: the mean of an upload and a download."""
    array = np.zeros(elements, np.float32)
    native = device.upload(array)
    ways = (Batch(lambda: device.upload(array), device), Batch(lambda: device.download(native), device))
    probe = Probe(1.0, [(way, 0.5) for way in ways], whole=True)
    probe.warm()
    return probe


def _kernels(
    op: str,
    *shapes: tuple[int, ...],
    device: Device,
    registry: Registry,
    most_calls: int = MOST_CALLS,
) -> Probe | None:
    """All kernels of an op on the device; None if there is none.

    The roofline divides by the efficiency of a kernel, so the peak is what a kernel of efficiency 1 would reach.
    """
    call = registry.get_op(op).call(*(TensorSpec(shape) for shape in shapes))
    arrays = [np.ones(shape, np.float32) for shape in shapes]
    batches = []
    for kernel in registry.kernels(op):
        if kernel.backend == device.backend and _usable(kernel, call, device, registry):
            try:
                start = make_start(kernel, call, device, arrays, registry)
                start()
            except Exception:  # it will be met again, with its reason, where it is used
                continue
            batches.append((Batch(start, device, most_calls=most_calls), kernel.efficiency))
    if not batches:
        return None
    probe = Probe(1.0, batches)
    probe.warm()
    return probe


def _ends(seconds: float, deadline: float) -> bool:
    """Whether tries of so many seconds are too long, or there is no time for the first of them."""
    return seconds > LONGEST_TRY or time.perf_counter() + 2 * FIRST_TRIES * seconds > deadline


def _usable(kernel: Kernel, call: Call, device: Device, registry: Registry) -> bool:
    refused = active_policy().refusal(call.op.name, kernel) or registry.why_aside(call.op.name, kernel)
    return refused is None and not kernel.layouts and kernel.refusal(call, device) is None


def _fits(device: Device, nbytes: int) -> bool:
    """Whether arrays of so many bytes leave most of the device's free memory to others."""
    memory = device.memory_info()
    return memory is None or nbytes <= memory[0] / 4

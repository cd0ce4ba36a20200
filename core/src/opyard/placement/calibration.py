"""Calibration: the capabilities of a device as they are, measured with its own kernels and copies in a few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..driver import HOST, Capabilities, Device
from ..kernels import Kernel
from ..operation import Call
from ..registry import REFERENCE, Registry
from ..selection import active_policy
from ..spec import TensorSpec
from .measuring import Batch, make_start
from .store import CostStore

LEAST_BUDGET, MOST_BUDGET = 0.01, 10.0
ROUNDS = 7
SMALL, LARGE = 1 << 4, 1 << 24
"""Elements of the arrays that show the fixed times, and, where the budget allows, the bandwidth."""

LEAST_ELEMENTS = 1 << 12
SURE_WIDTH = 512
"""Width up to which matrix products are measured even beyond the budget: some milliseconds each."""

LONG_ENOUGH = 0.1
"""Seconds of a matrix product or a copy that is long enough to show the rate."""

MOST_WIDTH = 8192


def calibrate(device: Device, registry: Registry, budget_seconds: float = MOST_BUDGET) -> Capabilities:
    """Measures a device: the start of a kernel, bandwidth by ``add``, float32 operations by ``matmul``, and copies.

    What cannot be measured stays as the device declares it: where it has no such kernel, where a copy is none because its
    arrays are the host's, and all of the reference, whose kernels have no rate in common. ``budget_seconds`` is at
    most 10 and is kept to within the length of one measurement.
    """
    declared = device.capabilities
    if device.backend == REFERENCE:
        return declared
    start = time.perf_counter()
    budget = min(max(budget_seconds, LEAST_BUDGET), MOST_BUDGET)
    measured = declared
    parts: tuple[Callable[..., dict[str, Any]], ...] = (_copies, _launch, _stream, _multiply)
    for number, part in enumerate(parts, start=1):
        deadline = start + budget * number / len(parts)  # what one part leaves over, the next may use
        if time.perf_counter() < deadline:
            measured = replace(measured, **part(device, registry, deadline))
    return measured


def calibrated(
    device: Device, store: CostStore, registry: Registry, budget_seconds: float = MOST_BUDGET
) -> Capabilities:
    """The capabilities that the store has of the device; measured, and kept there, if it has none."""
    found = store.capabilities(device)
    if found is None:
        found = calibrate(device, registry, budget_seconds)
        store.put_capabilities(device, found)
    return found


def _launch(device: Device, registry: Registry, deadline: float) -> dict[str, float]:
    found = _timed("add", (SMALL,), (SMALL,), device=device, registry=registry, deadline=deadline)
    return {} if found is None else {"launch_seconds": found[0]}


def _stream(device: Device, registry: Registry, deadline: float) -> dict[str, float]:
    """Bandwidth of the largest addition that the budget allows."""
    best: dict[str, float] = {}
    elements = LEAST_ELEMENTS
    while elements <= LARGE and _fits(device, 4 * 3 * elements):
        found = _timed("add", (elements,), (elements,), device=device, registry=registry, deadline=deadline)
        if found is None or found[0] <= 0:
            return best
        best = {"bandwidth": 4 * 3 * elements / (found[0] * found[1])}
        if time.perf_counter() + 16 * ROUNDS * found[0] > deadline:
            return best
        elements *= 16
    return best


def _multiply(device: Device, registry: Registry, deadline: float) -> dict[str, float]:
    """Rate of the best matrix product, wider and wider until one takes long enough.

    Of small products several are measured whatever they take: on a busy machine one may wait for a thread of BLAS, and a
    rate that is far too low would keep good kernels out of every plan.
    """
    rate, width = 0.0, 128
    while width <= MOST_WIDTH and _fits(device, 4 * 3 * width**2):
        found = _timed(
            "matmul", (width, width), (width, width), device=device, registry=registry, deadline=deadline
        )
        if found is None or found[0] <= 0:
            break
        rate = max(rate, 2.0 * width**3 / (found[0] * found[1]))
        width *= 2
        long = found[0] > LONG_ENOUGH or time.perf_counter() + 8 * ROUNDS * found[0] > deadline
        if long and width > SURE_WIDTH:
            break
    return {"flops": rate} if rate else {}


def _copies(device: Device, registry: Registry, deadline: float) -> dict[str, float]:
    """Fixed time and bandwidth of copies, both ways; in the host's memory the time to take an array over."""
    if device.array_type is np.ndarray and device.memory == HOST:
        return {}
    small = np.zeros(SMALL, np.float32)
    fixed = _there_and_back(device, small, deadline)
    if device.memory == HOST:
        return {"wrap_seconds": fixed}
    numbers = {"transfer_seconds": fixed}
    elements = LEAST_ELEMENTS
    while elements <= LARGE and _fits(device, 4 * elements):
        seconds = _there_and_back(device, np.zeros(elements, np.float32), deadline)
        if seconds > fixed:
            numbers["transfer_bandwidth"] = 4 * (elements - SMALL) / (seconds - fixed)
        if time.perf_counter() + 32 * ROUNDS * seconds > deadline:
            break
        elements *= 16
    return numbers


def _there_and_back(device: Device, array: np.ndarray[Any, Any], deadline: float) -> float:
    """Seconds of one copy: the mean of an upload and a download."""
    native = device.upload(array)
    ways = (Batch(lambda: device.upload(array), device), Batch(lambda: device.download(native), device))
    return sum(_median(way, deadline) for way in ways) / 2


def _timed(
    op: str, *shapes: tuple[int, ...], device: Device, registry: Registry, deadline: float
) -> tuple[float, float] | None:
    """Seconds and efficiency of the kernel of an op that is fastest in relation to its efficiency; None if there is none.

    The roofline divides by the efficiency of a kernel, so the peak is what a kernel of efficiency 1 would reach.
    """
    call = registry.get_op(op).call(*(TensorSpec(shape) for shape in shapes))
    arrays = [np.ones(shape, np.float32) for shape in shapes]
    best: tuple[float, float] | None = None
    for kernel in registry.kernels(op):
        if kernel.backend == device.backend and _usable(kernel, call, device, registry):
            try:
                seconds = _median(Batch(make_start(kernel, call, device, arrays, registry), device), deadline)
            except Exception:  # it will be met again, with its reason, where it is used
                continue
            if best is None or seconds * kernel.efficiency < best[0] * best[1]:
                best = seconds, kernel.efficiency
    return best


def _usable(kernel: Kernel, call: Call, device: Device, registry: Registry) -> bool:
    refused = active_policy().refusal(call.op.name, kernel) or registry.why_aside(call.op.name, kernel)
    return refused is None and not kernel.layouts and kernel.refusal(call, device) is None


def _median(batch: Batch, deadline: float) -> float:
    batch.warm()
    for number in range(ROUNDS):
        if number and time.perf_counter() > deadline:
            break
        batch.sample()
    return batch.statistics()[0]


def _fits(device: Device, nbytes: int) -> bool:
    """Whether arrays of so many bytes leave most of the device's free memory to others."""
    memory = device.memory_info()
    return memory is None or nbytes <= memory[0] / 4

"""Roofs: the most that a device can do, as its own kernels of simple ops show it. Nothing honest is much faster."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np

import opyard as oy
from opyard.placement import calibrate, default_costs
from opyard.placement.identity import fingerprint
from opyard.placement.measuring import Batch, interleave, make_start
from opyard.registry import REFERENCE
from opyard_bench import machine
from opyard_bench.record import OK, Cell, Roof, Row
from opyard_bench.statistics import summarize

SLACK = 1.05
"""A kernel faster than the roof by more than this factor is not believed."""

ELEMENTS = tuple(1 << power for power in (10, 13, 16, 19, 22))
CALIBRATION_SHARE = 0.6
"""Part of the time for opyard's calibration; the rest is for streams of bytes."""

CACHES = 64
MOST_ROUNDS = 1000
_COLUMNS = 64
_RATED = ("float32", "float64")
"""Dtypes whose operations are no faster than those of float32, by which devices are calibrated."""


def describe(device: oy.Device) -> Roof:
    """The device, with nothing measured."""
    return Roof(
        device.name, device.kind, device.description, fingerprint(device), caches=machine.caches(device)
    )


def measure(device: oy.Device, registry: oy.Registry, seconds: float, keep: bool) -> Roof:
    """The device with its roofs, measured in about so many seconds.

    The operations are those of opyard's calibration, kept or new: where its tries disagree they are not known, and else it
    is kept if ``keep`` says so. The bandwidth is the best of ``add``, ``equal``, ``max`` and a product with a vector, over
    five amounts of bytes, because caches are several times as fast as memory. Of all samples the fastest counts. The
    reference has no roof.
    """
    found = describe(device)
    if device.backend == REFERENCE:
        return found
    store, declared = default_costs().store, device.capabilities
    known, doubts = store.capabilities(device), ""
    if known is None:
        measured = calibrate(device, registry, CALIBRATION_SHARE * seconds)
        known, doubts = measured.capabilities, " ".join(measured.doubts)
        if keep and not doubts:
            store.put_capabilities(device, known)
    is_sure = known.flops != declared.flops and "flops" not in doubts
    bandwidth = _bandwidth(device, registry, (1 - CALIBRATION_SHARE) * seconds)
    return replace(found, flops=known.flops if is_sure else None, bandwidth=bandwidth)


def least_seconds(cell: Cell, roof: Roof) -> float:
    """No call of the cell is faster on this device; 0.0 where nothing is known.

    Bytes are held against the best rate over a 64th of them or more: how much of them a cache holds is not known, and a
    kernel must not be called implausible because it meets a warmer cache than the roof did.
    """
    seconds = 0.0
    if roof.flops and cell.flops and all(name in _RATED for name in cell.dtypes):
        seconds = cell.flops / roof.flops
    rates = [rate for nbytes, rate in roof.bandwidth if CACHES * nbytes >= cell.bytes]
    if roof.bandwidth and not rates:
        rates = [roof.bandwidth[-1][1]]
    return max(seconds, cell.bytes / max(rates)) if rates else seconds


def doubt(cell: Cell, row: Row, roof: Roof | None) -> str:
    """Why the time of a row is not believed, or an empty text."""
    if roof is None or row.status != OK or not row.samples or row.shares:
        return ""
    least, median = least_seconds(cell, roof), summarize(row.samples).median
    if median * SLACK >= least:
        return ""
    ratio = f"{least / median:.2f} times as fast" if median > 0 else "faster"
    return f"{ratio} as what was measured of {row.device} at most; the op's cost is wrong, or the kernel does not do the work"


def _streams(elements: int, registry: oy.Registry) -> Iterator[oy.Call]:
    """Calls that read and write, or only read, about so many elements, and do little else."""
    vector = oy.TensorSpec((elements,))
    matrix = oy.TensorSpec((elements // _COLUMNS, _COLUMNS)), oy.TensorSpec((_COLUMNS, 1))
    yield registry.get_op("add").call(vector, vector)
    yield registry.get_op("equal").call(vector, vector)
    yield registry.get_op("max").call(vector)
    yield registry.get_op("matmul").call(*matrix)


def _bandwidth(device: oy.Device, registry: oy.Registry, seconds: float) -> tuple[tuple[float, float], ...]:
    """The best rate for each amount of bytes. All streams take turns, so that none meets the busy moments alone."""
    streams = [
        (elements, call.bytes, batch)
        for elements in ELEMENTS
        for call in _streams(elements, registry)
        for batch in _batches(call, device, registry)
    ]
    batches = [batch for *_, batch in streams]
    deadline = time.perf_counter() + seconds
    if batches:
        interleave(batches, Random(0), deadline, enough=_never, most_rounds=MOST_ROUNDS, patience=math.inf)
    best: dict[int, tuple[float, float]] = {}
    for elements, nbytes, batch in streams:
        rate = nbytes / max(min(batch.samples), 1e-9)
        best[elements] = max(best.get(elements, (0.0, 0.0)), (rate, nbytes))
    return tuple(sorted((nbytes, rate) for rate, nbytes in best.values()))


def _never(batch: Batch) -> bool:
    return False


def _batches(call: oy.Call, device: oy.Device, registry: oy.Registry) -> Iterator[Batch]:
    """The kernels of a call on a device, as far as they work."""
    arrays: list[Any] = [np.ones(spec.shape, spec.dtype) for spec in call.inputs if spec is not None]
    for candidate in oy.candidates(call, [device], registry):
        if candidate.refusal is None:
            try:
                start = make_start(candidate.kernel, call, device, arrays, registry)
                start()
            except Exception:  # it will be met again, with its reason, among the kernels that are timed
                continue
            yield Batch(start, device)

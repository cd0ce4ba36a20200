"""Roofs: the most that a device can do, as its own kernels of simple ops show it. Nothing honest is much faster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np

import opyard as oy
from opyard.placement import calibrate, calibrated, default_costs
from opyard.placement.identity import fingerprint
from opyard.placement.measuring import Batch, interleave, make_start
from opyard.registry import REFERENCE
from opyard_bench.record import OK, Cell, Roof, Row
from opyard_bench.statistics import summarize

SLACK = 1.05
"""A kernel faster than the roof by more than this factor is not believed."""

ELEMENTS = tuple(1 << power for power in (10, 13, 16, 19, 22))
WIDTHS = (256, 512)
CACHES = 64
MOST_ROUNDS = 1000
_COLUMNS = 64
_RATED = ("float32", "float64")
"""Dtypes whose operations are no faster than those of float32, by which devices are calibrated."""


def describe(device: oy.Device) -> Roof:
    """The device, with nothing measured."""
    return Roof(device.name, device.kind, device.description, fingerprint(device))


def measure(device: oy.Device, registry: oy.Registry, seconds: float, keep: bool) -> Roof:
    """The device with its roofs, measured in about so many seconds.

    The operations are those of opyard's calibration, kept or new (which is kept if ``keep`` says so), or of products here. The
    bandwidth is the best of ``add``, ``equal``, ``max`` and a product with a vector, over five amounts of bytes, because
    caches are several times as fast as memory. Of all samples the fastest counts. The reference has no roof.
    """
    found = describe(device)
    if device.backend == REFERENCE:
        return found
    store, declared = default_costs().store, device.capabilities
    if keep:
        known = calibrated(device, store, registry, seconds / 2)
    else:
        known = store.capabilities(device) or calibrate(device, registry, seconds / 2)
    flops = [known.flops] if known.flops != declared.flops else []  # else it was not measured
    bandwidth = []
    share = seconds / 2 / (len(ELEMENTS) + len(WIDTHS))
    for number, elements in enumerate(ELEMENTS):
        calls = list(_streams(elements, registry))
        found_rates = [
            (_rate(c, c.bytes, device, registry, share / len(calls), number), c.bytes) for c in calls
        ]
        rate, nbytes = max(found_rates)
        if rate > 0:
            bandwidth.append((nbytes, rate))
    for number, width in enumerate(WIDTHS):
        square = oy.TensorSpec((width, width))
        product = registry.get_op("matmul").call(square, square)
        flops.append(_rate(product, product.cost.flops, device, registry, share, number))
    return replace(found, flops=max(flops) or None, bandwidth=tuple(sorted(bandwidth)))


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


def _rate(
    call: oy.Call, work: float, device: oy.Device, registry: oy.Registry, seconds: float, seed: int
) -> float:
    """Work per second of the best batch of the best kernel of a call; 0 where the device has none."""
    arrays: list[Any] = [np.ones(spec.shape, spec.dtype) for spec in call.inputs if spec is not None]
    batches = []
    for candidate in oy.candidates(call, [device], registry):
        if candidate.refusal is None:
            try:
                start = make_start(candidate.kernel, call, device, arrays, registry)
                start()
            except Exception:  # it will be met again, with its reason, among the kernels that are timed
                continue
            batches.append(Batch(start, device))
    if not batches:
        return 0.0
    deadline = time.perf_counter() + seconds
    interleave(batches, Random(seed), deadline, enough=lambda batch: False, most_rounds=MOST_ROUNDS)
    return work / max(min(min(batch.samples) for batch in batches), 1e-9)

"""Levels of the measured roofs, by name, and how near to them a kernel comes. For people; doubts are lenient."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from opyard.units import format_bytes
from opyard_bench.record import COLD, END_TO_END, Cell, Roof, Row
from opyard_bench.roofs import least_seconds

OPERATIONS, BYTES, MEMORY = "operations", "bytes", "memory"


class Level(NamedTuple):
    """One rate of bytes of a device: ``rate`` bytes per second, for calls of ``most`` bytes or less."""

    name: str
    most: float
    rate: float


class Share(NamedTuple):
    """How much of what its device can do at most a kernel reaches, and the level that binds: "operations" or that of its bytes."""

    fraction: float
    level: str


def levels(roof: Roof, regime: str) -> list[Level]:
    """The rates of bytes that bind a regime, for the fewest bytes first: each the best measured there or over more bytes.

    They are named by the smallest cache that holds the bytes, or "memory", and where no caches are known by the bytes. A
    rate that is beaten over more bytes is left out: it shows what a start costs, not what a cache does. Cold times are bound
    by the rate over the most bytes alone.
    """
    rates = sorted(roof.bandwidth, reverse=True)
    found: list[Level] = []
    for nbytes, rate in rates:
        name, most = _holder(nbytes, roof)
        if found and rate <= found[-1].rate:
            continue
        if found and found[-1].name == name:
            found.pop()
        found.append(Level(name, most, rate))
    if not found:
        return []
    last = found[0]._replace(most=math.inf)
    if not roof.caches:
        last = last._replace(name=f"over {format_bytes(found[1].most)}" if len(found) > 1 else BYTES)
    return [last._replace(rate=rates[0][1])] if regime == COLD else [*found[:0:-1], last]


def _holder(nbytes: float, roof: Roof) -> tuple[str, float]:
    """The name of what holds so many bytes, and the most that it holds."""
    if not roof.caches:
        return f"up to {format_bytes(nbytes)}", nbytes
    return next((cache for cache in roof.caches if nbytes <= cache[1]), (MEMORY, math.inf))


def share(cell: Cell, row: Row, seconds: float, roof: Roof | None) -> Share | None:
    """The share of the roof at this time of the row (roofline model, Williams, Waterman and Patterson, 2009).

    None where nothing was measured, where no bytes need to move, and for times with copies between host and device.
    """
    if roof is None or seconds <= 0 or row.shares or row.regime == END_TO_END:
        return None
    least = [(least_seconds(cell, replace(roof, bandwidth=())), OPERATIONS)]
    known = levels(roof, row.regime)
    if known:
        level = next(level for level in known if cell.bytes <= level.most)
        least.append((cell.bytes / level.rate, level.name))
    best, name = max(least)
    return Share(best / seconds, name) if best > 0 else None

"""Measures how well calibrations of a device repeat, and how steady the machine was meanwhile.

    uv run python tests/bench/calibration.py                     a table in Markdown, in about five minutes
    uv run python tests/bench/calibration.py --json              the same as JSON
    uv run python tests/bench/calibration.py --processes 8 --seconds 10 --devices cpu:0

Each calibration is of one device in a fresh process. Before and after it the process measures the machine by yardsticks that are not
opyard's: a loop of Python's own on each processor, which touches no memory, beside the operations, and a copy by NumPy on all processors
at once, of arrays that no cache holds, beside the bandwidth. These are the same instructions each time, so that a change of their time is a change of the
machine (its clock, a neighbour on the same core or at the same memory), not of the calibration. The table gives how far the largest of
each number is above the smallest: of the yardstick, of the calibrations, of a calibration and the next of the same device, and of those
pairs of calibrations around which all four measurements of the yardstick were alike. docs/performance.md holds a table made by this script.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain, combinations, pairwise
from typing import Any

import numpy as np

import opyard as oy
from opyard.placement import calibrate
from opyard.registry import REFERENCE

NUMBERS = ("flops", "bandwidth")

TURNS, LOOPS = 200, 50_000
"""Timed loops on each processor, and additions in each: about a millisecond."""

COPIES, COPIED = 100, 1 << 26
"""Timed copies on each processor, and bytes of each: more than a core's part of the caches."""

ALIKE = 1.03
"""Yardsticks that differ by less than this factor are called alike."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One calibration of a device: what was found and doubted; and, for each number, its yardstick's seconds before and after."""

    device: str
    yardsticks: dict[str, tuple[float, float]]
    numbers: dict[str, float]
    doubts: tuple[str, ...]


def loop_seconds() -> float:
    """First quartile of the seconds of the loop, the mean over the processors that this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    found = []
    for processor in allowed:
        os.sched_setaffinity(0, {processor})
        found.append(_quartile(_once() for _ in range(TURNS)))
    os.sched_setaffinity(0, allowed)
    return statistics.mean(found)


def _quartile(seconds: Iterable[float]) -> float:
    return statistics.quantiles(seconds)[0]


def _once() -> float:
    begin = time.perf_counter()
    number = 0
    while number < LOOPS:
        number += 1
    return time.perf_counter() - begin


def copy_seconds() -> float:
    """First quartile of the seconds of a copy, one thread on each processor that this process may use, all at once."""

    def copies(_: int) -> list[float]:
        source, target, found = np.ones(COPIED, np.uint8), np.empty(COPIED, np.uint8), []
        for _ in range(COPIES):
            begin = time.perf_counter()
            np.copyto(target, source)
            found.append(time.perf_counter() - begin)
        return found

    count = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(count) as pool:
        return _quartile(chain.from_iterable(pool.map(copies, range(count))))


def measure(name: str, seconds: float) -> Sample:
    """One calibration of a device, by name."""
    registry = oy.default_registry()
    device = registry.device(name)
    calibrate(device, registry, 0.01)  # what is compiled or loaded at first is not the machine's
    before = loop_seconds(), copy_seconds()
    found = calibrate(device, registry, seconds)
    after = loop_seconds(), copy_seconds()
    numbers = {number: getattr(found.capabilities, number) for number in NUMBERS}
    return Sample(
        name, dict(zip(NUMBERS, zip(before, after, strict=True), strict=True)), numbers, found.doubts
    )


def in_processes(count: int, names: Sequence[str], seconds: float) -> list[Sample]:
    """``count`` samples of each device, of all but the reference if none is named, each of a fresh process, in turns."""
    names = names or [d.name for d in oy.default_registry().devices() if d.backend != REFERENCE]
    context, found = multiprocessing.get_context("spawn"), []
    for name in tuple(names) * count:
        with context.Pool(1) as pool:
            found.append(pool.apply(measure, (name, seconds)))
    return found


def above(values: Sequence[float]) -> float:
    """How far the largest is above the smallest, as a part of it."""
    return max(values) / min(values) - 1


def rows(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """One row for each number of each device. Calibrations that doubt themselves are not kept by opyard, and not counted here."""
    found = []
    for device in dict.fromkeys(sample.device for sample in samples):
        own = [sample for sample in samples if sample.device == device]
        sure = [sample for sample in own if not sample.doubts]
        for number in NUMBERS:
            values = [sample.numbers[number] for sample in sure]
            alike = [
                above((one.numbers[number], other.numbers[number]))
                for one, other in combinations(sure, 2)
                if above((*one.yardsticks[number], *other.yardsticks[number])) < ALIKE - 1
            ]
            found.append(
                {
                    "device": device,
                    "number": number,
                    "calibrations": len(own),
                    "doubted": len(own) - len(sure),
                    "median": statistics.median(values) if values else None,
                    "difference": above(values) if values else None,
                    "yardstick": above([s for sample in sure for s in sample.yardsticks[number]])
                    if sure
                    else None,
                    "next": [above(pair) for pair in pairwise(values)],
                    "alike": alike,
                }
            )
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| device | number | calibrations (doubted) | median | largest over smallest | its yardstick's | from one to the next, median and most | pairs with yardsticks alike | their difference, median and most |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found:
        unit = "GFLOP/s" if row["number"] == "flops" else "GB/s"
        median = f"{row['median'] / 1e9:.1f} {unit}" if row["median"] else "-"
        lines.append(
            f"| {row['device']} | {row['number']} | {row['calibrations']} ({row['doubted']}) | {median} | {_percent(row['difference'])}"
            f" | {_percent(row['yardstick'])} | {_typical(row['next'])} | {len(row['alike'])} | {_typical(row['alike'])} |"
        )
    return "\n".join(lines)


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{part:.1%}"


def _typical(parts: Sequence[float]) -> str:
    return f"{statistics.median(parts):.1%} and {max(parts):.1%}" if parts else "-"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=9.5, help="of one calibration of one device")
    parser.add_argument("--devices", nargs="*", default=[], help="all but the reference, unless named")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    samples = in_processes(arguments.processes, arguments.devices, arguments.seconds)
    found = rows(samples)
    if arguments.json:
        print(json.dumps({"rows": found, "samples": [asdict(sample) for sample in samples]}, indent=2))
    else:
        print(table(found))


if __name__ == "__main__":
    main()

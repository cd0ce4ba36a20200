"""Measures how well calibrations of a device repeat, and how steady the machine was meanwhile.

    uv run python tests/bench/calibration.py                     a table in Markdown, in about five minutes
    uv run python tests/bench/calibration.py --json              the same as JSON
    uv run python tests/bench/calibration.py --processes 8 --seconds 10 --devices cpu:0

Each calibration is of a fresh process. Before and after it the process times a loop of Python's own on each processor: the same
instructions, which touch no memory, so that a change of their time is a change of the machine (its clock, or a neighbour on the same
core), not of the calibration. The table gives how far the largest of each number is above the smallest: of the loop, of the calibrations,
and of those pairs of calibrations around which all four loops took the same time. docs/performance.md holds a table made by this script.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

NUMBERS = ("flops", "bandwidth")

TURNS, LOOPS = 40, 50_000
"""Timed loops on each processor, and additions in each: about a millisecond."""

ALIKE = 1.02
"""Times of the loop that differ by less than this factor are called alike."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One calibration: seconds of the loop before and after (means of the medians of the processors), what was found, what was doubted."""

    loops: tuple[float, float]
    numbers: dict[str, dict[str, float]]
    doubts: tuple[str, ...]


def loop_seconds() -> float:
    """Median seconds of the loop, the mean over the processors that this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    found = []
    for processor in allowed:
        os.sched_setaffinity(0, {processor})
        found.append(statistics.median(_once() for _ in range(TURNS)))
    os.sched_setaffinity(0, allowed)
    return statistics.mean(found)


def _once() -> float:
    begin = time.perf_counter()
    number = 0
    while number < LOOPS:
        number += 1
    return time.perf_counter() - begin


def measure(names: Sequence[str], seconds: float) -> Sample:
    """One calibration of each device; of all but the reference if none is named."""
    import opyard as oy
    from opyard.placement import calibrate
    from opyard.registry import REFERENCE

    registry = oy.default_registry()
    devices = [registry.device(name) for name in names] or [
        device for device in registry.devices() if device.backend != REFERENCE
    ]
    before = loop_seconds()
    found = {device.name: calibrate(device, registry, seconds) for device in devices}
    after = loop_seconds()
    numbers = {
        name: {number: getattr(result.capabilities, number) for number in NUMBERS}
        for name, result in found.items()
    }
    doubts = tuple(f"{name}: {doubt}" for name, result in found.items() for doubt in result.doubts)
    return Sample((before, after), numbers, doubts)


def in_processes(count: int, names: Sequence[str], seconds: float) -> list[Sample]:
    """``count`` samples, each of a fresh process, one after the other."""
    context, found = multiprocessing.get_context("spawn"), []
    for _ in range(count):
        with context.Pool(1) as pool:
            found.append(pool.apply(measure, (names, seconds)))
    return found


def above(values: Sequence[float]) -> float:
    """How far the largest is above the smallest, as a part of it."""
    return max(values) / min(values) - 1


def rows(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """One row for each number of each device. Calibrations that doubt themselves are not kept by opyard, and not counted here."""
    found = []
    for device in samples[0].numbers:
        sure = [s for s in samples if not any(doubt.startswith(f"{device}:") for doubt in s.doubts)]
        for number in NUMBERS:
            values = [sample.numbers[device][number] for sample in sure]
            alike = [
                above((one.numbers[device][number], other.numbers[device][number]))
                for one, other in combinations(sure, 2)
                if above((*one.loops, *other.loops)) < ALIKE - 1
            ]
            found.append(
                {
                    "device": device,
                    "number": number,
                    "calibrations": len(samples),
                    "doubted": len(samples) - len(sure),
                    "median": statistics.median(values) if values else None,
                    "difference": above(values) if values else None,
                    "loop_difference": above([loop for sample in sure for loop in sample.loops])
                    if sure
                    else None,
                    "alike_pairs": len(alike),
                    "alike_median": statistics.median(alike) if alike else None,
                    "alike_most": max(alike, default=None),
                }
            )
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| device | number | calibrations (doubted) | median | largest over smallest | the loop's | pairs with the loop alike | their difference, median and most |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found:
        unit = "GFLOP/s" if row["number"] == "flops" else "GB/s"
        median = f"{row['median'] / 1e9:.1f} {unit}" if row["median"] else "-"
        alike = (
            f"{row['alike_median']:.1%} and {row['alike_most']:.1%}" if row["alike_most"] is not None else "-"
        )
        lines.append(
            f"| {row['device']} | {row['number']} | {row['calibrations']} ({row['doubted']}) | {median} | {_percent(row['difference'])}"
            f" | {_percent(row['loop_difference'])} | {row['alike_pairs']} | {alike} |"
        )
    return "\n".join(lines)


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{part:.1%}"


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

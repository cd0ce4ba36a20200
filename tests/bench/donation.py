"""Measures what it saves to write variables in place: one Adam update, as a graph, with and without.

    uv run python tests/bench/donation.py                        a table in Markdown
    uv run python tests/bench/donation.py --json                 the same as JSON
    uv run python tests/bench/donation.py --parameters 1000000 --rounds 5

Three ways, in turns. The first two run the same executable, of single ops: in the first the arrays of the variables were handed
out before the step, so that it makes new ones. In the third chains of ops are fused, by a kernel of several outputs, which is
not written in place. Seconds are CPU time of the process, medians; bytes are the most that NumPy held at once in a step, beyond
what it held before (tracemalloc). docs/performance.md holds figures made by this script.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

import opyard as oy
from opyard.units import format_bytes, format_seconds


@dataclass(frozen=True, slots=True)
class Row:
    """One way: seconds of CPU time of a step, and the bytes that it needs beside variables and gradient."""

    way: str
    parameters: int
    seconds: float
    peak_bytes: int


def measure(parameters: int, rounds: int, device: str = "cpu:0") -> list[Row]:
    """All ways, in turns."""
    weights = oy.Variable(np.zeros(parameters, np.float32), name="weights")
    optimizer = oy.optimizers.adam(1e-3)
    optimizer.prepare([weights])

    @oy.compile(devices=device)
    def update(gradient):
        optimizer.apply([gradient], [weights])
        return optimizer.step

    gradient = np.random.default_rng(0).standard_normal(parameters, dtype=np.float32)
    variables = (weights, *optimizer.variables)

    def single() -> None:
        with oy.using(block=("cpu/blocks", "cpu/jit")):
            update(gradient)

    def fused() -> None:
        update(gradient)

    def hand_out() -> None:
        for variable in variables:
            assert variable.array is not None

    ways: dict[str, tuple[Callable[[], object], Callable[[], None]]] = {
        "new arrays": (hand_out, single),
        "in place": (lambda: None, single),
        "fused": (lambda: None, fused),
    }
    for _ in range(3):
        single()
        fused()
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, (prepare, run) in ways.items():
            prepare()
            begin = time.process_time()
            run()
            seconds[way].append(time.process_time() - begin)
    peaks = {way: _peak(prepare, run) for way, (prepare, run) in ways.items()}
    return [Row(way, parameters, statistics.median(seconds[way]), peaks[way]) for way in ways]


def _peak(prepare: Callable[[], object], run: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        prepare()
        run()  # so that all arrays are known to tracemalloc
        prepare()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        run()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu:0")
    chosen = parser.parse_args()
    rows = measure(chosen.parameters, chosen.rounds, chosen.device)
    if chosen.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print("| Adam update | parameters | CPU time | bytes beside |\n|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.way} | {row.parameters:,} | {format_seconds(row.seconds)} | {format_bytes(row.peak_bytes)} |"
        )


if __name__ == "__main__":
    main()

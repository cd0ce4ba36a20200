"""Measures how near predicted times come, on the devices of this machine, and whether the tuned plan is the fastest.

    uv run python tests/bench/predictions.py                 a table in Markdown
    uv run python tests/bench/predictions.py --json          the same as JSON
    uv run python tests/bench/predictions.py --seconds 10    time for tuning each program

Programs are the network of `opyard demo` and transformer layers of about 100 ops. Each is placed by the roofline's costs and after
tuning, and after tuning on each device alone. All plans of a program run in turns, so that a change of the machine's
mood meets all of them alike; times are medians. docs/placement.md holds a table made by this script.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from graphs import make_graph

import opyard as oy
from opyard.errors import PlacementError
from opyard.registry import REFERENCE
from opyard.units import format_seconds

BLOCK = 20
"""Runs of one plan that are timed before the next one's turn."""

WARM_UP = 0.1
"""Seconds of runs before these. Threads of a BLAS look for work for some 30 ms before they sleep, in everybody's way."""

Feeds = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds of one run, as predicted and as measured (median). ``allowed`` are the devices that could be used."""

    name: str
    ops: int
    costs: str
    allowed: str
    used: list[str]
    predicted: float
    measured: float


def programs() -> dict[str, tuple[oy.Graph, Feeds]]:
    """Graphs with arrays to feed."""
    from opyard_demo.command import load_model

    block = make_graph("transformer", 100, filled=True)
    random = np.random.default_rng(0)
    return {
        "digits, batch of 52": (load_model().graph, {"images": random.random((52, 1, 8, 8), np.float32)}),
        "transformer layers": (
            block,
            {name: random.random(value.spec.shape, np.float32) for name, value in block.inputs.items()},
        ),
    }


def compare(name: str, graph: oy.Graph, feeds: Feeds, seconds: float, runs: int) -> list[Prediction]:
    """The plans of one program, run in turns: by the roofline, tuned, and tuned on each device alone."""
    outputs, plans = list(graph.outputs), []
    with tempfile.TemporaryDirectory() as folder:
        costs = oy.MeasuredCosts(oy.CostStore(Path(folder) / "costs.sqlite"))
        prior = oy.Session(graph, costs=oy.Roofline())
        plans.append(("roofline", "all", _plan(prior, outputs, feeds)))
        alone = [device.name for device in prior.devices if device.backend != REFERENCE]
        for allowed in (*alone, "auto"):  # what is tuned last is measured soonest
            session = oy.Session(graph, costs=costs, devices=allowed)
            try:
                session.tune(outputs, feeds, budget_seconds=seconds)
            except PlacementError:
                continue  # a device that cannot run all of it
            plans.append(("tuned", allowed.replace("auto", "all"), _plan(session, outputs, feeds)))
        costs.store.close()
    samples: list[list[float]] = [[] for _ in plans]
    for _ in range(max(1, runs // BLOCK)):
        for (_, _, (_, call)), times in zip(plans, samples, strict=True):
            asleep = time.perf_counter() + WARM_UP
            while time.perf_counter() < asleep:
                call(*feeds.values())
            for _ in range(BLOCK):
                begin = time.perf_counter()
                call(*feeds.values())
                times.append(time.perf_counter() - begin)
    return [
        Prediction(
            name,
            len(placement.graph.nodes),
            *(kind, allowed),
            sorted({decision.chosen.device.name for decision in placement.decisions}),
            placement.seconds,
            statistics.median(times),
        )
        for (kind, allowed, (placement, _)), times in zip(plans, samples, strict=True)
    ]


def _plan(session: oy.Session, outputs: list[str], feeds: Feeds) -> tuple[oy.Placement, Callable[..., Any]]:
    """The placement as it is now, and a call that uses it whatever is tuned later."""
    call = session.callable(outputs, list(feeds))
    call(*feeds.values())
    placement = session.placement(outputs, feeds)
    executable, _ = next(iter(session._cache.values()))
    return placement, executable


def print_table(rows: list[Prediction]) -> None:
    """The report in Markdown."""
    print("| program | ops | costs | allowed | used | predicted | measured | measured / predicted |")
    print("|---|---:|---|---|---|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row.name} | {row.ops} | {row.costs} | {row.allowed} | {', '.join(row.used)} "
            f"| {format_seconds(row.predicted)} | {format_seconds(row.measured)} | {row.measured / row.predicted:.2f} |"
        )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=20.0, help="for tuning each plan")
    parser.add_argument("--runs", type=int, default=300, help="of each plan")
    options = parser.parse_args()
    rows = [
        row
        for name, (graph, feeds) in programs().items()
        for row in compare(name, graph, feeds, options.seconds, options.runs)
    ]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        print_table(rows)


if __name__ == "__main__":
    main()

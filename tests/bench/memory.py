"""Measures placement under memory limits: how near the bound, and how long.

    uv run python tests/bench/memory.py                      a table in Markdown
    uv run python tests/bench/memory.py --json               the same as JSON
    uv run python tests/bench/memory.py --kinds resnet --ops 200 --seeds 2

Graphs, devices and costs are those of graphs.py, each layer with weights of its own. Each device but the host is limited to a part of
what the best placement without limits keeps there. docs/placement.md holds a table made by this script.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass

from graphs import KINDS, HashedCosts, make_graph, make_registry

import opyard as oy
from opyard.selection import Policy
from opyard.units import format_seconds


@dataclass(frozen=True, slots=True)
class Row:
    """One instance: seconds of a run without and with limits, the gap to the bound, and seconds of CPU time for placing."""

    kind: str
    ops: int
    seed: int
    part: float
    free_seconds: float
    seconds: float
    gap: float
    place_seconds: float


def measure(kind: str, ops: int, seed: int, part: float) -> Row:
    """Places one instance without limits, and within a part of what that needs."""
    registry, devices = make_registry(seed, patterns=True)
    graph = make_graph(kind, ops, seed, shared=False)
    arguments = (graph, devices, registry, HashedCosts(seed))
    free = oy.place(*arguments, policy=Policy())
    memory = {use.device: int(part * use.peak_bytes) for use in free.memory if use.device != "host:0"}
    begin = time.process_time()
    placement = oy.place(*arguments, policy=Policy(), memory=memory)
    elapsed = time.process_time() - begin
    for use in placement.memory:
        assert use.limit_bytes is None or use.peak_bytes <= use.limit_bytes, "a limit is exceeded"
    return Row(kind, len(graph.nodes), seed, part, free.seconds, placement.seconds, placement.gap, elapsed)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=["transformer", "resnet", "unet"])
    parser.add_argument("--ops", type=int, default=1_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--parts", nargs="+", type=float, default=[0.7, 0.4])
    options = parser.parse_args()
    rows = [
        measure(kind, options.ops, seed, part)
        for kind in options.kinds
        for part in options.parts
        for seed in range(options.seeds)
    ]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print("| graph | ops | seed | limits | without limits | within | gap | place |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        times = f"{format_seconds(row.free_seconds)} | {format_seconds(row.seconds)}"
        print(
            f"| {row.kind} | {row.ops} | {row.seed} | {row.part:.0%} | {times} | {row.gap:.2%} | {row.place_seconds:.1f} s |"
        )


if __name__ == "__main__":
    main()

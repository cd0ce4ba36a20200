"""Measures placement: how long it takes, whether the optimum is proven, and what the strategies of others lose against it.

    uv run python tests/bench/placement.py                  tables in Markdown
    uv run python tests/bench/placement.py --json           the same as JSON
    uv run python tests/bench/placement.py --kinds resnet unet --ops 1000 --seeds 5
    uv run python tests/bench/placement.py --makespan --ops 400 --no-patterns    devices that work at the same time

The graphs, devices and costs are those of graphs.py, the rivals those of planners.py; making a graph is not measured.
docs/placement.md holds tables made by this script.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from graphs import DEVICES, KINDS, HashedCosts, make_graph, make_registry
from planners import PLANNERS, complete

import opyard as oy
from opyard.placement.makespan import Search, earliest_end, processors_of
from opyard.placement.ordering import in_order, solve_in_order
from opyard.placement.place import formulate
from opyard.placement.places import NANOSECONDS
from opyard.placement.solver import Effort, solve
from opyard.selection import Policy
from opyard.units import format_seconds

T = TypeVar("T")
R = TypeVar("R", "Row", "Ends")


@dataclass(frozen=True, slots=True)
class Instance:
    """A graph with devices and costs: ``ops`` as asked for, whether there are fused kernels and region compilers.

    ``backends`` is the number of devices, each of a backend of its own: the host and the first of the others; ``objective``
    is what is minimised.
    """

    kind: str
    ops: int
    seed: int
    patterns: bool
    regions: bool = False
    backends: int = len(DEVICES)
    objective: str = "sum"

    def arguments(self) -> tuple[oy.Graph, Sequence[oy.Device], oy.Registry, HashedCosts]:
        """What ``place`` takes."""
        registry, devices = make_registry(
            self.seed, patterns=self.patterns, regions=self.regions, backends=self.backends
        )
        return make_graph(self.kind, self.ops, self.seed), devices, registry, HashedCosts(self.seed)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of this process's CPU time and of the clock on the wall."""

    cpu: float
    wall: float


@dataclass(frozen=True, slots=True)
class Row:
    """What was found out about one instance. ``rivals`` are costs of other planners, as multiples of ours."""

    instance: Instance
    ops: int
    variables: int
    formulate: Timing
    solve: Timing
    place: Timing
    seconds: float
    optimal: bool
    gap: float
    fused: int
    rivals: dict[str, float]


def timed(function: Callable[[], T]) -> tuple[T, Timing]:
    """The result of a call and its time."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = function()
    return result, Timing(time.process_time() - cpu, time.perf_counter() - wall)


def measure(instance: Instance) -> Row:
    """Formulates, solves and places one instance, and lets all rivals plan the same problem."""
    arguments = instance.arguments()
    (problem, *_), formulating = timed(lambda: formulate(*arguments, policy=Policy()))
    solution, solving = timed(lambda: solve(problem.network))
    placement, placing = timed(lambda: oy.place(*arguments, policy=Policy()))
    assert math.isclose(placement.seconds, solution.cost / NANOSECONDS), "place and solve disagree"
    rivals = {}
    for name, plan in PLANNERS.items():
        _, cost = complete(problem, plan(problem))
        rivals[name] = cost / solution.cost
    return Row(
        instance,
        len(problem.graph.nodes),
        len(problem.network.unary),
        *(formulating, solving, placing),
        placement.seconds,
        placement.is_optimal,
        placement.gap,
        sum(len(decision.match.nodes) > 1 for decision in placement.decisions),
        rivals,
    )


def geometric_means(rows: Sequence[Row]) -> dict[str, float]:
    """The mean ratio of each rival over the rows."""
    return {name: statistics.geometric_mean(row.rivals[name] for row in rows) for name in PLANNERS}


# Devices that work at the same time ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ends:
    """When placements of one instance end, in seconds, and the CPU seconds that the search for the earliest end took.

    least_sum, graph_order, listed  the least sum of all times: the sum; its end in the order of the graph, and as listed
    heft, ours, bound               the ends of HEFT's placement and of ours, and what no placement ends before
    """

    instance: Instance
    ops: int
    least_sum: float
    graph_order: float
    listed: float
    heft: float
    ours: float
    our_sum: float
    bound: float
    search: Timing


def measure_ends(instance: Instance) -> Ends:
    """Places one instance for the least sum and for the earliest end, and lets HEFT place it, too."""
    arguments = instance.arguments()
    problem, *_ = formulate(*arguments, policy=Policy())
    solution, ordered, bound = solve_in_order(problem, None, None)
    search = Search(problem, lambda order: True)
    start = search.arranged(solution.labels, ordered, solution.cost)
    graph_order = search.scheduler.nanoseconds([search.task(choice) for choice in ordered])
    labels, cost = complete(problem, PLANNERS["HEFT"](problem))
    heft = search.arranged(labels, in_order(problem, labels)[0], cost)
    found, searching = timed(lambda: search.improved(start, Effort().tasks))
    least = earliest_end(problem, bound, len(processors_of(problem)))
    numbers = (solution.cost, graph_order, start.end, heft.end, found.end, found.cost, least)
    return Ends(instance, len(problem.options), *(n / NANOSECONDS for n in numbers), searching)


def print_ends(rows: Sequence[Ends]) -> None:
    """The report on ends in Markdown: means over all seeds."""
    print(
        "| graph | ops | one after the other | in graph order | listed | HEFT | ours | bound | gap | search |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    names = ("least_sum", "graph_order", "listed", "heft", "ours", "bound")
    for (kind, _), group in grouped(rows).items():
        cells = [format_seconds(_mean(getattr(row, name) for row in group)) for name in names]
        gap = _mean(1 - row.bound / row.ours for row in group)
        spent = _mean(row.search.cpu for row in group)
        print(
            f"| {kind} | {_mean(r.ops for r in group):.0f} | {' | '.join(cells)} | {gap:.0%} | {spent:.1f} s |"
        )


# Determinism -----------------------------------------------------------------------------------------------------


def digest(instance: Instance) -> str:
    """A checksum of all that a placement says: every decision, price and refusal, in order."""
    placement = oy.place(*instance.arguments(), policy=Policy(), objective=instance.objective)
    return hashlib.sha256(json.dumps(placement.to_json()).encode()).hexdigest()


def digests_elsewhere(instances: Sequence[Instance], hash_seed: str) -> list[str]:
    """The checksums as another process computes them."""
    words = [json.dumps(asdict(instance)) for instance in instances]
    done = subprocess.run(
        [sys.executable, __file__, "--digest", *words],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def same_everywhere(instances: Sequence[Instance]) -> bool:
    """Whether two processes with different seeds of ``hash`` place all instances alike."""
    return digests_elsewhere(instances, "1") == digests_elsewhere(instances, "2")


# Report ----------------------------------------------------------------------------------------------------------


def print_tables(rows: Sequence[Row], same: bool) -> None:
    """The report in Markdown: a line for each graph and size, over all seeds."""
    groups = grouped(rows)
    print(
        "| graph | ops | variables | fused | formulate | solve | place | place, wall | proven optimal | gap |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for (kind, _), group in groups.items():
        sizes = [_mean(getattr(row, name) for row in group) for name in ("ops", "variables", "fused")]
        times = [_mean(getattr(row, name).cpu for row in group) for name in ("formulate", "solve", "place")]
        times.append(_mean(row.place.wall for row in group))
        optimal = f"{sum(row.optimal for row in group)} of {len(group)}"
        cells = [f"{size:.0f}" for size in sizes] + [f"{seconds:.2f} s" for seconds in times]
        print(f"| {kind} | {' | '.join(cells)} | {optimal} | {max(row.gap for row in group):.2%} |")
    print(f"\n| cost / ours | ops | {' | '.join(PLANNERS)} |\n|---|---:|{'---:|' * len(PLANNERS)}")
    for (kind, _), group in groups.items():
        print(f"| {kind} | {_mean(row.ops for row in group):.0f} | {_ratios(group)} |")
    print(f"| geometric mean | | {_ratios(rows)} |")
    print(f"\nTwo processes with different hash seeds make {'equal' if same else 'DIFFERENT'} plans.")


def grouped(rows: Sequence[R]) -> dict[tuple[str, int], list[R]]:
    """The rows of each kind and size of graph."""
    groups: dict[tuple[str, int], list[R]] = {}
    for row in rows:
        groups.setdefault((row.instance.kind, row.instance.ops), []).append(row)
    return groups


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def _ratios(rows: Sequence[Row]) -> str:
    return " | ".join(f"{ratio:.3f}" for ratio in geometric_means(rows).values())


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="small graphs, to see that everything works")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--ops", nargs="+", type=int, default=[1_000, 10_000])
    parser.add_argument("--seeds", type=int, default=3, help="instances of each graph")
    parser.add_argument("--no-patterns", action="store_true", help="leave the fused kernels out")
    parser.add_argument("--regions", action="store_true", help="add two region compilers")
    parser.add_argument(
        "--backends", type=int, default=len(DEVICES), help="how many of the devices there are"
    )
    parser.add_argument("--makespan", action="store_true", help="when placements end, and nothing else")
    parser.add_argument("--digest", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.digest:
        for word in options.digest:
            print(digest(Instance(**json.loads(word))))
        return
    sizes = [60] if options.quick else options.ops
    instances = [
        Instance(kind, ops, seed, not options.no_patterns, options.regions, options.backends)
        for ops in sizes
        for kind in options.kinds
        for seed in range(options.seeds)
    ]
    if options.makespan:
        ends = [measure_ends(instance) for instance in instances]
        if options.json:
            print(json.dumps([asdict(row) for row in ends], indent=2))
        else:
            print_ends(ends)
        return
    rows = [measure(instance) for instance in instances]
    first = [i for i in instances if i.ops == min(sizes) and i.seed == 0]
    same = same_everywhere(first + [replace(i, objective="makespan") for i in first if i.ops <= 100])
    if options.json:
        report = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "instances": [asdict(row) for row in rows],
            "geometric_means": geometric_means(rows),
            "deterministic": same,
        }
        print(json.dumps(report, indent=2))
    else:
        print_tables(rows, same)


if __name__ == "__main__":
    main()

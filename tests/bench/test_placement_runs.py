"""The placement script runs, no rival is ever cheaper, optima are optima, and hash seeds change nothing. Nothing is timed."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest

import opyard as oy
from covering import Covered, covers
from opyard.selection import Candidate, Policy

FOLDER = Path(__file__).parent
SCRIPT = FOLDER / "placement.py"
sys.path.insert(0, str(FOLDER))  # the script and its parts import each other by name

from graphs import KINDS, HashedCosts, make_graph, make_registry  # noqa: E402
from planners import PLANNERS, complete  # noqa: E402

from opyard.placement.candidates import Collector  # noqa: E402
from opyard.placement.match import Match  # noqa: E402
from opyard.placement.place import formulate  # noqa: E402
from opyard.placement.solver import Effort  # noqa: E402
from opyard.scope import Scope  # noqa: E402

TINY = 500
EXACT = Effort(memory_gap=0.0, parts=100_000)
BY_ROOM = Effort(memory_gap=0.0, parts=0, offspring=4, rooms=12, room_gap=0.0)
CHUNKS = 10


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """What the script reports about small graphs."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--json", "--seeds", "2"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_no_rival_is_cheaper(report: dict[str, Any]) -> None:
    assert {row["instance"]["kind"] for row in report["instances"]} == set(KINDS)
    for row in report["instances"]:
        assert row["rivals"].keys() == PLANNERS.keys()
        for name, ratio in row["rivals"].items():
            assert ratio >= 1, (row["instance"], name)
    assert min(report["geometric_means"].values()) >= 1


def test_small_graphs_are_placed_optimally(report: dict[str, Any]) -> None:
    for row in report["instances"]:
        assert row["optimal"], row["instance"]
        assert row["gap"] == 0


def test_two_processes_place_alike(report: dict[str, Any]) -> None:
    assert report["deterministic"]


def test_the_tables_name_every_graph_and_rival() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--kinds", "resnet"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "\n| resnet |" in done.stdout
    assert "3 of 3" in done.stdout
    assert f"| cost / ours | ops | {' | '.join(PLANNERS)} |" in done.stdout
    assert "make equal plans" in done.stdout


def test_the_script_for_memory_runs_and_limits_are_kept() -> None:
    rows = run_script("memory.py", "--kinds", "resnet", "unet", "--ops", "40", "--parts", "0.5")
    assert [row["kind"] for row in rows] == ["resnet", "unet"]
    for row in rows:
        assert row["free_seconds"] <= row["seconds"]
        assert 0 <= row["gap"] < 1


def test_the_script_for_predictions_runs() -> None:
    rows = run_script("predictions.py", "--seconds", "0.2", "--runs", "1")
    assert {(row["name"], row["costs"]) for row in rows} >= {
        ("digits, batch of 52", "roofline"),
        ("transformer layers", "tuned"),
    }
    for row in rows:
        assert row["predicted"] > 0 and row["measured"] > 0
        assert row["allowed"] in ("all", *row["used"])


def run_script(name: str, *arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(FOLDER / name), "--json", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_the_earliest_ends_are_told_and_never_later_than_the_start() -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        "--quick",
        "--makespan",
        "--seeds",
        "1",
        "--kinds",
        "inception",
        "layered",
    ]
    text, found = (
        subprocess.run([*command, *more], capture_output=True, text=True, check=True, timeout=300).stdout
        for more in ([], ["--json"])
    )
    assert (
        "| graph | ops | one after the other | in graph order | listed | HEFT | ours | bound | gap | search |"
        in text
    )
    rows = json.loads(found)
    assert [row["instance"]["kind"] for row in rows] == ["inception", "layered"]
    for row in rows:
        assert (
            row["bound"]
            <= row["ours"]
            <= row["listed"]
            <= row["graph_order"]
            <= row["least_sum"]
            <= row["our_sum"]
        )
        assert f"| {row['instance']['kind']} |" in text


# Brute force -----------------------------------------------------------------------------------------------------


def best_of_each_device(rows: Covered) -> Covered:
    """The fastest kernel of each device for each match; slower ones are never better."""
    found: dict[Any, tuple[Match, Candidate]] = {}
    for match, candidate in sorted(rows, key=lambda row: row[1].seconds):
        found.setdefault((match, candidate.device), (match, candidate))
    return list(found.values())


class FirstPrinciples:
    """The price of a cover: kernels, and for each tensor the cheapest tree of copies to where it is needed."""

    def __init__(self, graph: oy.Graph, devices: list[oy.Device], costs: HashedCosts) -> None:
        self.graph = graph
        self.devices = devices
        self.costs = costs
        self.home = next(d for d in devices if d.memory == "host")
        self.delivery = cache(self._delivery)

    def seconds(self, cover: Covered) -> float:
        """Seconds of one run."""
        total = sum(candidate.seconds for _, candidate in cover)
        made = {value: candidate.device for match, candidate in cover for value in match.outputs}
        needed: dict[oy.Value, set[oy.Device]] = {}
        for match, candidate in cover:
            for value in match.inputs:
                if value is not None and value not in self.graph.constants:
                    needed.setdefault(value, set()).add(candidate.device)
        for value in self.graph.outputs.values():
            needed.setdefault(value, set()).add(self.home)
        for value, targets in needed.items():
            source = made.get(value, self.home)
            total += self.delivery(source, frozenset(targets - {source}), value.spec.nbytes)
        return total

    def _delivery(self, source: oy.Device, targets: frozenset[oy.Device], nbytes: int) -> float:
        """The cheapest set of copies that brings an array to all targets, by trying all: each may go by any other."""
        others = [device for device in self.devices if device is not source]
        best = float("inf")
        for count in range(len(targets), len(others) + 1):
            for reached in itertools.combinations(others, count):
                if targets <= set(reached):
                    for parents in itertools.product((source, *others), repeat=count):
                        tree = dict(zip(reached, parents, strict=True))
                        if all(self._leads_back(device, tree, source) for device in reached):
                            copies = (self.costs.transfer_seconds(p, d, nbytes) for d, p in tree.items())
                            best = min(best, sum(copies))
        return best

    @staticmethod
    def _leads_back(device: oy.Device, tree: dict[oy.Device, oy.Device], source: oy.Device) -> bool:
        for _ in tree:
            if device is source:
                return True
            if device not in tree:
                return False
            device = tree[device]
        return device is source

    def peaks(self, cover: Covered) -> dict[oy.Device, int]:
        """The most bytes that lie in the memory of each device, by the rules that placement/memory.py states."""
        graph, end = self.graph, len(self.graph.nodes)
        step = {node: number for number, node in enumerate(graph.nodes)}
        runs = {node: (step[match.anchor], c.device) for match, c in cover for node in match.nodes}
        usage = {device: [0] * (end + 1) for device in self.devices}

        def keep(value: oy.Value, device: oy.Device, begin: int, last: int) -> None:
            for number in range(begin, last + 1):
                usage[device][number] += value.spec.nbytes

        for value in graph.inputs.values():
            keep(value, self.home, 0, end)
        for value in graph.constants:
            for device in {runs[n][1] for n in graph.nodes if any(v is value for v in n.inputs)}:
                keep(value, device, 0, end)
        made = {value: runs[match.anchor] for match, _ in cover for value in match.outputs}
        made |= dict.fromkeys(graph.inputs.values(), (0, self.home))
        for value, (begin, source) in made.items():
            outside = [(m, c) for m, c in cover if any(v is value for v in m.inputs)]
            fetched = any(v is value for v in graph.outputs.values())
            readers = [node for node in graph.nodes if any(v is value for v in node.inputs)]
            ends = [(step[m.anchor], c.device) for m, c in outside] + [(end, self.home)] * fetched
            own = [step[node] for node in readers] + [end] * fetched
            last = max(own, default=begin) if len(own) > 1 else max([begin, *(e for e, _ in ends)])
            for device in {source, *(d for _, d in ends)} - ({self.home} if value.node is None else set()):
                keep(value, device, begin, max(begin, last))
            for anchor, device in {(e, d) for e, d in ends if e > last}:
                if value.node is not None or device is not self.home:
                    keep(value, device, last + 1, anchor)
        return {device: max(row) for device, row in usage.items()}


def constrained(
    graph: oy.Graph, devices: list[oy.Device], usable: dict[oy.Node, Covered], random: Random
) -> None:
    """Pins one node of three to a device that can run it, and colocates two nodes of every other graph."""
    for node in graph.nodes:
        if random.random() < 0.3:
            names = sorted({c.device.name for m, c in usable[node] if len(m.nodes) == 1})
            node.mark = node.mark._replace(scope=Scope(random.choice(names)))
    if len(graph.nodes) > 1 and random.random() < 0.5:
        for node in random.sample(graph.nodes, 2):
            node.mark = node.mark._replace(group=0)


def is_colocated(cover: Covered) -> bool:
    return len({c.device for m, c in cover for node in m.nodes if node.mark.group == 0}) <= 1


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_tiny_graphs_and_all_prices_agree_with_brute_force(chunk: int) -> None:
    for seed in range(chunk, TINY, CHUNKS):
        random = Random(seed)
        graph = make_graph(("window", "layered")[seed % 2], 1 + seed % 4, seed, shared=bool(seed % 3))
        registry, devices = make_registry(seed, patterns=True)
        costs = HashedCosts(seed)
        if seed % 4 > 1:
            constrained(
                graph, devices, Collector(devices, registry, Policy(), costs).ways(graph, [])[0], random
            )
        usable, _ = Collector(devices, registry, Policy(), costs).ways(graph, [])
        ways = {node: best_of_each_device(rows) for node, rows in usable.items()}
        judge = FirstPrinciples(graph, devices, costs)
        possible = [cover for cover in covers(graph, ways) if is_colocated(cover)]
        if not possible:
            with pytest.raises(oy.errors.PlacementError, match=r"is colocated with|cannot be combined"):
                oy.place(graph, devices, registry, costs, policy=Policy())
            continue
        placement = oy.place(graph, devices, registry, costs, policy=Policy())
        assert placement.is_optimal
        chosen = [(decision.match, decision.chosen) for decision in placement.decisions]
        assert judge.seconds(chosen) == pytest.approx(placement.seconds, abs=1e-8)
        least: dict[object, float] = {}
        for cover in possible:
            seconds = judge.seconds(cover)
            for match, candidate in cover:
                key = match.nodes, candidate.kernel.id, candidate.device.name
                least[key] = min(seconds, least.get(key, seconds))
        assert min(least.values()) == pytest.approx(placement.seconds, abs=1e-8)
        priced = 0
        for decision in placement.decisions:
            for other in decision.alternatives:
                key = other.match.nodes, other.candidate.kernel.id, other.candidate.device.name
                if other.extra_seconds is not None and key in least:
                    forced = least[key] - placement.seconds
                    assert other.extra_seconds == pytest.approx(forced, abs=1e-8)
                    priced += 1
        assert priced or seed % 4 > 1
        if seed % 4 < 3:
            limited(placement, possible, judge, random, (graph, devices, registry, costs))


def limited(
    free: oy.Placement, possible: list[Covered], judge: FirstPrinciples, random: Random, arguments: Any
) -> None:
    """Limits between nothing and what the placement without limits needs: brute force finds the same cost, or nothing either."""
    needs = judge.peaks([(d.match, d.chosen) for d in free.decisions])
    memory = {
        d.name: int(random.random() * needs[d]) for d in judge.devices if needs[d] and d.memory != "host"
    }
    if random.random() < 0.2:
        memory["host:0"] = int(needs[judge.home] * random.uniform(0.5, 1.2))
    fits = [c for c in possible if all(judge.peaks(c)[d] <= memory.get(d.name, 1e18) for d in judge.devices)]
    if not fits:
        with pytest.raises(oy.errors.PlacementError, match=r"^no placement keeps within the memory limits: "):
            oy.place(*arguments, policy=Policy(), memory=memory, effort=EXACT)
        return
    placement = oy.place(*arguments, policy=Policy(), memory=memory, effort=EXACT)
    assert placement.seconds == pytest.approx(min(map(judge.seconds, fits)), abs=1e-8)
    assert placement.is_optimal
    by_room = oy.place(*arguments, policy=Policy(), memory=memory, effort=BY_ROOM)
    assert by_room.bound <= placement.seconds + 1e-8 <= by_room.seconds + 2e-8
    for within in (placement, by_room):
        found = judge.peaks([(d.match, d.chosen) for d in within.decisions])
        assert all(found[d] <= memory.get(d.name, 1e18) for d in judge.devices)


@pytest.mark.parametrize("kind", ["transformer", "resnet", "inception", "unet"])
def test_regions_are_placed_optimally_and_alike(kind: str) -> None:
    registry, devices = make_registry(0, patterns=True, regions=True)
    graph, costs = make_graph(kind, 200), HashedCosts()
    placement = oy.place(graph, devices, registry, costs, policy=Policy())
    assert placement.is_optimal
    used = [d for d in placement.decisions if d.chosen.kernel.name == "regions"]
    assert max(len(d.match.nodes) for d in used) >= 4
    blocked = Policy(block=("large/regions", "small/regions"))
    assert oy.place(graph, devices, registry, costs, policy=blocked).seconds > placement.seconds
    again = oy.place(graph, devices[::-1], registry, costs, policy=Policy())
    assert [d.match.nodes for d in again.decisions] == [d.match.nodes for d in placement.decisions]
    judge = FirstPrinciples(placement.graph, devices, costs)
    cover = [(decision.match, decision.chosen) for decision in placement.decisions]
    assert judge.seconds(cover) == pytest.approx(placement.seconds, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_rivals_make_plans_that_can_run(kind: str) -> None:
    registry, devices = make_registry(1, patterns=True)
    costs = HashedCosts(1)
    problem, *_ = formulate(make_graph(kind, 40, 1), devices, registry, costs, policy=Policy())
    judge = FirstPrinciples(problem.graph, devices, costs)
    for name, plan in PLANNERS.items():
        labels, nanoseconds = complete(problem, plan(problem))
        chosen = [options.choices[labels[n]][0] for n, options in enumerate(problem.options)]
        cover = [(choice.match, choice.candidate) for choice in chosen if choice.pays]
        assert sorted(problem.number[node] for match, _ in cover for node in match.nodes) == list(
            range(len(problem.graph.nodes))
        ), name
        assert nanoseconds / 1e9 == pytest.approx(judge.seconds(cover), abs=1e-6), name

"""Makespan: a placement whose steps are done soonest on devices that work at the same time.

The start is the best of: the placement with the least sum of all times, one by list scheduling (HEFT), and those with the
least sum when the time of busy processors is dearer. Then regions of the graph are moved to another processor: the region is freed, with the labels of that processor alone, and solved exactly; what is around
it stays. A move is kept if the schedule ends sooner. Sources: H. Topcuoglu, S. Hariri, M. Wu, "Performance-effective and
low-complexity task scheduling for heterogeneous computing", IEEE Transactions on Parallel and Distributed Systems 13 (2002);
P. Shaw, "Using constraint programming and local search methods to solve vehicle routing problems", CP 1998. The budget counts
the tasks of the schedules that are tried, so equal inputs give equal results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np

from .elimination import Elimination
from .network import Costs, Labels
from .ordering import in_order
from .orders import smallest_first
from .places import whole_nanoseconds
from .problem import Choice, Problem
from .schedule import Clock, Schedule, Scheduler, Task
from .solver import SMALL_TABLE, Effort, solve

ROUGH = Effort(turns=1)
"""The work for labels on given processors."""

SIZES = (1, 4, 12, 40)
"""Nodes of a region."""

HASTE, PATIENCE = 0.3, 3
"""How much prices of processors change at once, and after how many changes in vain they change no more."""

Fits = Callable[[Sequence[Choice]], bool]


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """Labels, their matches in the order of the schedule, and when that ends and what it costs, in nanoseconds."""

    labels: list[int]
    ordered: list[Choice]
    end: float
    cost: float


def processors_of(problem: Problem) -> list[str]:
    """The processors that can take part: those of all candidates, and of what lives elsewhere."""
    devices = {c.candidate.device for o in problem.options for same in o.choices for c in same}
    return sorted({device.processor for device in (*devices, *problem.homes.devices)})


def earliest_end(problem: Problem, least: float, processors: int) -> float:
    """No placement ends before this nanosecond. ``least`` is a lower bound of the sum of all times.

    A way through the graph takes at least its fastest kernels with their copies, of a kernel for several nodes an equal
    share for each; and at best all processors are busy all the time.
    """
    reached: list[Costs] = []
    end = 0.0
    for node in problem.graph.nodes:
        options = problem.options[problem.number[node]]
        arrives = np.zeros(len(options.choices))
        for port, value in enumerate(node.inputs):
            if value is None or value in problem.graph.constants:
                continue
            gives, since = problem.start(value), np.zeros(1)
            if value.node is not None:
                producer = problem.number[value.node]
                gives, since = problem.options[producer].gives[:, value.index], reached[producer]
            ways = problem.table(value, gives, options.takes[:, port])
            arrives = np.maximum(arrives, (since[:, None] + ways).min(axis=0))
        shares = [
            whole_nanoseconds(same[0].candidate.seconds) / len(same[0].match.nodes)
            for same in options.choices
        ]
        reached.append(arrives + np.array(shares))
    for value, devices in problem.homes.wanted.items():
        if value.node is not None and value not in problem.graph.constants:
            producer = problem.number[value.node]
            gives = problem.options[producer].gives[:, value.index]
            goals = np.array([problem.places.of(device) for device in devices])
            last = reached[producer] + problem.table(value, gives, goals).max(axis=1)
            end = max(end, float(last.min()))
    return float(np.ceil(max(end, least / processors) - 1e-2))


class Search:
    """The state of a search: the best placement so far, and how many tasks may still be scheduled.

    fits  whether the matches keep within the limits of memory in this order
    """

    best: Trial

    def __init__(self, problem: Problem, fits: Fits) -> None:
        self.problem = problem
        self.fits = fits
        self.budget = 0
        self._turn = 0
        self.scheduler = Scheduler(problem.graph, problem.places, problem.homes)
        self._tasks: dict[Choice, Task] = {}
        self._known: set[bytes] = set()
        self._near: list[set[int]] = [set() for _ in problem.options]
        for tensor in problem.tensors:
            for reader, _ in tensor.readers:
                if reader >= 0 and tensor.producer >= 0:
                    self._near[reader].add(tensor.producer)
                    self._near[tensor.producer].add(reader)

    def task(self, choice: Choice) -> Task:
        """The task of a choice."""
        if choice not in self._tasks:
            self._tasks[choice] = self.scheduler.task(choice.match, choice.candidate)
        return self._tasks[choice]

    def improved(self, start: Trial, budget: int) -> Trial:
        """A placement that ends sooner than the one given, or that one."""
        self.best, self.budget = start, budget
        listed = self.listed()
        if listed is not None:
            self._keep(self._trial(listed, self.problem.network.cost(listed)))
        self.balance(start)
        self.climb()
        return self.best

    def schedule(self, trial: Trial) -> Schedule:
        """The schedule of a placement."""
        return self.scheduler.schedule([self.task(choice) for choice in trial.ordered])

    def arranged(self, labels: list[int], ordered: list[Choice], cost: float) -> Trial:
        """Labels in the better of two orders: the given one, and, if it fits, that of list scheduling."""
        trial = Trial(labels, ordered, self.scheduler.nanoseconds([self.task(c) for c in ordered]), cost)
        listed = self._listed(labels, ordered, cost)
        return listed if listed.end < trial.end and self.fits(listed.ordered) else trial

    def _listed(self, labels: list[int], ordered: list[Choice], cost: float) -> Trial:
        """Labels in the order of list scheduling, given some order that can run."""
        self.budget -= len(ordered)
        choices = {choice.match: choice for choice in ordered}
        tasks, end = self.scheduler.order([self.task(choice) for choice in ordered])
        return Trial(labels, [choices[task.match] for task in tasks], end, cost)

    def _trial(self, labels: list[int], cost: float) -> Trial | None:
        """Labels in an order for them; None where they were tried before or cannot run."""
        key = np.array(labels).tobytes()
        if not np.isfinite(cost) or key in self._known:
            return None
        self._known.add(key)
        ordered, stuck = in_order(self.problem, labels)
        return None if stuck else self._listed(labels, ordered, cost)

    def _keep(self, trial: Trial | None) -> bool:
        """Keeps a placement that ends sooner than the best, or as soon with less work; gives whether it did."""
        if trial is None or (trial.end, trial.cost) >= (self.best.end, self.best.cost):
            return False
        if not self.fits(trial.ordered):
            return False
        self.best = trial
        return True

    # Starts ------------------------------------------------------------------------------------------------------

    def listed(self) -> list[int] | None:
        """Labels by list scheduling: each node alone where it ends first; then, on those processors, at the least cost."""
        problem = self.problem
        alone = [np.flatnonzero(options.groups < 0).tolist() for options in problem.options]
        if not all(alone):
            return None
        rank = self._mean_ranks(alone)
        clock = Clock(self.scheduler)
        keep: list[Labels] = [np.arange(len(costs)) for costs in problem.network.unary]
        for number in sorted(range(len(alone)), key=lambda n: (-rank[n], n)):
            options = problem.options[number]
            tasks = [self.task(options.choices[label][0]) for label in alone[number]]
            task = min(tasks, key=lambda task: clock.outlook(task).end)
            clock.issue(task)
            keep[number] = self._labels_on(number, task.processor)
        solution = solve(problem.network.restricted(keep), ROUGH)
        return [int(kept[label]) for kept, label in zip(keep, solution.labels, strict=True)]

    def _mean_ranks(self, alone: list[list[int]]) -> list[float]:
        """For each node the length of the longest way to the end, with means of kernels and copies."""
        problem = self.problem
        behind = [0.0] * len(alone)
        for node in reversed(problem.graph.nodes):
            number = problem.number[node]
            behind[number] += float(np.mean(problem.options[number].costs[alone[number]]))
            for value in node.inputs:
                if value is not None and value.node is not None and value not in problem.graph.constants:
                    move = float(np.mean(problem.places.table(value.spec)[:-1, :-1]))
                    maker = problem.number[value.node]
                    behind[maker] = max(behind[maker], behind[number] + move)
        return behind

    def _labels_on(self, number: int, processor: str) -> Labels:
        """The labels of a node on a processor; all of them where there is none."""
        choices = self.problem.options[number].choices
        found = [n for n, same in enumerate(choices) if same[0].candidate.device.processor == processor]
        return np.array(found or range(len(choices)))

    def balance(self, trial: Trial) -> None:
        """Placements of the least sum of all times when the time of a busy processor is dearer than that of an idle one."""
        options, network = self.problem.options, self.problem.network
        prices = dict.fromkeys(processors_of(self.problem), 1.0)
        processors = [[same[0].candidate.device.processor for same in o.choices] for o in options]
        idle = 0
        while self.budget > 0 and idle < PATIENCE:
            schedule = self.schedule(trial)
            load = {p: schedule.busy.get(p, 0.0) / max(schedule.seconds, 1e-12) for p in prices}
            mean = sum(load.values()) / len(load)
            prices = {p: price * (1.0 + HASTE * (load[p] - mean)) for p, price in prices.items()}
            least = min(prices.values())
            unary = list(network.unary)
            for number, names in enumerate(processors):
                unary[number] = np.rint(unary[number] * [prices[p] / least for p in names])
            labels = solve(network.with_unary(unary), ROUGH).labels
            found = self._trial(labels, network.cost(labels))
            if found is None:
                return
            trial, idle = found, 0 if self._keep(found) else idle + 1

    # Moves -------------------------------------------------------------------------------------------------------

    def climb(self) -> None:
        """Moves regions until no move of any helps, or the budget is spent."""
        while any(self._move(*turn) for turn in self._turns()):
            pass

    def _turns(self) -> Iterator[tuple[int, str, int]]:
        """Moves to try: a centre, a processor and a size; first around those nodes that the end waits for."""
        processors, nodes = processors_of(self.problem), range(len(self.problem.options))
        critical = self._critical()
        for centres in (sorted(critical), [node for node in nodes if node not in critical]):
            turns = [(n, p, size) for size in SIZES for n in centres for p in processors]
            step = stride(len(turns))
            for _ in turns:
                if self.budget <= 0:
                    return
                self._turn += 1  # goes on where the last move was, not at the first again
                yield turns[self._turn * step % len(turns)]

    def _critical(self) -> set[int]:
        """The nodes whose kernels, or whose tensors' copies, the end waits for."""
        found: set[int] = set()
        for span in self.schedule(self.best).critical:
            if span.match is not None:
                found |= {self.problem.number[node] for node in span.match.nodes}
            elif span.value is not None and span.value.node is not None:
                found.add(self.problem.number[span.value.node])
        return found

    def _move(self, centre: int, processor: str, size: int) -> bool:
        """Tries a region on another processor; gives whether that was better."""
        labels = self.best.labels
        if self._processor(centre) == processor:
            return False
        region = self._region(centre, size)
        ball = sorted(region | self._tensors(region))
        part = self.problem.network.freed(ball, labels)
        keep = [
            self._labels_on(v, processor) if v in region else np.arange(len(costs))
            for v, costs in zip(ball, part.unary, strict=True)
        ]
        there = part.restricted(keep)
        order = smallest_first(there, SMALL_TABLE)
        if len(order) < len(ball):
            return False
        solved = Elimination(there, order)
        moved = list(labels)
        for variable, kept, label in zip(ball, keep, solved.labels(), strict=True):
            moved[variable] = int(kept[label])
        before = part.cost([labels[variable] for variable in ball])
        return self._keep(self._trial(moved, self.best.cost + solved.optimum - before))

    def _processor(self, number: int) -> str:
        label = self.best.labels[number]
        return self.problem.options[number].choices[label][0].candidate.device.processor

    def _region(self, centre: int, size: int) -> set[int]:
        """The nearest nodes on the processor of the centre, and all that run in one kernel with any of them."""
        own = self._processor(centre)
        found, seen = [centre], {centre}
        for number in found:
            near = (
                self._match_of(number) if len(seen) >= size else self._match_of(number) | self._near[number]
            )
            for other in sorted(near - seen):
                if self._processor(other) == own:
                    seen.add(other)
                    found.append(other)
        return seen

    def _match_of(self, number: int) -> set[int]:
        """The nodes that run in one kernel with a node."""
        match = self.problem.options[number].choices[self.best.labels[number]][0].match
        return {self.problem.number[node] for node in match.nodes}

    def _tensors(self, region: set[int]) -> set[int]:
        """The variables beside the nodes that have tables with nodes of a region."""
        near = {v for number in region for v in self.problem.network.neighbours[number]}
        return {v for v in near if v >= len(self.problem.options)}


def stride(count: int) -> int:
    """A step through 0..count-1 that visits every number and jumps about."""
    step = max(1, int(count * 0.618))
    while gcd(step, count) != 1:
        step += 1
    return step

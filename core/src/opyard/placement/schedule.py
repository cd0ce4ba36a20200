"""Schedule: when each step of a run begins and ends on devices that work at the same time, and an order of steps.

The thread of the caller issues one step after the other. What a processor does is done in the order of issue:

* a kernel begins when its inputs are there, its processor is free and it is issued; one of the processor "host" holds the
  thread until it is done, any other is queued and holds nothing,
* a copy between devices holds the thread, which waits for it: it occupies the processors of both ends and the host's,
* a tensor is brought to a place once, from the cheapest of those where it is, when the first step needs it there.

The order is that of list scheduling (R. Graham, "Bounds on multiprocessing timing anomalies", SIAM Journal on Applied
Mathematics 17 (1969)) by the length of the longest way to the end (the upward rank of H. Topcuoglu, S. Hariri, M. Wu,
"Performance-effective and low-complexity task scheduling for heterogeneous computing", IEEE Transactions on Parallel and
Distributed Systems 13 (2002)), with one rule more: before the thread is held, what others could begin meanwhile is queued.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..driver import HOST, Device
from ..graph import Graph, Value
from ..selection import Candidate
from .homes import Homes
from .match import Match
from .places import NANOSECONDS, Hop, Places, whole_nanoseconds

WIDEST_VIEW = 8
"""Steps that hold the thread, those of the highest rank first, among which the earliest is looked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """From when to when, in seconds, something is done: a match is run, or ``value`` is brought from ``source`` to ``device``."""

    match: Match | None
    value: Value | None
    source: Device
    device: Device
    processors: tuple[str, ...]
    start: float
    end: float

    @property
    def what(self) -> str:
        """The last node of the match, or the tensor, by its name."""
        if self.match is not None:
            return self.match.anchor.name
        return "" if self.value is None else self.value.name

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        moved = "copy" if self.source is not self.device else "convert"
        return {
            "step": "run" if self.match is not None else moved,
            "what": self.what,
            "source": self.source.name,
            "device": self.device.name,
            "processors": list(self.processors),
            "start": self.start,
            "end": self.end,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """All that a run does, in the order in which it is issued.

    seconds  the end of the last
    bound    no placement can end sooner, by the same predictions
    """

    spans: tuple[Span, ...]
    seconds: float
    bound: float = 0.0

    @property
    def critical(self) -> list[Span]:
        """Steps from the last to the first that the end waited for, each begun when the one after it in the list was done."""
        chain: list[Span] = []
        end = self.seconds
        for span in reversed(self.spans):
            if span.end == end and (not chain or _holds_up(span, chain[-1])):
                chain.append(span)
                end = span.start
        return chain

    @property
    def busy(self) -> dict[str, float]:
        """Seconds for which each processor is occupied, by its name."""
        found: dict[str, float] = {}
        for span in self.spans:
            for processor in span.processors:
                found[processor] = found.get(processor, 0.0) + span.end - span.start
        return dict(sorted(found.items()))

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "seconds": self.seconds,
            "bound": self.bound,
            "busy": self.busy,
            "steps": [span.to_json() for span in self.spans],
        }


def _holds_up(span: Span, later: Span) -> bool:
    """Whether a step may be why another did not begin sooner: it occupied its processor or the thread, or made what it takes."""
    if HOST in span.processors or not set(span.processors).isdisjoint(later.processors):
        return True
    takes = (later.value,) if later.match is None else later.match.inputs
    makes = (span.value,) if span.match is None else span.match.outputs
    return any(made is taken for made in makes for taken in takes)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A match with its candidate: where it takes and gives tensors, constants aside, and how long it takes.

    What it takes comes with the nanoseconds of bringing it there from each place.
    """

    match: Match
    device: Device
    processor: str
    nanoseconds: float
    takes: tuple[tuple[Value, int, list[float]], ...]
    gives: tuple[tuple[Value, int], ...]


class Outlook(NamedTuple):
    """About what would be, were a task issued next: when it holds the thread and lets go, when it ends, what it occupies until it lets go."""

    begin: float
    until: float
    end: float
    occupied: set[str]


class Scheduler:
    """Schedules of placements of one graph. ``homes`` are where feeds begin and fetches end."""

    def __init__(self, graph: Graph, places: Places, homes: Homes) -> None:
        self.graph = graph
        self.places = places
        self.homes = homes

    def task(self, match: Match, candidate: Candidate) -> Task:
        """A match as the schedule sees it."""
        kernel, device, of = candidate.kernel, candidate.device, self.places.of
        takes = {
            (value, of(device, kernel.input_layout(match.work, port))): None
            for port, value in enumerate(match.inputs)
            if value is not None and value not in self.graph.constants
        }
        moves = [(v, place, self.places.table(v.spec)[:, place].tolist()) for v, place in takes]
        gives = [(v, of(device, kernel.output_layout(port))) for port, v in enumerate(match.outputs)]
        nanoseconds = whole_nanoseconds(candidate.seconds)
        return Task(match, device, device.processor, nanoseconds, tuple(moves), tuple(gives))

    def schedule(self, tasks: Sequence[Task]) -> Schedule:
        """The schedule of tasks that are issued in this order, each after those that make its inputs."""
        clock = Clock(self, record=True)
        end = clock.run(tasks)
        return Schedule(tuple(clock.spans), end / NANOSECONDS)

    def nanoseconds(self, tasks: Sequence[Task]) -> float:
        """The end of that schedule."""
        return Clock(self).run(tasks)

    def order(self, tasks: Sequence[Task]) -> tuple[list[Task], float]:
        """An order in which processors wait little, by list scheduling, and the nanosecond at which all is done.

        ``tasks`` are in some order that can run.
        """
        lister = _Lister(self, tasks)
        ordered = lister.order()
        return ordered, lister.clock.finish()


class Clock:
    """The state of a run while its steps are issued: when each processor is free, and where tensors are from when on."""

    def __init__(self, scheduler: Scheduler, record: bool = False) -> None:
        self.places = scheduler.places
        self.graph = scheduler.graph
        self.homes = scheduler.homes
        self.free: dict[str, float] = {HOST: 0.0}
        self.held: dict[Value, dict[int, tuple[float, Device]]] = {
            value: {self.places.of(self.homes.of(value)): (0.0, self.homes.of(value))}
            for value in self.graph.inputs.values()
        }
        self.spans: list[Span] = []
        self.end = 0.0
        self.moves = 0
        self._record = record

    def run(self, tasks: Sequence[Task]) -> float:
        """Issues all tasks and brings what is fetched home; gives the nanosecond at which all is done."""
        for task in tasks:
            self.issue(task)
        return self.finish()

    def finish(self) -> float:
        """Brings what is fetched home; gives the nanosecond at which all is done."""
        for value, devices in self.homes.wanted.items():
            for device in devices if value in self.held else ():
                self._bring(value, self.places.of(device))
        return self.end

    def issue(self, task: Task) -> None:
        """Brings what a task takes to where it takes it, and runs it."""
        ready = 0.0
        for value, place, _ in task.takes:
            ready = max(ready, self._bring(value, place))
        end = self._occupy(
            (task.processor,), ready, task.nanoseconds, task.match, None, task.device, task.device
        )
        for value, place in task.gives:
            self.held[value] = {place: (end, task.device)}

    def _bring(self, value: Value, place: int) -> float:
        """From when on a tensor is at a place, brought there if need be."""
        held = self.held[value]
        if place not in held:
            at, hops = self.places.route(value.spec, held, place)
            for hop in hops:
                held[hop.place] = self._convert(value, at, hop), hop.target
                at = hop.place
        return held[place][0]

    def _convert(self, value: Value, at: int, hop: Hop) -> float:
        ready, source = self.held[value][at]
        self.moves += 1
        processors: tuple[str, ...] = (hop.target.processor,)
        if hop.candidate is not None:
            length = whole_nanoseconds(hop.candidate.seconds)
        else:
            length = float(self.places.table(value.spec)[at, hop.place])
            processors = tuple(dict.fromkeys((HOST, source.processor, hop.target.processor)))
        return self._occupy(processors, ready, length, None, value, source, hop.target)

    def _occupy(
        self,
        processors: tuple[str, ...],
        ready: float,
        length: float,
        match: Match | None,
        value: Value | None,
        source: Device,
        device: Device,
    ) -> float:
        """Does something as soon as it can be; gives the nanosecond at which it is done."""
        start = max(ready, self.free[HOST])
        for processor in processors:
            start = max(start, self.free.get(processor, 0.0))
        end = start + length
        for processor in processors:
            self.free[processor] = end
        self.end = max(self.end, end)
        if self._record:
            times = start / NANOSECONDS, end / NANOSECONDS
            self.spans.append(Span(match, value, source, device, processors, *times))
        return end

    # What would be -----------------------------------------------------------------------------------------------

    def is_queued(self, task: Task) -> bool:
        """Whether a task would hold nothing: its processor is not the host's, and its inputs need not be brought."""
        return task.processor != HOST and all(place in self.held[value] for value, place, _ in task.takes)

    def beginning(self, task: Task) -> float:
        """When a task would begin whose inputs need not be brought."""
        start = max(self.free[HOST], self.free.get(task.processor, 0.0))
        for value, place, _ in task.takes:
            start = max(start, self.held[value][place][0])
        return start

    def outlook(self, task: Task) -> Outlook:
        """What would be, were a task issued next; copies are taken to follow one another at once."""
        occupied = {HOST}
        begin, ready, length = self.free[HOST], 0.0, 0.0
        for value, place, cost in task.takes:
            held = self.held[value]
            if place in held:
                ready = max(ready, held[place][0])
                continue
            at = min((cost[known], known) for known in held)[1]
            since, source = held[at]
            processor = source.processor
            occupied.add(processor)
            length += cost[at]
            begin = max(begin, since, self.free.get(processor, 0.0))
        if length:
            occupied.add(task.processor)
            begin = max(begin, self.free.get(task.processor, 0.0))
        elif task.processor == HOST:
            begin = max(begin, ready)
        until = begin + length
        end = max(until, ready, self.free.get(task.processor, 0.0)) + task.nanoseconds
        return Outlook(begin, end if task.processor == HOST else until, end, occupied)


class _Lister:
    """List scheduling. Tasks are numbered as given; ready ones wait in a queue of their processor, or to hold the thread."""

    def __init__(self, scheduler: Scheduler, tasks: Sequence[Task]) -> None:
        self.tasks = tasks
        self.clock = Clock(scheduler)
        maker = {value: (number, place) for number, task in enumerate(tasks) for value, place in task.gives}
        self.readers: list[list[tuple[int, float]]] = [[] for _ in tasks]  # with the time to bring it there
        self.missing: list[int] = []
        for number, task in enumerate(tasks):
            made = [(maker[value], cost) for value, _, cost in task.takes if value in maker]
            for (other, place), cost in made:
                self.readers[other].append((number, cost[place]))
            self.missing.append(len(made))
        self.rank = self._ranks()
        self.queues: dict[str, list[tuple[float, int]]] = {}
        self.holding: list[tuple[float, int]] = []
        self.moves = 0

    def _ranks(self) -> list[float]:
        """For each task the nanoseconds from its beginning to the end of all that waits for it, were nothing else to do."""
        rank = [0.0] * len(self.tasks)
        for number in reversed(range(len(self.tasks))):
            behind = max((move + rank[reader] for reader, move in self.readers[number]), default=0.0)
            rank[number] = self.tasks[number].nanoseconds + behind
        return rank

    def order(self) -> list[Task]:
        for number, count in enumerate(self.missing):
            if not count:
                self._wait(number)
        ordered: list[Task] = []
        while len(ordered) < len(self.tasks):
            number = self._next()
            self.clock.issue(self.tasks[number])
            ordered.append(self.tasks[number])
            for reader, _ in self.readers[number]:
                self.missing[reader] -= 1
                if not self.missing[reader]:
                    self._wait(reader)
        return ordered

    def _wait(self, number: int) -> None:
        task, entry = self.tasks[number], (-self.rank[number], number)
        if self.clock.is_queued(task):
            heapq.heappush(self.queues.setdefault(task.processor, []), entry)
        else:
            heapq.heappush(self.holding, entry)

    def _next(self) -> int:
        """Takes the next task out of where it waits."""
        holder, until, occupied = self._holder()
        found: tuple[float, float, int] | None = None
        for processor, queue in self.queues.items():
            if queue:
                low, number = queue[0]
                start = self.clock.beginning(self.tasks[number])
                in_time = start < until and (
                    processor not in occupied or (low, number) < (holder or (0.0, 0))
                )
                if (holder is None or in_time) and (found is None or (start, low, number) < found):
                    found = start, low, number
        if found is not None:
            heapq.heappop(self.queues[self.tasks[found[2]].processor])
            return found[2]
        assert holder is not None
        self.holding.remove(holder)
        heapq.heapify(self.holding)
        return holder[1]

    def _holder(self) -> tuple[tuple[float, int] | None, float, set[str]]:
        """The task that would hold the thread first, until when, and what it would occupy."""
        if self.moves != self.clock.moves:  # what some take may have been brought for another
            self.moves = self.clock.moves
            waiting, self.holding = self.holding, []
            for _, number in waiting:
                self._wait(number)
        best: tuple[float, float, int] | None = None
        until, occupied = 0.0, {HOST}
        for low, number in heapq.nsmallest(WIDEST_VIEW, self.holding):
            seen = self.clock.outlook(self.tasks[number])
            if best is None or (seen.begin, low, number) < best:
                best, until, occupied = (seen.begin, low, number), seen.until, seen.occupied
        return (None if best is None else best[1:]), until, occupied

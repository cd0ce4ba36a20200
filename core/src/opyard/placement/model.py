"""What a placement is: one decision for each node, each with every alternative priced or refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..driver import Device
from ..graph import Graph, Node
from ..operation import Call
from ..ops._control import part_names
from ..selection import Candidate
from ..units import format_bytes, format_seconds
from .homes import Homes, Resident, describe_residents
from .match import Match
from .peaks import peak_bytes
from .places import Places
from .schedule import Schedule
from .wholes import Whole


@dataclass(frozen=True, slots=True, eq=False)
class Alternative:
    """A choice for ``node`` that was not taken: what the best plan with it costs beyond this one, or why it is refused."""

    node: Node
    match: Match
    candidate: Candidate
    extra_seconds: float | None
    refusal: str | None

    def __str__(self) -> str:
        where = f"{self.candidate.kernel.id} on {self.candidate.device.name}"
        if len(self.match.nodes) > 1:
            where += f" for {self.match.short_title}"
        if self.extra_seconds is None:
            return f"{where}: refused: {self.refusal}"
        return f"{where}: {format_seconds(self.extra_seconds, sign=True)}"


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What runs one match. ``transfer_seconds`` is what bringing its inputs to the device costs."""

    match: Match
    chosen: Candidate
    transfer_seconds: float
    alternatives: tuple[Alternative, ...]

    @property
    def node(self) -> Node:
        """The last node of the match."""
        return self.match.anchor

    @property
    def title(self) -> str:
        """The name of the node; for several nodes what they compute, with the name of the last."""
        name = self.node.name
        return name if len(self.match.nodes) == 1 else f"{self.match.short_title} ({name})"

    @property
    def runner_up(self) -> Alternative | None:
        """The cheapest alternative, or None."""
        return (
            self.alternatives[0]
            if self.alternatives and self.alternatives[0].extra_seconds is not None
            else None
        )

    @property
    def reason(self) -> str:
        """Why this candidate was chosen, in a few words."""
        second = self.runner_up
        if second is None:
            refused = sum(1 for alternative in self.alternatives if alternative.extra_seconds is None)
            return f"all {refused} others refuse" if refused else "no other kernel"
        if (second.extra_seconds or 0.0) < 0:
            return f"ends sooner than with {second.candidate.kernel.id} on {second.candidate.device.name}, for {format_seconds(-(second.extra_seconds or 0.0))} more work"
        if second.extra_seconds == 0:
            return f"tie with {second.candidate.kernel.id} on {second.candidate.device.name}, settled by name"
        return f"{format_seconds(second.extra_seconds or 0.0)} cheaper than {second.candidate.kernel.id} on {second.candidate.device.name}"

    @property
    def bodies(self) -> tuple[tuple[str, Placement], ...]:
        """For control flow the placements of the graphs inside, each with its name: "then", "body" and so on."""
        work = self.match.work
        names = part_names(work) if isinstance(work, Call) else ()
        return tuple(zip(names, self.chosen.bodies, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "node": self.node.name,
            "op": self.match.title,
            "nodes": [node.name for node in self.match.nodes],
            "source": self.node.source,
            "kernel": self.chosen.kernel.id,
            "device": self.chosen.device.name,
            "seconds": self.chosen.seconds,
            "estimate": self.chosen.estimate.source if self.chosen.estimate else "",
            "transfer_seconds": self.transfer_seconds,
            "reason": self.reason,
            "alternatives": [
                {
                    "node": a.node.name,
                    "op": a.match.title,
                    "kernel": a.candidate.kernel.id,
                    "device": a.candidate.device.name,
                    "extra_seconds": a.extra_seconds,
                    "refusal": a.refusal,
                }
                for a in self.alternatives
            ],
            "bodies": {name: body.to_json() for name, body in self.bodies},
        }


_NOT_EXACT = {
    "upper bound": "the graph is wide: the times of alternatives are upper bounds",
    "estimate": "a memory limit binds: the times of alternatives are estimates",
}


@dataclass(frozen=True, slots=True)
class Binding:
    """A kind of constraint, "pins", "colocation" or "memory limits", and how much faster a run could be without it."""

    constraint: str
    seconds: float

    def __str__(self) -> str:
        return f"the {self.constraint} cost {format_seconds(self.seconds) if self.seconds else 'nothing'}"


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """The most bytes that a run keeps in the memory of a device, and the node at which it does.

    limit_bytes       what was allowed, or None
    seconds_per_byte  about how much faster a run would be for each byte more; 0 where the limit does not bind
    """

    device: str
    peak_bytes: int
    node: str
    limit_bytes: int | None
    seconds_per_byte: float

    def __str__(self) -> str:
        text = f"memory of {self.device}: {format_bytes(self.peak_bytes)}"
        if self.limit_bytes is not None:
            text += f" of {format_bytes(self.limit_bytes)}"
        text += f", at {self.node}"
        if self.seconds_per_byte:
            text += f"; a megabyte more would save about {format_seconds(self.seconds_per_byte * 1e6)}"
        return text


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Decisions that cover all nodes of ``graph``, in an order that can run.

    places    where tensors can lie, with the ways between
    seconds   predicted time of one run, transfers included, were one step done after the other
    bound     no placement has a smaller sum of times, by the same predictions
    wholes    the composite ops that ``graph`` has the parts of
    limits    for each address space with a memory limit, its bytes and the seconds that a byte more would save
    accuracy  of the extra seconds of alternatives: "exact", on graphs too wide to eliminate an "upper bound", and
        where a memory limit binds an "estimate"
    bindings  what constraints cost; ``Session.explain`` finds out
    schedule  when each step begins and ends; None where a single processor does all
    objective  "sum" or "makespan": what was minimised
    residents  what lives elsewhere than at ``home``: variables, and feeds on other devices
    """

    graph: Graph
    home: Device
    places: Places
    decisions: tuple[Decision, ...]
    seconds: float
    bound: float
    wholes: tuple[Whole, ...] = ()
    limits: Mapping[int, tuple[int, float]] = field(default_factory=dict)
    accuracy: str = "exact"
    bindings: tuple[Binding, ...] = ()
    schedule: Schedule | None = None
    objective: str = "sum"
    residents: tuple[Resident, ...] = ()

    @property
    def homes(self) -> Homes:
        """Where inputs and outputs live."""
        return Homes(self.graph, self.home, self.residents)

    def with_bodies(self) -> Iterator[Placement]:
        """This placement and those of all graphs inside, at any depth."""
        yield self
        for decision in self.decisions:
            for body in decision.chosen.bodies:
                yield from body.with_bodies()

    @property
    def is_optimal(self) -> bool:
        """Whether it is proven that no placement has a smaller sum of times."""
        return self.bound >= self.seconds

    @property
    def gap(self) -> float:
        """How much smaller another placement's sum of times could be at most, as a fraction of this one's."""
        return _gap(self.seconds, self.bound)

    @property
    def minimised(self) -> float:
        """Seconds of what was minimised: the sum of all times, or the makespan."""
        return self.makespan if self.objective == "makespan" else self.seconds

    @property
    def makespan(self) -> float:
        """Predicted seconds from the first step to the end of the last, where devices work at the same time."""
        return self.schedule.seconds if self.schedule else self.seconds

    @property
    def makespan_bound(self) -> float:
        """No placement can end sooner, by the same predictions."""
        return self.schedule.bound if self.schedule else self.bound

    @property
    def makespan_gap(self) -> float:
        """How much sooner another placement could end at most, as a fraction of this one's makespan."""
        return _gap(self.makespan, self.makespan_bound)

    @property
    def memory(self) -> tuple[MemoryUse, ...]:
        """What lies in each memory in use at most; workspaces of kernels and buffers of drivers are not known."""
        steps = [(decision.match, decision.chosen) for decision in self.decisions]
        names = [*(decision.node.name for decision in self.decisions), "the end of the run"]
        found = []
        for space, (peak, step) in peak_bytes(self.graph, self.places, self.homes, steps).items():
            limit, worth = self.limits.get(space, (None, 0.0))
            found.append(MemoryUse(self.places.spaces[space].name, peak, names[step], limit, worth))
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "seconds": self.seconds,
            "bound": self.bound,
            "optimal": self.is_optimal,
            "accuracy": self.accuracy,
            "makespan": self.makespan,
            "makespan_bound": self.makespan_bound,
            "home": self.home.name,
            "residents": [resident.to_json() for resident in self.residents],
            "memory": [asdict(use) for use in self.memory],
            "bindings": [asdict(binding) for binding in self.bindings],
            "nodes": [decision.to_json() for decision in self.decisions],
            "schedule": self.schedule.to_json() if self.schedule else None,
        }

    @property
    def summary(self) -> str:
        """What is predicted, and what of it is proven, in one line."""
        proof = "proven optimal" if self.is_optimal else f"within {self.gap:.2%} of the optimum"
        home = f"feeds and fetches live on {self.home.name}"
        if self.makespan == self.seconds:
            return f"predicted {format_seconds(self.seconds)}, {proof}; {home}"
        sooner = f"at most {self.makespan_gap:.2%} later than the earliest end"
        least = "proven to be the least" if self.is_optimal else f"at most {self.gap:.2%} more than the least"
        return (
            f"predicted {format_seconds(self.makespan)} as devices work at the same time, {sooner}; "
            f"{format_seconds(self.seconds)} of work in sum, {least}; {home}"
        )

    def __str__(self) -> str:
        return "\n".join([self.summary, *self.rows()])

    def rows(self) -> list[str]:
        """What constraints there are, then the decisions, each with its alternatives: a line each."""
        rows = describe_residents(self.residents)
        rows += [str(use) for use in self.memory if use.limit_bytes is not None]
        rows += [str(binding) for binding in self.bindings]
        rows += [_NOT_EXACT[self.accuracy]] if self.accuracy in _NOT_EXACT else []
        if self.makespan != self.seconds:
            rows.append("the times of alternatives are about the sum, not about the end")
        for decision in self.decisions:
            chosen, several = decision.chosen, len(decision.match.nodes) > 1
            rows.append(
                f"{decision.title}: {chosen.kernel.id} on {chosen.device.name}, {format_seconds(chosen.seconds)}: {decision.reason}"
            )
            rows += [f"    {f'{a.node.name}: ' if several else ''}{a}" for a in decision.alternatives]
            for name, body in decision.bodies:
                rows += [f"    {name}: {body.summary}", *(f"        {row}" for row in body.rows())]
        return rows


def _gap(seconds: float, bound: float) -> float:
    return max(0.0, (seconds - bound) / seconds) if seconds else 0.0

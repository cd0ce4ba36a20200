"""What a placement is: one decision for each node, each with every alternative priced or refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..device import Device
from ..graph import Graph, Node
from ..selection import Candidate
from ..units import format_seconds


@dataclass(frozen=True, slots=True, eq=False)
class Alternative:
    """A candidate that was not chosen: the extra seconds that choosing it would cost, all else equal, or its refusal."""

    candidate: Candidate
    extra_seconds: float | None

    @property
    def refusal(self) -> str | None:
        """Why the candidate was not considered, or None if it has a price."""
        if self.extra_seconds is not None:
            return None
        return self.candidate.refusal or "another kernel is preferred"

    def __str__(self) -> str:
        where = f"{self.candidate.kernel.id} on {self.candidate.device.name}"
        if self.extra_seconds is None:
            return f"{where}: refused: {self.refusal}"
        return f"{where}: {format_seconds(self.extra_seconds, sign=True)}"


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What runs one node. ``transfer_seconds`` is what bringing its inputs to the device costs."""

    node: Node
    chosen: Candidate
    transfer_seconds: float
    alternatives: tuple[Alternative, ...]

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
        if second.extra_seconds == 0:
            return f"tie with {second.candidate.kernel.id} on {second.candidate.device.name}, settled by name"
        return f"{format_seconds(second.extra_seconds or 0.0)} cheaper than {second.candidate.kernel.id} on {second.candidate.device.name}"

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "node": self.node.name,
            "op": self.node.op.name,
            "source": self.node.source,
            "kernel": self.chosen.kernel.id,
            "device": self.chosen.device.name,
            "seconds": self.chosen.seconds,
            "estimate": self.chosen.estimate.source if self.chosen.estimate else "",
            "transfer_seconds": self.transfer_seconds,
            "reason": self.reason,
            "alternatives": [
                {
                    "kernel": a.candidate.kernel.id,
                    "device": a.candidate.device.name,
                    "extra_seconds": a.extra_seconds,
                    "refusal": a.refusal,
                }
                for a in self.alternatives
            ],
        }


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Decisions for all nodes of ``graph`` in order; ``seconds`` is the predicted time of one run, transfers included."""

    graph: Graph
    home: Device
    decisions: tuple[Decision, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "seconds": self.seconds,
            "home": self.home.name,
            "nodes": [decision.to_json() for decision in self.decisions],
        }

    def __str__(self) -> str:
        rows = [f"predicted {format_seconds(self.seconds)}; feeds and fetches live on {self.home.name}"]
        for decision in self.decisions:
            chosen = decision.chosen
            rows.append(
                f"{decision.node.name}: {chosen.kernel.id} on {chosen.device.name}, {format_seconds(chosen.seconds)}: {decision.reason}"
            )
            rows += [f"    {alternative}" for alternative in decision.alternatives]
        return "\n".join(rows)

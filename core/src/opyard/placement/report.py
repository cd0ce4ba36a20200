"""What a tuning did: measured, found wrong, changed; as data, as JSON and as text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..costs import Estimate
from ..units import format_seconds
from .inplace import PlanTime
from .model import Placement
from .store import Measurement


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement, beside what was believed before. For a transfer, ``kernel`` is the device that it comes from."""

    work: str
    kernel: str
    device: str
    found: Measurement
    believed: Estimate | None

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "work": self.work,
            "kernel": self.kernel,
            "device": self.device,
            "seconds": self.found.seconds,
            "spread": self.found.spread,
            "rounds": self.found.rounds,
            "believed_seconds": self.believed.seconds if self.believed else None,
            "believed_from": self.believed.source if self.believed else None,
        }

    def __str__(self) -> str:
        was = (
            f", {format_seconds(self.believed.seconds)} by {self.believed.source} before"
            if self.believed
            else ""
        )
        rounds = f"{self.found.rounds} round{'s' if self.found.rounds != 1 else ''}"
        found = f"{format_seconds(self.found.seconds)} (spread {format_seconds(self.found.spread)}, {rounds})"
        return f"{self.kernel} on {self.device}, {self.work}: {found}{was}"


@dataclass(frozen=True, slots=True)
class Change:
    """A node that another kernel or device runs now, each as "kernel on device"; empty where there is no such node."""

    node: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.node}: {self.before or 'nothing'} -> {self.after or 'nothing'}"


@dataclass(frozen=True, slots=True, eq=False)
class TuneReport:
    """The result of tuning.

    before, after      the placements; their ``seconds`` are predictions by what was known before, and by what is known now
    seconds_unchanged  what the placement before would take by what is known now; None where a kernel of it is wrong
    stable             whether nothing that can be measured could change the placement; else the time was up
    failed             sentences about what could not be measured
    plans              the whole plans that were run, in order
    """

    measured: tuple[Measured, ...]
    wrong: tuple[str, ...]
    failed: tuple[str, ...]
    calibrated: tuple[str, ...]
    plans: tuple[PlanTime, ...]
    changes: tuple[Change, ...]
    before: Placement
    after: Placement
    seconds_unchanged: float | None
    stable: bool
    interrupted: bool
    elapsed_seconds: float

    @property
    def outcome(self) -> str:
        """Why it ended, in a few words."""
        if self.interrupted:
            return "interrupted; what was measured is kept"
        return "stable" if self.stable else "the time was up; more of it may change the plan"

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "outcome": self.outcome,
            "stable": self.stable,
            "interrupted": self.interrupted,
            "elapsed_seconds": self.elapsed_seconds,
            "seconds_before": self.before.seconds,
            "seconds_unchanged": self.seconds_unchanged,
            "seconds_after": self.after.seconds,
            "calibrated": list(self.calibrated),
            "measured": [row.to_json() for row in self.measured],
            "plans": [asdict(plan) for plan in self.plans],
            "wrong": list(self.wrong),
            "failed": list(self.failed),
            "changes": [{"node": c.node, "before": c.before, "after": c.after} for c in self.changes],
            "placement": self.after.to_json(),
        }

    def __str__(self) -> str:
        return "\n".join([*(f"measured {row}" for row in self.measured), *self.sentences()])

    def sentences(self) -> list[str]:
        """All but the measurements, a line each; the last says what was won."""
        rows = [f"{self.outcome} after {format_seconds(self.elapsed_seconds)}"]
        rows += [f"calibrated {name}" for name in self.calibrated]
        rows += [f"run as a plan on {plan}" for plan in self.plans]
        rows += [f"wrong: {sentence}" for sentence in self.wrong]
        rows += [f"not measured: {sentence}" for sentence in self.failed]
        rows += [f"changed {change}" for change in self.changes]
        unchanged = (
            "cannot be used any more"
            if self.seconds_unchanged is None
            else f"takes {format_seconds(self.seconds_unchanged)}"
        )
        rows.append(
            f"predicted {format_seconds(self.before.seconds)} before; by what is known now, that plan {unchanged}; this one takes {format_seconds(self.after.seconds)}"
        )
        return rows


def _where(row: dict[str, Any]) -> str:
    whole = f" for {row['op']}" if len(row["nodes"]) > 1 else ""
    return f"{row['kernel']} on {row['device']}{whole}"


def compare(before: Placement, after: Placement) -> tuple[Change, ...]:
    """The nodes whose kernel or device differs between two placements of one program."""
    old, new = (
        {node: _where(row) for row in placement.to_json()["nodes"] for node in row["nodes"]}
        for placement in (before, after)
    )
    names = [*new, *(name for name in old if name not in new)]
    return tuple(
        Change(name, old.get(name, ""), new.get(name, "")) for name in names if old.get(name) != new.get(name)
    )

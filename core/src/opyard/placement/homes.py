"""Homes: where the tensors that a run takes and gives live. Variables stay on their devices from run to run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..driver import Device
from ..graph import Graph, Value
from ..units import format_seconds

NAMED = 4
"""Names in a row of an explanation; of more, their number."""


@dataclass(frozen=True, slots=True)
class Resident:
    """A tensor that may live elsewhere than ordinary feeds and fetches: a variable, or a feed on another device.

    name     of the variable; "" for a feed
    input    name of the graph's input that it comes in by, or ""
    output   name of the graph's output that it goes out by, or ""
    device   where it lives
    is_free  the placement may choose another device, at which it is from then on
    reason   why it lives there, where a placement chose
    """

    name: str
    input: str
    output: str
    device: Device
    is_free: bool = False
    reason: str = ""

    @property
    def key(self) -> tuple[str, str, str | None]:
        """What a placement depends on: where a free one is does not matter."""
        return self.input, self.output, None if self.is_free else self.device.name

    def settled(self, device: Device, elsewhere: float | None, other: Device | None) -> Resident:
        """The same on the device that a placement chose; ``elsewhere`` are seconds more on the other one."""
        reason = "nowhere else possible"
        if other is not None and elsewhere is not None:
            more = f"{format_seconds(elsewhere)} more" if elsewhere else "as long"
            reason = f"on {other.name} a run would take {more}"
        return replace(self, device=device, is_free=False, reason=reason)

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "name": self.name or self.input,
            "kind": "variable" if self.name else "feed",
            "device": self.device.name,
            "reason": self.reason,
        }


class Homes:
    """The devices of a graph's inputs and outputs: those of the residents, and ``home`` for all others."""

    def __init__(self, graph: Graph, home: Device, residents: Iterable[Resident] = ()) -> None:
        self.home = home
        self.residents = tuple(residents)
        self._graph = graph
        self._inputs = {graph.inputs[r.input]: r for r in self.residents if r.input in graph.inputs}
        self._outputs = {r.output: r for r in self.residents if r.output in graph.outputs}

    @property
    def devices(self) -> tuple[Device, ...]:
        """All of them, ``home`` first."""
        return tuple(dict.fromkeys((self.home, *(resident.device for resident in self.residents))))

    def resident(self, value: Value) -> Resident | None:
        """The resident that an input is, or None."""
        return self._inputs.get(value)

    def of(self, value: Value) -> Device:
        """Where an input begins."""
        return self._inputs[value].device if value in self._inputs else self.home

    def output(self, name: str) -> Device:
        """Where an output is wanted."""
        return self._outputs[name].device if name in self._outputs else self.home

    @property
    def wanted(self) -> dict[Value, list[Device]]:
        """Where each value that goes out is wanted, but for residents that are free."""
        found: dict[Value, list[Device]] = {}
        for name, value in self._graph.outputs.items():
            if name not in self._outputs or not self._outputs[name].is_free:
                found.setdefault(value, []).append(self.output(name))
        return found


def describe_residents(residents: Sequence[Resident]) -> list[str]:
    """A row for the residents of each device, with why they are there."""
    rows: dict[tuple[bool, str, str], list[str]] = {}
    for resident in residents:
        key = (bool(resident.name), resident.device.name, resident.reason)
        rows.setdefault(key, []).append(resident.name or resident.input)
    found = []
    for (is_variable, device, reason), names in rows.items():
        kind = f"{'variable' if is_variable else 'feed'}{'s' if len(names) > 1 else ''}"
        listed = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        found.append(f"{kind} on {device}: {listed}{f'; {reason}' if reason else ''}")
    return found

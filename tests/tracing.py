"""What every trace must be, so that Perfetto and chrome://tracing show it."""

from __future__ import annotations

import json
from typing import Any

Event = dict[str, Any]


def lanes(trace: dict[str, Any]) -> dict[str, list[Event]]:
    """The slices of each lane, in the order in which they begin, by its name."""
    names = {e["tid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    found: dict[str, list[Event]] = {name: [] for name in names.values()}
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            found[names[event["tid"]]].append(event)
    return found


def counters(trace: dict[str, Any]) -> dict[str, list[tuple[float, int]]]:
    """(microseconds, bytes) of each counter, by its name."""
    found: dict[str, list[tuple[float, int]]] = {}
    for event in trace["traceEvents"]:
        if event["ph"] == "C":
            found.setdefault(event["name"], []).append((event["ts"], event["args"]["bytes"]))
    return found


def check_trace(trace: dict[str, Any]) -> dict[str, Any]:
    """Asserts what the format demands, that lanes have names, and that their slices lie beside or inside of each other."""
    text = json.dumps(trace, allow_nan=False)
    assert json.loads(text)["traceEvents"]
    named = {e["tid"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    for event in trace["traceEvents"]:
        assert isinstance(event["name"], str) and event["name"]
        assert event["ph"] in {"X", "M", "C", "i"}
        assert event["ts"] >= 0 and isinstance(event["pid"], int) and isinstance(event["tid"], int)
        if event["ph"] in {"X", "i"}:
            assert event["tid"] in named and isinstance(event["args"], dict) and event["cat"]
        if event["ph"] == "X":
            assert event["dur"] >= 0
        if event["ph"] == "C":
            assert event["args"]["bytes"] >= 0
    for slices in lanes(trace).values():
        _check_nesting(slices)
    for sizes in counters(trace).values():
        assert [time for time, _ in sizes] == sorted(time for time, _ in sizes)
    return trace


def _check_nesting(slices: list[Event]) -> None:
    ends: list[int] = []
    last = 0
    for event in slices:
        begin, end = round(event["ts"] * 1e3), round((event["ts"] + event["dur"]) * 1e3)
        assert begin >= last, "slices come in the order in which they begin"
        last = begin
        while ends and ends[-1] <= begin:
            ends.pop()
        assert not ends or end <= ends[-1], f"{event} ends after what it lies in"
        ends.append(end)

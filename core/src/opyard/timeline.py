"""Timeline: what happened in a run, and when, as Chrome trace events for Perfetto (ui.perfetto.dev) and chrome://tracing.

Source of the format: "Trace Event Format", Google, the JSON object format.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .footprint import MemoryTimeline

HOST_LANE = "host (Python)"
COPY_LANE = "copies"
RUN, ASSIGNMENT = "run", "assignment"
_PROCESS = 1


@dataclass(frozen=True, slots=True)
class Slice:
    """Something that took time, from ``begin`` to ``end`` in seconds since the run began.

    lane       where it is drawn: a device's name, HOST_LANE or COPY_LANE. Slices of a lane lie beside or inside of each other
    kind       "kernel", "control flow", "body", "copy", "start", "allocation", "wait", "run" or "assignment"
    arguments  what there is to know about it, as plain data
    """

    lane: str
    kind: str
    title: str
    begin: float
    end: float
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def later(self, seconds: float) -> Slice:
        """The same, moved."""
        return replace(self, begin=self.begin + seconds, end=self.end + seconds)


def trace_events(
    title: str,
    slices: Sequence[Slice],
    memory: Iterable[MemoryTimeline],
    lanes: Iterable[str],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """A trace as plain data, to be written as JSON: a lane for each of ``lanes``, and a counter for each memory.

    about  what stands in the file beside the events
    """
    threads = {lane: number for number, lane in enumerate(lanes, start=1)}
    rows: list[dict[str, Any]] = [_named("process_name", {"name": title}, 0)]
    for lane, thread in threads.items():
        rows.append(_named("thread_name", {"name": lane}, thread))
        rows.append(_named("thread_sort_index", {"sort_index": thread}, thread))
    found = sorted(slices, key=lambda s: (threads[s.lane], _nanoseconds(s.begin), -_nanoseconds(s.end)))
    rows += [_event(piece, threads[piece.lane]) for piece in found]
    for use in memory:
        for seconds, size in use.changes:
            rows.append(
                {
                    "name": f"memory: {use.memory}",
                    "ph": "C",
                    "ts": _microseconds(seconds),
                    "pid": _PROCESS,
                    "tid": 0,
                    "args": {"bytes": size},
                }
            )
    return {"traceEvents": rows, "displayTimeUnit": "ns", "otherData": dict(about)}


def _named(what: str, arguments: Mapping[str, Any], thread: int) -> dict[str, Any]:
    return {"name": what, "ph": "M", "ts": 0, "pid": _PROCESS, "tid": thread, "args": dict(arguments)}


def _event(piece: Slice, thread: int) -> dict[str, Any]:
    row = {
        "name": piece.title,
        "cat": piece.kind,
        "ts": _microseconds(piece.begin),
        "pid": _PROCESS,
        "tid": thread,
        "args": dict(piece.arguments),
    }
    if piece.kind == ASSIGNMENT:
        return {**row, "ph": "i", "s": "t"}  # an instant, of its lane alone
    return {**row, "ph": "X", "dur": (_nanoseconds(piece.end) - _nanoseconds(piece.begin)) / 1e3}


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _microseconds(seconds: float) -> float:
    """The unit of the format, in whole nanoseconds."""
    return _nanoseconds(seconds) / 1e3

"""Profile: where the time of a run went, by node, op, kernel and device, as ``Session.profile`` finds out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from textwrap import shorten
from typing import Any

from .footprint import MemoryTimeline
from .timeline import COPY_LANE, HOST_LANE, Slice, trace_events
from .units import format_bytes, format_seconds

OP_WIDTH = 40
SHOWN = 30
"""Nodes and copies that the table of a profile has; the rest is one line."""


@dataclass(frozen=True, slots=True)
class NodeTime:
    """The time of a node of the placed graph: of one kernel, or of the branch or loop that ``node`` names the path of.

    op         what is computed; for a fused kernel, its ops
    kernel     backend/kernel; "" for a branch or loop, whose time is no part of sums: those of the nodes inside are
    source     the line of the program that made the node, as "file:line"
    inputs, outputs  specs
    calls      in the run whose time was the median
    seconds    of all these calls
    median     seconds of one call, over all runs
    share      of the time of all kernels and copies
    predicted  seconds of one call, by placement
    flops, bytes_moved  of one call, by the op's cost; None for branches and loops
    """

    node: str
    op: str
    device: str
    kernel: str
    source: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    calls: int
    seconds: float
    median: float
    share: float
    predicted: float | None
    flops: float | None
    bytes_moved: float | None

    @property
    def flops_per_second(self) -> float | None:
        """Arithmetic operations per second of the median call, by the op's cost."""
        return _rate(self.flops, self.median)

    @property
    def bytes_per_second(self) -> float | None:
        """Bytes that must be read and written at least, per second of the median call."""
        return _rate(self.bytes_moved, self.median)


@dataclass(frozen=True, slots=True)
class CopyTime:
    """The time of a copy from device to device. What else it is, is as in NodeTime; ``nbytes`` are those of one copy."""

    tensor: str
    source: str
    target: str
    nbytes: int
    calls: int
    seconds: float
    median: float
    share: float
    predicted: float | None

    @property
    def bytes_per_second(self) -> float | None:
        """Bytes per second of the median copy."""
        return _rate(self.nbytes, self.median)


@dataclass(frozen=True, slots=True)
class Total:
    """The sum of nodes that have something in common: calls and seconds of the run, and the share."""

    name: str
    calls: int
    seconds: float
    share: float


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """Where the time of a run went.

    runs           how often it was run as it is, and in turns with its steps timed
    seconds        the median of runs as they are
    timed_seconds  the median of runs whose steps are timed; all that follows is about the run that took so long
    overhead       seconds of it in which neither a kernel nor a copy was at work
    nodes, copies  the longest first
    memory         bytes of the tensors in each memory
    slices         what happened, and when
    clocks         how each device was timed
    """

    runs: int
    seconds: float
    timed_seconds: float
    overhead: float
    nodes: tuple[NodeTime, ...]
    copies: tuple[CopyTime, ...]
    memory: tuple[MemoryTimeline, ...]
    slices: tuple[Slice, ...]
    clocks: Mapping[str, str]

    @property
    def kernel_seconds(self) -> float:
        """Seconds of all kernels."""
        return sum(row.seconds for row in self.nodes if row.kernel)

    @property
    def copy_seconds(self) -> float:
        """Seconds of all copies."""
        return sum(row.seconds for row in self.copies)

    @property
    def devices(self) -> tuple[Total, ...]:
        """Sums for each device."""
        return self._totals(lambda row: row.device)

    @property
    def ops(self) -> tuple[Total, ...]:
        """Sums for each op, or list of fused ops."""
        return self._totals(lambda row: row.op)

    @property
    def kernels(self) -> tuple[Total, ...]:
        """Sums for each kernel."""
        return self._totals(lambda row: row.kernel)

    def _totals(self, name: Callable[[NodeTime], str]) -> tuple[Total, ...]:
        found: dict[str, list[NodeTime]] = {}
        for row in self.nodes:
            if row.kernel:
                found.setdefault(name(row), []).append(row)
        totals = (_total(key, rows) for key, rows in found.items())
        return tuple(sorted(totals, key=lambda total: (-total.seconds, total.name)))

    def trace(self, title: str = "opyard") -> dict[str, Any]:
        """The run whose time was the median as Chrome trace events, for Perfetto: write it as JSON."""
        lanes = [HOST_LANE, *self.clocks, *([COPY_LANE] if self.copies else [])]
        about = {
            "made by": "opyard",
            "clocks": dict(self.clocks),
            "runs": self.runs,
            "seconds of a run": self.seconds,
            "seconds of a run whose steps are timed": self.timed_seconds,
        }
        return trace_events(title, self.slices, self.memory, lanes, about)

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the slices, which ``trace`` gives."""
        return {
            "runs": self.runs,
            "seconds": self.seconds,
            "timed_seconds": self.timed_seconds,
            "kernel_seconds": self.kernel_seconds,
            "copy_seconds": self.copy_seconds,
            "overhead_seconds": self.overhead,
            "nodes": [
                {
                    **asdict(row),
                    "flops_per_second": row.flops_per_second,
                    "bytes_per_second": row.bytes_per_second,
                }
                for row in self.nodes
            ],
            "copies": [{**asdict(row), "bytes_per_second": row.bytes_per_second} for row in self.copies],
            "devices": [asdict(total) for total in self.devices],
            "ops": [asdict(total) for total in self.ops],
            "kernels": [asdict(total) for total in self.kernels],
            "memory": [
                {
                    "memory": use.memory,
                    "peak_bytes": use.peak_bytes,
                    "peak_at": use.peak_at,
                    "tensors": [tensor._asdict() for tensor in use.tensors],
                    "changes": use.changes,
                }
                for use in self.memory
            ],
            "clocks": dict(self.clocks),
        }

    @staticmethod
    def joined(parts: Sequence[tuple[str, Profile]]) -> Profile:
        """One profile of programs that run one after the other, each with its name, such as "stage 1"."""
        profiles = [profile for _, profile in parts]
        starts = [0.0, *accumulate(_end(profile) for profile in profiles)]
        busy = sum(profile.kernel_seconds + profile.copy_seconds for profile in profiles)
        nodes, copies, slices = [], [], []
        for (name, profile), start in zip(parts, starts, strict=False):
            factor = (profile.kernel_seconds + profile.copy_seconds) / busy if busy else 0.0
            nodes += [replace(r, node=f"{name}/{r.node}", share=r.share * factor) for r in profile.nodes]
            copies += [
                replace(r, tensor=f"{name}/{r.tensor}", share=r.share * factor) for r in profile.copies
            ]
            for piece in profile.slices:
                title = f"{name}: {piece.title}" if piece.lane == HOST_LANE else piece.title
                slices.append(replace(piece.later(start), title=title))
        clocks: dict[str, str] = {}
        for profile in profiles:
            clocks |= profile.clocks
        return Profile(
            min((profile.runs for profile in profiles), default=0),
            sum(profile.seconds for profile in profiles),
            sum(profile.timed_seconds for profile in profiles),
            sum(profile.overhead for profile in profiles),
            tuple(sorted(nodes, key=lambda row: -row.seconds)),
            tuple(sorted(copies, key=lambda row: -row.seconds)),
            tuple(_joined_memory(profiles, starts)),
            tuple(slices),
            clocks,
        )

    def __str__(self) -> str:
        busy = self.kernel_seconds + self.copy_seconds
        rows = [
            f"a run takes {format_seconds(self.seconds)}, the median of {self.runs}; with its steps timed {format_seconds(self.timed_seconds)}:",
            f"kernels {format_seconds(self.kernel_seconds)}, copies {format_seconds(self.copy_seconds)}, neither at work {format_seconds(self.overhead)}",
        ]
        if busy:
            rows += ["", *self._node_rows()]
        if self.copies:
            rows += ["", *self._copy_rows()]
        for what, totals in (("device", self.devices), ("op", self.ops), ("kernel", self.kernels)):
            if len(totals) > 1:
                rows += ["", *_total_rows(what, totals)]
        for use in self.memory:
            largest = ", ".join(f"{t.name} {format_bytes(t.nbytes)}" for t in use.tensors[:3])
            rest = f" and {len(use.tensors) - 3} more" if len(use.tensors) > 3 else ""
            peak = f"{format_bytes(use.peak_bytes)} at {format_seconds(use.peak_at)}"
            rows += ["", f"memory {use.memory}: at most {peak}: {largest or 'nothing'}{rest}"]
        return "\n".join(rows)

    def _node_rows(self) -> list[str]:
        head = [
            "time",
            "share",
            "calls",
            "median",
            "predicted",
            "GB/s",
            "GFLOP/s",
            "device",
            "kernel",
            "op",
            "node",
            "source",
        ]
        rows = [
            [
                format_seconds(row.seconds) if row.kernel else f"({format_seconds(row.seconds)})",
                f"{row.share:.1%}" if row.kernel else "",
                str(row.calls),
                format_seconds(row.median),
                _seconds(row.predicted),
                _giga(row.bytes_per_second),
                _giga(row.flops_per_second),
                row.device,
                row.kernel,
                shorten(row.op, OP_WIDTH, placeholder=" ..."),
                row.node,
                row.source,
            ]
            for row in self.nodes[:SHOWN]
        ]
        return _aligned([head, *rows], numbers=7) + _rest(self.nodes[SHOWN:], "nodes")

    def _copy_rows(self) -> list[str]:
        head = ["time", "share", "calls", "median", "predicted", "GB/s", "bytes", "copy", "tensor"]
        rows = [
            [
                format_seconds(row.seconds),
                f"{row.share:.1%}",
                str(row.calls),
                format_seconds(row.median),
                _seconds(row.predicted),
                _giga(row.bytes_per_second),
                format_bytes(row.nbytes),
                f"{row.source} -> {row.target}",
                row.tensor,
            ]
            for row in self.copies[:SHOWN]
        ]
        return _aligned([head, *rows], numbers=7) + _rest(self.copies[SHOWN:], "copies")


def _joined_memory(profiles: Sequence[Profile], starts: Sequence[float]) -> Iterable[MemoryTimeline]:
    """What each memory holds while one part after the other runs; what another part keeps then does not count."""
    for memory in dict.fromkeys(use.memory for profile in profiles for use in profile.memory):
        changes: list[tuple[float, int]] = []
        highest: MemoryTimeline | None = None
        for profile, start in zip(profiles, starts, strict=False):
            use = next((use for use in profile.memory if use.memory == memory), None)
            if use is None:
                changes.append((start, 0))
                continue
            changes += [(start + seconds, size) for seconds, size in use.changes]
            if highest is None or use.peak_bytes > highest.peak_bytes:
                highest = replace(use, peak_at=start + use.peak_at)
        assert highest is not None
        yield replace(highest, changes=tuple(changes))


def _end(profile: Profile) -> float:
    return max((piece.end for piece in profile.slices), default=0.0)


def _rate(amount: float | None, seconds: float) -> float | None:
    return amount / seconds if amount and seconds else None


def _total(name: str, rows: Iterable[NodeTime]) -> Total:
    found = list(rows)
    return Total(
        name,
        sum(row.calls for row in found),
        sum(row.seconds for row in found),
        sum(row.share for row in found),
    )


# Text ------------------------------------------------------------------------------------------------------------


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else format_seconds(seconds)


def _giga(rate: float | None) -> str:
    return "" if rate is None else f"{rate / 1e9:.3g}"


def _total_rows(what: str, totals: Sequence[Total]) -> list[str]:
    rows = [[format_seconds(t.seconds), f"{t.share:.1%}", str(t.calls), t.name] for t in totals[:SHOWN]]
    return _aligned([["time", "share", "calls", what], *rows], numbers=3) + _rest(totals[SHOWN:], f"{what}s")


def _rest(rows: Sequence[NodeTime | CopyTime | Total], what: str) -> list[str]:
    if not rows:
        return []
    seconds = sum(row.seconds for row in rows if getattr(row, "kernel", True))
    return [f"{len(rows)} more {what}: {format_seconds(seconds)}"]


def _aligned(rows: Sequence[Sequence[str]], numbers: int) -> list[str]:
    """Lines of columns, of which the first ones are aligned to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column < numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]

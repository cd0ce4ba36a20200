"""What people read: tables, CSV and Markdown, all from the record of a run and from nothing else."""

from __future__ import annotations

import csv
import io
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from opyard.registry import REFERENCE
from opyard.units import format_seconds
from opyard_bench.levels import Share, share
from opyard_bench.record import END_TO_END, HOT, OK, REFUSED, REGIMES, Cell, Roof, Row, Run
from opyard_bench.roofs import doubt
from opyard_bench.statistics import Summary, summarize

IMPLAUSIBLE = "implausible"
COLUMNS = (
    *("op", "case", "kernel", "device", "regime", "status", "median_seconds", "iqr_seconds", "grade"),
    *("first_seconds", "gigabytes_per_second", "gigaflops_per_second", "roof_fraction", "roof_level"),
    *("times_reference", "times_best", "regret", "times_in_model", "clock", "reason"),
)
MARKDOWN_BYTES = 60_000
"""The most that a Markdown report takes: comments on pull requests end at 65,536 characters."""


class Line(NamedTuple):
    """One row of a report.

    share         part of the roof of the device that is reached, and the level that binds; or None
    vs_reference  how many times as fast as the reference; ``vs_best``: as the best kernel of the cell, at most 1
    regret        time of this kernel over that of the best, for the kernel that placement would have used

    Rows are compared with those of the same regime alone.
    """

    cell: Cell
    row: Row
    status: str
    reason: str
    summary: Summary | None
    share: Share | None
    vs_reference: float | None
    vs_best: float | None
    regret: float | None

    @property
    def gigabytes(self) -> float | None:
        """Billions of bytes of the call per second; None where none need to move."""
        return None if self.row.shares else self._rate(self.cell.bytes / 1e9)

    @property
    def gigaflops(self) -> float | None:
        """Billions of operations of the call per second."""
        return self._rate(self.cell.flops / 1e9)

    def _rate(self, amount: float) -> float | None:
        return amount / self.summary.median if self.summary and self.summary.median > 0 else None


def lines(run: Run) -> list[Line]:
    """Every row of a run: of each cell, regime after regime, the fastest first, then those that were not timed."""
    roofs = {roof.device: roof for roof in run.devices}
    return [
        line
        for cell in run.cells
        for regime in regimes(cell.rows)
        for line in _lines_of(cell, [row for row in cell.rows if row.regime == regime], roofs)
    ]


def regimes(rows: Iterable[Row]) -> list[str]:
    """The regimes of rows, in the order of ``REGIMES``."""
    found = dict.fromkeys(row.regime for row in rows)
    return [name for name in dict.fromkeys([*REGIMES, *found]) if name in found]


def _lines_of(cell: Cell, rows: Sequence[Row], roofs: Mapping[str, Roof]) -> list[Line]:
    """The lines of rows of one regime."""
    doubts = [doubt(cell, row, roofs.get(row.device)) for row in rows]
    timed = [summarize(row.samples) if row.status == OK and row.samples else None for row in rows]
    ranked = [
        s.median if s is not None and not why and 0 < s.median < math.inf else None
        for s, why in zip(timed, doubts, strict=True)
    ]
    best = min((median for median in ranked if median), default=None)
    reference = next((m for row, m in zip(rows, ranked, strict=True) if m and row.device == REFERENCE), None)
    found = []
    for row, why, summary, median in zip(rows, doubts, timed, ranked, strict=True):
        line = Line(
            *(cell, row, IMPLAUSIBLE if why else row.status, why or row.reason, summary),
            share(cell, row, summary.median, roofs.get(row.device)) if summary else None,
            reference / median if median and reference else None,
            best / median if median and best else None,
            median / best if median and best and _is_chosen(cell, row) else None,
        )
        found.append((median or math.inf, line))
    return [line for _, line in sorted(found, key=lambda pair: pair[0])]


def _is_chosen(cell: Cell, row: Row) -> bool:
    """Whether placement would have used the kernel of the row, all arrays being where its regime has them."""
    chosen = cell.chosen_end_to_end if row.regime == END_TO_END else cell.chosen
    return f"{row.kernel} on {row.device}" == chosen


class Regret(NamedTuple):
    """The regrets of placement in one regime: the lines that have one, worst first, and what they come to."""

    lines: list[Line]
    mean: float
    most_of: float

    @property
    def sentence(self) -> str:
        """The numbers, for people."""
        worst = self.lines[0]
        return (
            f"geometric mean {self.mean:.3f} over {len(self.lines)} cells, 95 % of them at most {self.most_of:.3g}, "
            f"all at most {worst.regret:.3g} ({worst.cell.op} {worst.cell.case}: {worst.row.kernel} on {worst.row.device})"
        )


def regret_of(found: Iterable[Line]) -> Regret | None:
    """The regrets of lines of one regime: geometric mean, and the 95th percentile. None where no line has one."""
    chosen = [line for line in found if line.regret is not None]
    if not chosen:
        return None
    values = [line.regret or 1.0 for line in chosen]
    order = sorted(range(len(chosen)), key=lambda i: -values[i])
    mean = math.exp(sum(map(math.log, values)) / len(values))
    return Regret([chosen[i] for i in order], mean, float(np.quantile(values, 0.95)))


def regret_summary(run: Run, regime: str = HOT) -> str:
    """The regret of placement in a regime, as a sentence."""
    regret = regret_of(line for line in lines(run) if line.row.regime == regime)
    title = "regret of placement" if regime == HOT else f"regret of placement, {regime}"
    nothing = "no cell has a time for the kernel that placement would use"
    return f"{title}: {regret.sentence if regret else nothing}."


# Formats --------------------------------------------------------------------------------------------------------

HEADINGS = (
    *("op", "case", "kernel", "device", "regime", "median", "IQR", "grade", "first", "GB/s", "GFLOP/s"),
    *("roof", "vs ref", "vs best", "regret", "note"),
)


def table_rows(run: Run) -> list[list[str]]:
    """The cells of the table for people, under ``HEADINGS``."""
    return [*map(table_row, lines(run)), *_untimed(run)]


def table_row(line: Line) -> list[str]:
    """One row under ``HEADINGS``; a number that there is not is an empty text."""
    return [
        *(line.cell.op, line.cell.case, line.row.kernel, line.row.device, line.row.regime),
        *numbers(line),
        note(line),
    ]


def numbers(line: Line) -> list[str]:
    """The numbers of a row for people, median to regret."""
    summary, first, reached = line.summary, line.row.first, line.share
    return [
        format_seconds(summary.median) if summary else "",
        f"{100 * summary.spread / summary.median:.1f} %" if summary and summary.median > 0 else "",
        summary.grade if summary else "",
        "" if first is None else format_seconds(first),
        _number(line.gigabytes),
        _number(line.gigaflops),
        f"{100 * reached.fraction:.3g} % {reached.level}" if reached else "",
        _number(line.vs_reference),
        _number(line.vs_best),
        _number(line.regret),
    ]


def note(line: Line) -> str:
    """What has to be said of a row: its status, unless it was timed, and why."""
    return line.reason if line.status == OK else f"{line.status.upper()}: {line.reason}"


def _untimed(run: Run) -> list[list[str]]:
    empty = [""] * (len(HEADINGS) - 3)
    return [[cell.op, cell.case, *empty, f"not timed: {cell.note}"] for cell in run.cells if cell.note]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def remarks(run: Run) -> list[str]:
    """The sentences under the table."""
    timed = sum(line.status == OK for line in lines(run))
    end = " It was interrupted: the rest is missing." if run.interrupted else ""
    measured = regimes(row for cell in run.cells for row in cell.rows) or [HOT]
    regrets = (regret_summary(run, regime) for regime in measured)
    return [f"{timed} times over {len(run.cells)} cells.{end}", *regrets, *run.absent]


def to_csv(run: Run) -> str:
    """One line for each row, numbers in full; the columns are ``COLUMNS``."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for line in lines(run):
        cell, row, s = line.cell, line.row, line.summary
        writer.writerow(
            [
                *(cell.op, cell.case, row.kernel, row.device, row.regime, line.status),
                *((s.median, s.spread, s.grade) if s else (None, None, None)),
                *(row.first, line.gigabytes, line.gigaflops, *(line.share or (None, None))),
                *(line.vs_reference, line.vs_best, line.regret, cell.times, row.clock, line.reason),
            ]
        )
    return out.getvalue()


def to_markdown(run: Run) -> str:
    """A Markdown table, the worst rows first, with the machine above it and the remarks below.

    Rows that do not fit into ``MARKDOWN_BYTES`` are left out, and a sentence says so.
    """
    machine = ", ".join(f"{name} {value}" for name, value in run.machine.items())
    versions = ", ".join(f"{name} {value}" for name, value in run.versions.items())
    head = _markdown_line(f"{machine}; {versions}; {run.started}")
    below = "".join(f"\n{_markdown_line(sentence)}\n" for sentence in remarks(run))
    columns = f"| {' | '.join(HEADINGS)} |\n|{'|'.join(['---'] * 5 + ['---:'] * 10 + ['---'])}|\n"
    found = [*_untimed(run), *map(table_row, sorted(lines(run), key=_badness))]
    rows = [f"| {' | '.join(map(_markdown_line, row))} |\n" for row in found]
    left_out = (
        "\nThe last {} of {} rows are left out, those with the least to say; `--csv FILE` has them all.\n"
    )
    room = MARKDOWN_BYTES - _size(head, columns, left_out.format(len(rows), len(rows)), below)
    kept = bisect_right(list(accumulate(map(_size, rows))), room)
    omitted = left_out.format(len(rows) - kept, len(rows)) if kept < len(rows) else ""
    return f"{head}\n\n{columns}{''.join(rows[:kept])}{omitted}{below}"


def _size(*texts: str) -> int:
    """Bytes of the texts, and of as many ends of lines."""
    return sum(len(text.encode()) + 1 for text in texts)


def _badness(line: Line) -> tuple[int, float]:
    """Sorts the worst first: what is wrong, then the regrets of placement, then the slow beside the best."""
    if line.status not in (OK, REFUSED):
        return (0, 0.0)
    if line.regret is not None:
        return (1, -line.regret)
    return (2, line.vs_best) if line.vs_best is not None else (3, 0.0)


def _markdown_line(content: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    flat = " ".join(content.split())
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")

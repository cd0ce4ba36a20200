"""What people read: tables, CSV and Markdown, all from the record of a run and from nothing else."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from opyard.registry import REFERENCE
from opyard.units import format_seconds
from opyard_bench.record import END_TO_END, HOT, OK, REGIMES, Cell, Row, Run, to_text
from opyard_bench.roofs import Share, doubt, share
from opyard_bench.statistics import Summary, summarize

IMPLAUSIBLE = "implausible"
COLUMNS = (
    *(
        "op",
        "case",
        "kernel",
        "device",
        "regime",
        "status",
        "median_seconds",
        "iqr_seconds",
        "grade",
        "first_seconds",
        "gigabytes_per_second",
    ),
    *("gigaflops_per_second", "roof_fraction", "roof_level", "times_reference", "times_best", "regret"),
    *("times_in_model", "clock", "reason"),
)


class Line(NamedTuple):
    """One row of a report. Rows are ranked among those of their regime.

    share         part of the roof of the device that is reached, and which roof it is
    vs_reference  how many times as fast as the reference; ``vs_best``: as the best kernel of the cell, at most 1
    regret        time of this kernel over that of the best, for the kernel that placement would have used
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
        if self.summary is None or self.summary.median <= 0 or self.row.shares:
            return None
        return self.cell.bytes / self.summary.median / 1e9

    @property
    def gigaflops(self) -> float | None:
        """Billions of operations of the call per second."""
        return (
            self.cell.flops / self.summary.median / 1e9 if self.summary and self.summary.median > 0 else None
        )


def lines(run: Run) -> list[Line]:
    """Every row of a run: of each cell and regime the fastest first, then those that were not timed."""
    found = []
    for cell in run.cells:
        for regime in sorted({row.regime for row in cell.rows}, key=REGIMES.index):
            found += _lines_of(cell, regime, run)
    return found


def _lines_of(cell: Cell, regime: str, run: Run) -> list[Line]:
    rows = [row for row in cell.rows if row.regime == regime]
    roofs = {roof.device: roof for roof in run.devices}
    doubts = {id(row): doubt(cell, row, roofs.get(row.device)) for row in rows}
    timed = {id(row): summarize(row.samples) for row in rows if row.status == OK and row.samples}
    ranked = {key: s.median for key, s in timed.items() if not doubts[key] and s.median > 0}
    best = min(ranked.values(), default=None)
    reference = next((ranked[id(r)] for r in rows if r.device == REFERENCE and id(r) in ranked), None)
    chosen = cell.chosen_end_to_end if regime == END_TO_END else cell.chosen
    found = []
    for row in rows:
        median = ranked.get(id(row))
        relative = median is not None and best is not None
        is_chosen = f"{row.kernel} on {row.device}" == chosen
        summary = timed.get(id(row))
        found.append(
            Line(
                cell,
                row,
                IMPLAUSIBLE if doubts[id(row)] else row.status,
                doubts[id(row)] or row.reason,
                summary,
                share(cell, row, summary.median, roofs.get(row.device)) if summary else None,
                reference / median if median and reference else None,
                best / median if median and best else None,
                median / best if relative and is_chosen and median and best else None,
            )
        )
    return sorted(found, key=lambda line: ranked.get(id(line.row), math.inf))


def regret_summary(run: Run, regime: str = HOT) -> str:
    """Geometric mean and greatest regret of placement over the cells in a regime, as a sentence."""
    found = sorted(
        (line for line in lines(run) if line.regret is not None and line.row.regime == regime),
        key=lambda line: line.regret or 0.0,
    )
    title = "regret of placement" if regime == HOT else f"regret of placement, {regime}"
    if not found:
        return f"{title}: no cell has a time for the kernel that placement would use."
    logs = [math.log(line.regret or 1.0) for line in found]
    mean, worst = math.exp(sum(logs) / len(logs)), found[-1]
    return (
        f"{title}: geometric mean {mean:.3f} over {len(found)} cells, "
        f"at most {worst.regret:.3g} ({worst.cell.op} {worst.cell.case}: {worst.row.kernel} on {worst.row.device})."
    )


# Formats --------------------------------------------------------------------------------------------------------

HEADINGS = (
    "op",
    "case",
    "kernel",
    "device",
    "regime",
    "median",
    "IQR",
    "grade",
    "first",
    "GB/s",
    "GFLOP/s",
    "roof",
    "vs ref",
    "vs best",
    "regret",
    "note",
)


def table_rows(run: Run) -> list[list[str]]:
    """The cells of the table for people, under ``HEADINGS``."""
    found = [_table_row(line) for line in lines(run)]
    return found + [
        [c.op, c.case, *[""] * (len(HEADINGS) - 3), f"not timed: {c.note}"] for c in run.cells if c.note
    ]


def _table_row(line: Line) -> list[str]:
    summary = line.summary
    note = line.reason if line.status == OK else f"{line.status.upper()}: {line.reason}"
    first = line.row.first
    return [
        line.cell.op,
        line.cell.case,
        line.row.kernel,
        line.row.device,
        line.row.regime,
        format_seconds(summary.median) if summary else "",
        f"{100 * summary.spread / summary.median:.1f} %" if summary and summary.median > 0 else "",
        summary.grade if summary else "",
        "" if first is None else format_seconds(first),
        _number(line.gigabytes),
        _number(line.gigaflops),
        f"{100 * line.share.fraction:.0f} % {line.share.level}" if line.share else "",
        _number(line.vs_reference),
        _number(line.vs_best),
        _number(line.regret),
        note,
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def remarks(run: Run) -> list[str]:
    """The sentences under the table."""
    timed = sum(line.status == OK for line in lines(run))
    end = " It was interrupted: the rest is missing." if run.interrupted else ""
    measured = {row.regime for cell in run.cells for row in cell.rows} or {HOT}
    regrets = [regret_summary(run, regime) for regime in REGIMES if regime in measured]
    return [f"{timed} times over {len(run.cells)} cells.{end}", *regrets, *run.absent]


def to_csv(run: Run) -> str:
    """One line for each row, numbers in full; the columns are ``COLUMNS``."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for line in lines(run):
        s = line.summary
        numbers: Sequence[float | str | None] = (
            *((s.median, s.spread, s.grade) if s else (None, None, None)),
            *(line.row.first, line.gigabytes, line.gigaflops, *(line.share or (None, None))),
            *(line.vs_reference, line.vs_best, line.regret),
        )
        writer.writerow(
            [
                line.cell.op,
                line.cell.case,
                line.row.kernel,
                line.row.device,
                line.row.regime,
                line.status,
                *numbers,
                line.cell.times,
                line.row.clock,
                line.reason,
            ]
        )
    return out.getvalue()


def to_markdown(run: Run) -> str:
    """A Markdown table with the machine above it and the remarks below."""
    rows = [" | ".join(HEADINGS), "|".join(["---"] * 5 + ["---:"] * (len(HEADINGS) - 6) + ["---"])]
    rows += [" | ".join(cell.replace("|", "\\|") for cell in row) for row in table_rows(run)]
    machine = ", ".join(f"{name} {value}" for name, value in run.machine.items())
    versions = ", ".join(f"{name} {value}" for name, value in run.versions.items())
    table = "\n".join(f"| {row} |" for row in rows)
    return f"{machine}; {versions}; {run.started}\n\n{table}\n\n" + "\n\n".join(remarks(run)) + "\n"


FORMATS: dict[str, Callable[[Run], str]] = {"csv": to_csv, "json": to_text, "markdown": to_markdown}
"""The formats of files; the table for people is the one more that ``opyard bench show`` knows."""

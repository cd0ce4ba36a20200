"""What people read: tables, CSV and Markdown, all from the record of a run and from nothing else."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from opyard.registry import REFERENCE
from opyard.units import format_seconds
from opyard_bench.record import OK, Cell, Row, Run, to_text
from opyard_bench.roofs import doubt
from opyard_bench.statistics import Summary, summarize

IMPLAUSIBLE = "implausible"
COLUMNS = (
    *(
        "op",
        "case",
        "kernel",
        "device",
        "status",
        "median_seconds",
        "iqr_seconds",
        "grade",
        "gigabytes_per_second",
    ),
    *("gigaflops_per_second", "times_reference", "times_best", "regret", "reason"),
)


class Line(NamedTuple):
    """One row of a report.

    vs_reference  how many times as fast as the reference; ``vs_best``: as the best kernel of the cell, at most 1
    regret        time of this kernel over that of the best, for the kernel that placement would have used
    """

    cell: Cell
    row: Row
    status: str
    reason: str
    summary: Summary | None
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
    """Every row of a run: of each cell the fastest first, then those that were not timed."""
    return [line for cell in run.cells for line in _lines_of(cell, run)]


def _lines_of(cell: Cell, run: Run) -> list[Line]:
    roofs = {roof.device: roof for roof in run.devices}
    doubts = {id(row): doubt(cell, row, roofs.get(row.device)) for row in cell.rows}
    timed = {id(row): summarize(row.samples) for row in cell.rows if row.status == OK and row.samples}
    ranked = {key: s.median for key, s in timed.items() if not doubts[key] and s.median > 0}
    best = min(ranked.values(), default=None)
    reference = next((ranked[id(r)] for r in cell.rows if r.device == REFERENCE and id(r) in ranked), None)
    found = []
    for row in cell.rows:
        median = ranked.get(id(row))
        relative = median is not None and best is not None
        is_chosen = f"{row.kernel} on {row.device}" == cell.chosen
        found.append(
            Line(
                cell,
                row,
                IMPLAUSIBLE if doubts[id(row)] else row.status,
                doubts[id(row)] or row.reason,
                timed.get(id(row)),
                reference / median if median and reference else None,
                best / median if median and best else None,
                median / best if relative and is_chosen and median and best else None,
            )
        )
    return sorted(found, key=lambda line: ranked.get(id(line.row), math.inf))


def regret_summary(run: Run) -> str:
    """Geometric mean and greatest regret of placement over the cells, as a sentence."""
    found = sorted(
        (line for line in lines(run) if line.regret is not None), key=lambda line: line.regret or 0.0
    )
    if not found:
        return "regret of placement: no cell has a time for the kernel that placement would use."
    logs = [math.log(line.regret or 1.0) for line in found]
    mean, worst = math.exp(sum(logs) / len(logs)), found[-1]
    return (
        f"regret of placement: geometric mean {mean:.3f} over {len(found)} cells, "
        f"at most {worst.regret:.3g} ({worst.cell.op} {worst.cell.case}: {worst.row.kernel} on {worst.row.device})."
    )


# Formats --------------------------------------------------------------------------------------------------------

HEADINGS = (
    "op",
    "case",
    "kernel",
    "device",
    "median",
    "IQR",
    "grade",
    "GB/s",
    "GFLOP/s",
    "vs ref",
    "vs best",
    "regret",
    "note",
)


def table_rows(run: Run) -> list[list[str]]:
    """The cells of the table for people, under ``HEADINGS``."""
    found = [_table_row(line) for line in lines(run)]
    return found + [[c.op, c.case, *[""] * 10, f"not timed: {c.note}"] for c in run.cells if c.note]


def _table_row(line: Line) -> list[str]:
    summary = line.summary
    note = "" if line.status == OK else f"{line.status.upper()}: {line.reason}"
    return [
        line.cell.op,
        line.cell.case,
        line.row.kernel,
        line.row.device,
        format_seconds(summary.median) if summary else "",
        f"{100 * summary.spread / summary.median:.1f} %" if summary and summary.median > 0 else "",
        summary.grade if summary else "",
        _number(line.gigabytes),
        _number(line.gigaflops),
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
    return [f"{timed} times over {len(run.cells)} cells.{end}", regret_summary(run), *run.absent]


def to_csv(run: Run) -> str:
    """One line for each row, numbers in full; the columns are ``COLUMNS``."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for line in lines(run):
        s = line.summary
        numbers: Sequence[float | str | None] = (
            *((s.median, s.spread, s.grade) if s else (None, None, None)),
            *(line.gigabytes, line.gigaflops, line.vs_reference, line.vs_best, line.regret),
        )
        writer.writerow(
            [
                line.cell.op,
                line.cell.case,
                line.row.kernel,
                line.row.device,
                line.status,
                *numbers,
                line.reason,
            ]
        )
    return out.getvalue()


def to_markdown(run: Run) -> str:
    """A Markdown table with the machine above it and the remarks below."""
    rows = [" | ".join(HEADINGS), "|".join(["---"] * 4 + ["---:"] * 8 + ["---"])]
    rows += [" | ".join(cell.replace("|", "\\|") for cell in row) for row in table_rows(run)]
    machine = ", ".join(f"{name} {value}" for name, value in run.machine.items())
    versions = ", ".join(f"{name} {value}" for name, value in run.versions.items())
    table = "\n".join(f"| {row} |" for row in rows)
    return f"{machine}; {versions}; {run.started}\n\n{table}\n\n" + "\n\n".join(remarks(run)) + "\n"


FORMATS: dict[str, Callable[[Run], str]] = {"csv": to_csv, "json": to_text, "markdown": to_markdown}
"""The formats of files; the table for people is the one more that ``opyard bench show`` knows."""

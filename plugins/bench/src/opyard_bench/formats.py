"""The formats of files: each a function of the record of a run, and of nothing else."""

from __future__ import annotations

from collections.abc import Callable

from opyard_bench.page import to_html
from opyard_bench.record import Run, to_text
from opyard_bench.report import to_csv, to_markdown

FORMATS: dict[str, Callable[[Run], str]] = {
    "csv": to_csv,
    "html": to_html,
    "json": to_text,
    "markdown": to_markdown,
}
"""The table for people is the one more that ``opyard bench show`` knows."""

"""Writes the matrix in docs/conformance.md: ``python tools/generate_conformance_matrix.py``. It runs level core, which takes minutes."""

from __future__ import annotations

import sys
from pathlib import Path

from opyard_conformance import matrix, run_conformance

TARGET = Path(__file__).parent.parent / "docs" / "conformance.md"
BEGIN, END = "<!-- matrix: begin -->\n", "<!-- matrix: end -->\n"
BACKENDS = ("cpu", "opencl")


def parts(page: str) -> tuple[str, str, str]:
    """The page before the matrix, the matrix, and the page behind it."""
    before, _, rest = page.partition(BEGIN)
    table, _, behind = rest.partition(END)
    return before, table, behind


def main() -> int:
    """Replaces the matrix; the exit status is 1, and nothing is written, when a case failed."""
    reports = [run_conformance(backend) for backend in BACKENDS]
    failures = [outcome for report in reports for outcome in report.failures]
    for outcome in failures:
        print(f"{outcome.op} {outcome.kernel}: {outcome.detail}\n    {outcome.command}")
    if failures:
        return 1
    before, _, behind = parts(TARGET.read_text(encoding="utf-8"))
    TARGET.write_text(f"{before}{BEGIN}{matrix(reports)}{END}{behind}", encoding="utf-8")
    for report in reports:
        print(
            f"{report.backend}: {report.counts.total()} cases, {dict(report.counts)}, {report.seconds:.0f} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

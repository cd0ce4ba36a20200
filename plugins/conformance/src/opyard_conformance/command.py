"""``opyard conformance``: checks every kernel of a backend against the references."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from opyard.cli.output import console, json_option, print_json, print_table, print_text
from opyard_conformance.families import LEVELS
from opyard_conformance.report import STATUSES, Report
from opyard_conformance.runner import run_conformance
from opyard_conformance.table import matrix


@click.command()
@click.option(
    "--backend",
    required=True,
    metavar="NAME",
    help="The backend whose kernels are checked, on all of its devices, or one of its devices.",
)
@click.option(
    "--op",
    "ops",
    multiple=True,
    metavar="OP",
    help="Check this op, or patterns, or regions; may be repeated. Default: all.",
)
@click.option("--kernel", default="", metavar="ID", help="Check this kernel alone, such as cpu/numpy.")
@click.option(
    "--level", type=click.Choice(LEVELS), default="core", show_default=True, help="How many cases to run."
)
@click.option("--case", "case", default="", metavar="ID", help="Run this case alone; needs one --op.")
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Draw other numbers for the same cases.",
)
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write JUnit XML there, too.")
@click.option("--matrix", "as_matrix", is_flag=True, help="Print a Markdown table of ops and dtypes instead.")
@json_option
def conformance(
    backend: str,
    ops: Sequence[str],
    kernel: str,
    level: str,
    case: str,
    seed: int,
    junit: Path | None,
    as_matrix: bool,
    as_json: bool,
) -> int:
    """Check every kernel of a backend against the references.

    The exit status is 1 when a kernel fails. What a kernel refuses is counted as unsupported, with its own sentence.
    """
    if case and len(ops) != 1:
        raise click.UsageError("--case names a case of one op; name the op with --op OP.")
    with console(stderr=True).status("") as status:
        report = run_conformance(
            backend,
            ops=ops,
            kernel=kernel,
            level=level,
            case=case,
            seed=seed,
            progress=lambda name: status.update(f"checking {name}"),
        )
    if junit is not None:
        junit.write_text(report.to_junit(), encoding="utf-8")
    if as_matrix:
        click.echo(matrix([report]), nl=False)
    elif as_json:
        print_json(report.to_json())
    else:
        _show(report)
    return 1 if report.failures else 0


def _show(report: Report) -> None:
    several = len(report.devices) > 1
    print_table(
        ["op", "kernel", *(["device"] * several), *STATUSES, "unsupported because"],
        [
            [
                s.op,
                s.kernel,
                *([s.device] * several),
                *(s.counts[status] for status in STATUSES),
                "; ".join(s.reasons),
            ]
            for s in report.summaries()
        ],
        title=f"Kernels of {report.backend} on {', '.join(report.devices)}, level {report.level}:\n",
    )
    alike: dict[str, list[str]] = {}
    for outcome in report.failures:
        title = f"FAILED {outcome.op} {outcome.kernel}: {outcome.detail}"
        alike.setdefault(title, []).append(outcome.command)
    for title, commands in alike.items():
        print_text(f"\n{title}", hanging=4)
        for command in commands:
            print_text(f"    {command}")
    counts = report.counts
    numbers = ", ".join(f"{counts[status]} {status}" for status in STATUSES)
    print_text(f"\n{counts.total()} cases in {report.seconds:.1f} s: {numbers}")

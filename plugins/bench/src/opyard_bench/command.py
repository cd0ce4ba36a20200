"""``opyard bench``: times kernels, shows a record again, and compares two."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

import opyard as oy
from opyard.cli.output import console, json_option, print_json, print_table, print_text
from opyard.errors import SettingsError
from opyard.spec import SHORT_NAMES, as_dtype
from opyard_bench import compare as comparing
from opyard_bench.record import Run, read
from opyard_bench.report import FORMATS, HEADINGS, remarks, table_rows
from opyard_bench.sizes import parse_shapes
from opyard_bench.sweep import CELL_SECONDS, QUICK_CELL_SECONDS, Options, sweep


class _WithDefault(click.Group):
    """A group whose command ``run`` may be left out."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        """Puts ``run`` in front of what names no other command."""
        if arguments[:1] != ["--help"] and (not arguments or arguments[0] not in self.commands):
            arguments = ["run", *arguments]
        return super().parse_args(context, arguments)


@click.group(cls=_WithDefault)
def bench() -> None:
    """Time the kernels of ops on all devices; compare runs.

    Each kernel is compared with the reference first, and a wrong one is not timed.

    `opyard bench OP ...` is short for `opyard bench run OP ...`, which takes --json FILE; see `opyard bench run --help`.
    """


@bench.command()
@click.argument("ops", nargs=-1)
@click.option(
    "--kernel",
    "kernels",
    multiple=True,
    metavar="ID",
    help="Time this kernel, such as cpu/blas or 'cpu/*', and the reference; may be repeated.",
)
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="NAME",
    help="Time on this device, and the reference; may be repeated.",
)
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    metavar="DTYPE",
    help="Take this dtype in the place of float32; may be repeated.",
)
@click.option(
    "--shapes", metavar="SIZES", help="Time these sizes and not the cases: m=256:4096:x2,k=512,n=512."
)
@click.option("--quick", is_flag=True, help="Smaller sizes alone, and less time for each case.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help=f"Time for all kernels of one case. Default: {CELL_SECONDS:g}; quick: {QUICK_CELL_SECONDS:g}.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    help="For the arrays that are drawn, and the order in which kernels take turns.",
)
@click.option(
    "--no-calibration",
    is_flag=True,
    help="Do not measure what the devices can do at most; then nothing is IMPLAUSIBLE.",
)
@click.option(
    "--json",
    "json_path",
    metavar="FILE",
    help="Write the record; - writes it to the standard output in the place of the table.",
)
@click.option("--csv", "csv_path", metavar="FILE", help="Write the table as CSV.")
@click.option("--markdown", "markdown_path", metavar="FILE", help="Write the table as Markdown.")
@click.option("--save", is_flag=True, help="Keep the medians as costs: placement uses them from now on.")
def run(
    ops: Sequence[str],
    kernels: Sequence[str],
    devices: Sequence[str],
    dtypes: Sequence[str],
    shapes: str | None,
    quick: bool,
    seconds: float | None,
    seed: int,
    no_calibration: bool,
    json_path: str | None,
    csv_path: str | None,
    markdown_path: str | None,
    save: bool,
) -> int:
    """Time the kernels of the ops OPS, or of all ops."""
    outputs = {"json": json_path, "csv": csv_path, "markdown": markdown_path}
    files = {name: Path(path) for name, path in outputs.items() if path is not None and path != "-"}
    for path in files.values():
        _check_writable(path)
    options = Options(
        ops=tuple(ops),
        kernels=tuple(kernels),
        devices=tuple(devices),
        dtypes=tuple(as_dtype(SHORT_NAMES.get(name, name)).name for name in dtypes),
        shapes=parse_shapes(shapes) if shapes is not None else {},
        quick=quick,
        seconds=seconds or (QUICK_CELL_SECONDS if quick else CELL_SECONDS),
        seed=seed,
        calibrate=not no_calibration,
        save=save,
    )
    found = _sweep(options)
    for name, path in files.items():
        path.write_text(FORMATS[name](found), encoding="utf-8")
    printed = [name for name, path in outputs.items() if path == "-"]
    for name in printed:
        click.echo(FORMATS[name](found), nl=False)
    if not printed:
        _show(found)
    if found.interrupted:
        raise KeyboardInterrupt
    return 0


@bench.command()
@click.argument("file")
@click.option(
    "--format",
    "name",
    type=click.Choice(["table", *FORMATS]),
    default="table",
    show_default=True,
    help="What to print.",
)
def show(file: str, name: str) -> None:
    """Print the record in FILE, which `opyard bench --json FILE` wrote."""
    found = read(file)
    if name == "table":
        _show(found)
    else:
        click.echo(FORMATS[name](found), nl=False)


@bench.command()
@click.argument("base")
@click.argument("head")
@click.option("--force", is_flag=True, help="Compare runs of different machines, too.")
@json_option
def compare(base: str, head: str, force: bool, as_json: bool) -> int:
    """Compare the records BASE and HEAD; the exit status is 1 when something became slower, or broke."""
    verdicts = comparing.compare(read(base), read(head), force=force)
    if as_json:
        print_json({"verdicts": [asdict(v) for v in verdicts], "summary": comparing.summary(verdicts)})
    else:
        print_table(
            ["op", "case", "kernel", "device", "verdict", "head / base", "99 % interval", "note"],
            [
                [
                    *(v.op, v.case, v.kernel, v.device, v.verdict),
                    f"{v.ratio:.3f}" if v.ratio else "",
                    f"{v.low:.3f} to {v.high:.3f}" if v.low and v.high else "",
                    v.reason,
                ]
                for v in verdicts
            ],
        )
        print_text(f"\n{comparing.summary(verdicts)}")
    return int(comparing.is_worse(verdicts))


def _sweep(options: Options) -> Run:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    screen = console(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("benchmark", total=1.0)
        return sweep(
            options,
            oy.default_registry(),
            lambda done, text: progress.update(task, completed=done, description=text),
        )


def _show(found: Run) -> None:
    print_table(HEADINGS, table_rows(found))
    for sentence in remarks(found):
        print_text(f"\n{sentence}")


def _check_writable(path: Path) -> None:
    """Raises SettingsError for a file that cannot be written, before anything is measured."""
    folder = path.parent
    if not folder.is_dir():
        raise SettingsError(
            f"{path} cannot be written: there is no folder {str(folder)!r}. Type: mkdir -p {folder}"
        )
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise SettingsError(f"{path} cannot be written; name another file, or change its rights.")

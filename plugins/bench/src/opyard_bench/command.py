"""``opyard bench``: times kernels, shows a record again, and compares two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path

import click
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

import opyard as oy
from opyard.cli.output import console, json_option, print_json, print_table, print_text
from opyard.errors import SettingsError, did_you_mean
from opyard.spec import SHORT_NAMES, as_dtype
from opyard_bench import compare as comparing
from opyard_bench import comparison, keeping
from opyard_bench.contest_record import is_contest
from opyard_bench.formats import FORMATS
from opyard_bench.record import HOT, REGIMES, Run, from_text, read
from opyard_bench.report import HEADINGS, remarks, table_rows
from opyard_bench.sizes import parse_shapes
from opyard_bench.sweep import Progress as Report
from opyard_bench.sweep import sweep
from opyard_bench.tasks import CELL_SECONDS, QUICK_CELL_SECONDS, Options


class _WithDefault(click.Group):
    """A group whose command ``run`` may be left out."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        """Puts ``run`` in front of what names no other command; ``--models`` is the command of that name."""
        if arguments[:1] == ["--models"]:
            arguments = ["models", *arguments[1:]]
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
@click.option(
    "--model",
    default="",
    metavar="TARGET",
    help="Time the calls of this program, module:function or path.py:function, and the patterns and regions in it; OPS are then its inputs, such as 'float32[32,64]'.",
)
@click.option(
    "--regime",
    "regimes",
    default=HOT,
    show_default=True,
    metavar="NAMES",
    help=f"What a time holds, separated by commas: {', '.join(REGIMES)}.",
)
@click.option("--quick", is_flag=True, help="Smaller sizes alone, and less time for each case.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help=f"Time for all kernels of one case in one regime. Default: {CELL_SECONDS:g}; quick: {QUICK_CELL_SECONDS:g}.",
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
    help="Write the record, every few seconds anew; - writes it to the standard output in the place of the table.",
)
@click.option(
    "--resume",
    metavar="FILE",
    help="Go on with the interrupted run in FILE, with its options; the record goes there, unless --json names another file.",
)
@click.option("--csv", "csv_path", metavar="FILE", help="Write the table as CSV.")
@click.option("--markdown", "markdown_path", metavar="FILE", help="Write the table as Markdown.")
@click.option("--html", "html_path", metavar="FILE", help="Write charts and tables as one page.")
@click.option("--save", is_flag=True, help="Keep the medians as costs: placement uses them from now on.")
@click.pass_context
def run(
    context: click.Context,
    ops: Sequence[str],
    kernels: Sequence[str],
    devices: Sequence[str],
    dtypes: Sequence[str],
    shapes: str | None,
    model: str,
    regimes: str,
    quick: bool,
    seconds: float | None,
    seed: int,
    no_calibration: bool,
    json_path: str | None,
    csv_path: str | None,
    markdown_path: str | None,
    html_path: str | None,
    save: bool,
    resume: str | None,
) -> int:
    """Time the kernels of the ops OPS, or of all ops."""
    outputs = {"json": json_path or resume, "csv": csv_path, "markdown": markdown_path, "html": html_path}
    options = replace(
        parse_options(() if model else ops, kernels, devices, dtypes, shapes, quick, seconds, seed),
        model=model,
        inputs=tuple(ops) if model else (),
        regimes=parse_regimes(regimes),
        calibrate=not no_calibration,
        save=save,
    )
    if model and (shapes or dtypes):
        raise SettingsError(
            "--shapes and --dtype are for the cases of ops; a model has sizes and dtypes of its own. Write them as its inputs: opyard bench --model TARGET 'float32[32,64]'."
        )
    begun = read(resume) if resume is not None else None
    if begun is not None and resume is not None:
        given, options = options, keeping.options_of(begun, resume)
        keeping.check_options(options, given, _typed(context, bool(model)), resume)
    files = {name: Path(path) for name, path in outputs.items() if path is not None and path != "-"}
    for path in files.values():
        keeping.check_writable(path)
    return _finish(_sweep(options, files.get("json"), begun, resume or ""), files, outputs)


def parse_options(
    ops: Sequence[str],
    kernels: Sequence[str],
    devices: Sequence[str],
    dtypes: Sequence[str],
    shapes: str | None,
    quick: bool,
    seconds: float | None,
    seed: int,
) -> Options:
    """What `run` and `ab` are asked for alike. Raises SettingsError and SpecError for dtypes and sizes that are none."""
    return Options(
        ops=tuple(ops),
        kernels=tuple(kernels),
        devices=tuple(devices),
        dtypes=tuple(as_dtype(SHORT_NAMES.get(name, name)).name for name in dtypes),
        shapes=parse_shapes(shapes) if shapes is not None else {},
        quick=quick,
        seconds=seconds or (QUICK_CELL_SECONDS if quick else CELL_SECONDS),
        seed=seed,
    )


def _finish(found: Run, files: Mapping[str, Path], outputs: Mapping[str, str | None]) -> int:
    """Writes and prints a run. What cannot be written is printed all the same."""
    try:
        for name, path in files.items():
            keeping.write(path, FORMATS[name](found))
    finally:
        printed = [name for name, path in outputs.items() if path == "-"]
        for name in printed:
            click.echo(FORMATS[name](found), nl=False)
        if not printed:
            _show(found)
    if found.interrupted:
        raise KeyboardInterrupt
    return 0


_FIELDS = {"no_calibration": "calibrate"}
"""Options that have another name than their parameter."""


def _typed(context: click.Context, has_model: bool) -> list[str]:
    """The options that were given on the command line."""
    names = {field.name for field in fields(Options)}
    typed = [
        _FIELDS.get(name, name)
        for name in context.params
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    return ["inputs" if name == "ops" and has_model else name for name in typed if name in names]


def parse_regimes(text: str) -> tuple[str, ...]:
    """``hot,cold`` as regimes, each once. Raises SettingsError for others."""
    found = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in found:
        if name not in REGIMES:
            raise SettingsError(
                f"--regime {name!r} is none.{did_you_mean(name, REGIMES)} There are {', '.join(REGIMES)}."
            )
    return found


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
    text = Path(file).read_text(encoding="utf-8")
    if is_contest(text):
        _show_models(text, file, name)
        return
    found = from_text(text, file)
    if name == "table":
        _show(found)
    else:
        click.echo(FORMATS[name](found), nl=False)


def _show_models(text: str, file: str, name: str) -> None:
    """Prints the record of `opyard bench models` in a format that it has."""
    from opyard_bench.contest_command import print_contest
    from opyard_bench.contest_record import from_text as contest_from_text

    print_contest(contest_from_text(text, file), name)


comparison_page_option = click.option(
    "--html", "html_path", metavar="FILE", help="Write ratios and intervals as one page."
)


@bench.command()
@click.argument("base")
@click.argument("head")
@click.option("--force", is_flag=True, help="Compare runs of different machines, too.")
@comparison_page_option
@json_option
def compare(base: str, head: str, force: bool, html_path: str | None, as_json: bool) -> int:
    """Compare BASE and HEAD, each a record or a folder with the records of several runs.

    The exit status is 1 when something became slower, or broke.
    """
    if html_path is not None:
        keeping.check_writable(Path(html_path))
    runs = _read_side(base), _read_side(head)
    return finish_comparison(*runs, comparing.compare(*runs, force=force), html_path, as_json)


def _read_side(path: str) -> list[Run]:
    """The record in a file, or all in a folder. Raises SettingsError for a folder without one."""
    folder = Path(path)
    files = sorted(folder.glob("*.json")) if folder.is_dir() else [folder]
    if not files:
        raise SettingsError(
            f"{path} has no records; write one with `opyard bench --json {folder / 'run1.json'}`."
        )
    return list(map(read, files))


def finish_comparison(
    base: Sequence[Run],
    head: Sequence[Run],
    verdicts: Sequence[comparing.Verdict],
    html_path: str | None,
    as_json: bool,
) -> int:
    """Writes the page of verdicts and prints them; gives 1 when something became slower, or broke, and else 0."""
    if html_path is not None:
        keeping.write(Path(html_path), comparison.to_html(base, head, verdicts))
    if as_json:
        print_json({"verdicts": [asdict(v) for v in verdicts], "summary": comparing.summary(verdicts)})
    else:
        print_table(
            ["op", "case", "kernel", "device", "regime", "verdict", "head / base", "99 % interval", "note"],
            [
                [
                    *(v.op, v.case, v.kernel, v.device, v.regime, v.verdict),
                    f"{v.ratio:.3f}" if v.ratio else "",
                    f"{v.low:.3f} to {v.high:.3f}" if v.low and v.high else "",
                    v.reason,
                ]
                for v in verdicts
            ],
        )
        print_text(f"\n{comparing.summary(verdicts)}")
    return int(comparing.is_worse(verdicts))


def _sweep(options: Options, path: Path | None, begun: Run | None, name: str) -> Run:
    """Times everything, and writes the record as it grows. Where that fails, what was measured is printed."""
    keeper = keeping.Keeper(path)
    try:
        with progress_bar() as report:
            return sweep(options, oy.default_registry(), report, keeper.keep, begun, name)
    except SettingsError:
        if keeper.latest is not None:
            _show(keeper.latest)
        raise


@contextmanager
def progress_bar() -> Iterator[Report]:
    """Shows on the screen, if there is one, what is told of the part that is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    screen = console(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("benchmark", total=1.0)
        yield lambda done, text: progress.update(task, completed=done, description=text)


def _show(found: Run) -> None:
    print_table(HEADINGS, table_rows(found))
    for sentence in remarks(found):
        print_text(f"\n{sentence}")

"""``opyard bench models``: whole models by opyard and by other runtimes."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import click

from opyard.cli.output import print_table, print_text
from opyard.errors import SettingsError, did_you_mean
from opyard_bench import keeping
from opyard_bench.command import progress_bar
from opyard_bench.contest import CLOCKS, WALL, ContestOptions, contest
from opyard_bench.contest_record import Contest, to_text
from opyard_bench.contest_report import headings, remarks, table_rows, to_markdown
from opyard_bench.models.suite import NAMES, SCALES, check_names
from opyard_bench.peers.contestants import PEERS

ALL = "all"


@click.command()
@click.argument("names", nargs=-1)
@click.option(
    "--peers",
    is_flag=False,
    flag_value=ALL,
    default="",
    metavar="NAMES",
    help=f"Run these beside opyard, separated by commas: {', '.join(PEERS)}; without names all of them.",
)
@click.option("--batches", default="1,16", show_default=True, metavar="SIZES", help="Batch sizes.")
@click.option("--threads", default="1,2", show_default=True, metavar="NUMBERS", help="Numbers of threads.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=7,
    show_default=True,
    help="Samples of each; all take turns in each round.",
)
@click.option(
    "--tune",
    "tuning",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Tune opyard for about so long before; 0 runs it on estimates.",
)
@click.option(
    "--scale",
    type=click.Choice(list(SCALES)),
    default="full",
    show_default=True,
    help="Sizes of the models: those of the papers, or small ones.",
)
@click.option(
    "--clock",
    type=click.Choice(CLOCKS),
    default=WALL,
    show_default=True,
    help="What is compared. On a busy machine processor time, with one thread.",
)
@click.option(
    "--cache", default="", metavar="FOLDER", help="Keep what tuning measures there. Default: nowhere."
)
@click.option("--json", "json_path", metavar="FILE", help="Write the record, anew after each model.")
@click.option("--markdown", "markdown_path", metavar="FILE", help="Write the table as Markdown.")
def models(
    names: Sequence[str],
    peers: str,
    batches: str,
    threads: str,
    rounds: int,
    tuning: float,
    scale: str,
    clock: str,
    cache: str,
    json_path: str | None,
    markdown_path: str | None,
) -> int:
    """Run the models NAMES of the suite, or all, on opyard and other runtimes.

    Each runs in a process of its own; outputs are compared first, and times are taken in turns. What is not installed is
    told with the command that installs it. Weights are random.
    """
    options = ContestOptions(
        models=check_names(tuple(names)),
        peers=parse_peers(peers),
        batches=parse_numbers(batches, "--batches"),
        threads=parse_numbers(threads, "--threads"),
        rounds=rounds,
        tuning=tuning,
        scale=scale,
        clock=clock,
        cache=cache,
    )
    files = [Path(path) for path in (json_path, markdown_path) if path is not None]
    for path in files:
        keeping.check_writable(path)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: processes are ended
    with progress_bar() as report:
        found = contest(options, report, lambda c: _write(json_path, to_text(c)))
    _write(markdown_path, to_markdown(found))
    show_contest(found)
    if found.interrupted:
        raise KeyboardInterrupt
    return 0


def _write(path: str | None, text: str) -> None:
    if path is not None:
        keeping.write(Path(path), text)


def show_contest(found: Contest) -> None:
    """Prints the table and what is to say about it."""
    print_table(headings(found), table_rows(found))
    for sentence in remarks(found):
        print_text(f"\n{sentence}")


def print_contest(found: Contest, name: str) -> None:
    """Prints a record in a format. Raises SettingsError for one that it does not have."""
    if name == "table":
        show_contest(found)
        return
    formats = {"json": to_text, "markdown": to_markdown}
    if name not in formats:
        raise SettingsError(f"a record of models has no {name}; there are table, {', '.join(formats)}.")
    click.echo(formats[name](found), nl=False)


def parse_peers(text: str) -> tuple[str, ...]:
    """Names of peers, each once. Raises SettingsError for one that is unknown."""
    if text == ALL:
        return tuple(PEERS)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in PEERS:
            raise SettingsError(
                f"--peers {name!r} is none.{did_you_mean(name, tuple(PEERS))} There are {', '.join(PEERS)}; models stand before the options: opyard bench models {NAMES[0]} --peers."
            )
    return names


def parse_numbers(text: str, option: str) -> tuple[int, ...]:
    """``1,16`` as numbers, each once. Raises SettingsError for anything else."""
    try:
        numbers = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise SettingsError(f"{option} takes positive numbers, separated by commas; found {text!r}.")
    return numbers

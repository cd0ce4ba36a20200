"""``opyard bench ab``: what is installed here beside another opyard, in turns."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

import opyard as oy
from opyard.cli.output import json_option, print_text
from opyard_bench import keeping
from opyard_bench.ab import PASSES
from opyard_bench.ab import ab as measure
from opyard_bench.command import comparison_page_option, finish_comparison, parse_options, progress_bar, run
from opyard_bench.compare import LEAST_PAIRS, compare
from opyard_bench.environments import HERE, python_of
from opyard_bench.record import to_text

_SHARED = ("ops", "kernels", "devices", "dtypes", "shapes", "quick", "seconds", "seed")


@click.command(params=[parameter for parameter in run.params if parameter.name in _SHARED])
@click.option(
    "--base",
    required=True,
    metavar="WHAT",
    help="Compare with this: a git revision, a folder with sources, a wheel or a folder with wheels, or a Python.",
)
@click.option(
    "--head",
    default=HERE,
    metavar="WHAT",
    help="Take this in the place of what is installed here; named like the base.",
)
@click.option(
    "--passes",
    type=click.IntRange(min=LEAST_PAIRS),
    default=PASSES,
    show_default=True,
    help="Start both sides anew so many times; the time of a case is shared among the passes.",
)
@click.option(
    "--records",
    metavar="FOLDER",
    help="Write the records base.json and head.json there, for `opyard bench compare`.",
)
@comparison_page_option
@json_option
def ab(
    ops: Sequence[str],
    kernels: Sequence[str],
    devices: Sequence[str],
    dtypes: Sequence[str],
    shapes: str | None,
    quick: bool,
    seconds: float | None,
    seed: int,
    base: str,
    head: str,
    passes: int,
    records: str | None,
    html_path: str | None,
    as_json: bool,
) -> int:
    """Time the kernels of the ops OPS, or of all ops, with two opyards in turns.

    Each side runs in a process of its own, and the batches of both alternate, so that both meet the same moods of the
    machine. The exit status is 1 when something became slower, or broke.
    """
    files = [Path(records) / f"{side}.json" for side in ("base", "head")] if records is not None else []
    for file in (*files, *([Path(html_path)] if html_path is not None else [])):
        keeping.check_writable(file)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was made is removed
    options = parse_options(ops, kernels, devices, dtypes, shapes, quick, seconds, seed)
    with tempfile.TemporaryDirectory(prefix="opyard-ab-") as folder, progress_bar() as report:
        pythons, names = [], []
        for side, named in (("base", base), ("head", head)):
            report(0.0, f"{side}: {named or 'what is installed here'}")
            (Path(folder) / side).mkdir()
            python, name = python_of(side, named, Path(folder) / side)
            pythons.append(python)
            names.append(name)
        pair = measure(options, passes, (pythons[0], pythons[1]), oy.default_registry(), report)
    found = [
        replace(run, options={**run.options, "side": name}) for run, name in zip(pair, names, strict=True)
    ]
    for file, record in zip(files, found, strict=False):
        keeping.write(file, to_text(record))
    sides = found[:1], found[1:]
    status = finish_comparison(*sides, compare(*sides), html_path, as_json)
    if not as_json:
        print_text(f"base: {names[0]}; head: {names[1]}.")
    if found[0].interrupted:
        raise KeyboardInterrupt
    return status

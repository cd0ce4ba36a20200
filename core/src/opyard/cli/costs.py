"""``opyard tune TARGET`` and ``opyard costs``: measure kernels on this machine, and look after what was measured."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from ..placement import TuneReport, default_costs
from ..spec import parse_spec
from ..units import format_seconds
from .output import console, json_option, print_json, print_table, print_text
from .program import load, memory_option, parse_limits


@click.command()
@click.argument("target")
@click.argument("inputs", nargs=-1)
@click.option(
    "--seconds", type=click.FloatRange(min=0), default=30.0, show_default=True, help="How long to measure."
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="For drawn arrays and the order of turns."
)
@click.option("--no-calibration", is_flag=True, help="Leave out the measurement of the devices as such.")
@memory_option
@json_option
def tune(
    target: str,
    inputs: tuple[str, ...],
    seconds: float,
    seed: int,
    no_calibration: bool,
    memory: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure kernels where it can change what TARGET runs.

    What is measured is kept for all programs on this machine. TARGET is module:function or path.py:function: a function over arrays, a Graph, a Session, or a function
    that gives one of these; or a model file. INPUTS are the dtype and sizes of its arrays:

    \b
      opyard tune model.py:block 'float32[32,64]' 'float32[64,10]'
      opyard tune package.model:build --seconds 120
      opyard tune model.onnx

    Kernels are compared with the reference first; a wrong one is recorded and not used again on this machine.
    """
    program = load(target, tuple(map(parse_spec, inputs)), parse_limits(memory))
    screen = console(stderr=True)
    status = screen.status("placing") if screen.is_terminal else None

    def progress(part: float, text: str) -> None:
        line = f"{part:4.0%} {text}"
        status.update(line) if status else click.echo(line, err=True)

    with status or nullcontext():
        report = program.tune(
            budget_seconds=seconds, seed=seed, calibrate=not no_calibration, progress=progress
        )
    if as_json:
        print_json(report.to_json())
    else:
        _show(report)
    if report.interrupted:
        raise KeyboardInterrupt


def _show(report: TuneReport) -> None:
    columns = ["kernel", "device", "measured", "spread", "rounds", "before", "work"]
    rows = [
        [
            *(row.kernel, row.device, format_seconds(row.found.seconds), format_seconds(row.found.spread)),
            *(row.found.rounds, format_seconds(row.believed.seconds) if row.believed else "", row.work),
        ]
        for row in report.measured
    ]
    if rows:
        print_table(columns, rows)
    for line in report.sentences():
        print_text(line)


@click.command()
@click.option(
    "--export", "target", type=click.Path(path_type=Path), help="Write everything to this JSON file."
)
@click.option("--import", "source", type=click.Path(path_type=Path), help="Add what this JSON file has.")
@click.option("--clear", is_flag=True, help="Forget everything that was measured.")
@json_option
def costs(target: Path | None, source: Path | None, clear: bool, as_json: bool) -> None:
    """Show, share or forget what was measured on this machine."""
    if sum(map(bool, (target, source, clear))) > 1:
        raise click.UsageError("--export, --import and --clear exclude each other; give one.")
    store = default_costs().store
    done: dict[str, Any] = {}
    if clear:
        done["cleared"] = store.clear()
    elif source is not None:
        done["imported"] = store.import_(source)
    elif target is not None:
        done["exported"] = store.export(target)
    summary = store.summary()
    if as_json:
        wrong = [{"kernel": k, "work": w, "reason": r} for k, w, r in store.wrong()]
        print_json({**done, **summary, "wrong_kernels": wrong})
        return
    for word, number in done.items():
        print_text(f"{word} {number} measurements")
    columns = ["device", "threads", "measurements", "wrong", "calibrated", "description"]
    print_table(
        columns,
        [
            [
                d.get("name", ""),
                d.get("threads", ""),
                *(d[c] for c in columns[2:4]),
                "yes" if d["calibrated"] else "no",
                d.get("description", ""),
            ]
            for d in summary["devices"]
        ],
        title=f"{summary['measurements']} measurements in {summary['path']}\n",
    )
    for kernel, work, reason in store.wrong():
        print_text(f"\nwrong: {kernel} on {work}: {reason}")

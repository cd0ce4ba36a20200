"""``opyard demo``: classifies the held-out digits on the best kernels of this machine, and compares with the references."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import opyard as oy
from opyard.errors import OpyardError
from opyard.placement.model import format_seconds
from opyard_demo.data import load_digits
from opyard_demo.model import digits_graph

BATCH = 52
PASSES = 5
REFERENCE_PASSES = 2
REQUIRED_ACCURACY = 0.97


@dataclass(frozen=True, slots=True)
class Result:
    """Predicted classes of all held-out digits, and the median seconds of one pass over them."""

    predictions: np.ndarray[Any, Any]
    seconds: float
    placement: oy.Placement


@click.command()
@click.option(
    "--device",
    "device_names",
    multiple=True,
    metavar="NAME",
    help="Use this device alone; may be repeated. Default: all.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def demo(device_names: Sequence[str], as_json: bool) -> int:
    """Classify handwritten digits on every device of this machine, and show what runs where and why."""
    digits = load_digits()
    graph = digits_graph()
    registry_devices = oy.devices()
    console = Console(stderr=as_json, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=as_json, highlight=False, width=180)
    if not as_json:
        _show_devices(console, registry_devices)
    with Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("digits"),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        chosen = _classify(
            graph, list(device_names) or "auto", digits.test_images, PASSES, progress, "best kernels"
        )
        reference = _classify(
            graph, "reference", digits.test_images, REFERENCE_PASSES, progress, "reference kernels"
        )
    accuracy = float(np.mean(chosen.predictions == digits.test_labels))
    agrees = bool(np.array_equal(chosen.predictions, reference.predictions))
    if as_json:
        click.echo(json.dumps(_as_json(chosen, reference, accuracy, agrees, registry_devices), indent=2))
    else:
        _show_plan(console, chosen.placement)
        _show_verdict(console, chosen, reference, accuracy, agrees)
    if not agrees:
        wrong = int(np.count_nonzero(chosen.predictions != reference.predictions))
        raise OpyardError(
            f"{wrong} predictions differ from the reference kernels': a kernel is wrong on this machine; see `opyard doctor`."
        )
    if accuracy < REQUIRED_ACCURACY:
        raise OpyardError(
            f"accuracy {accuracy:.4f} is below {REQUIRED_ACCURACY}: the weights are damaged; reinstall opyard-demo."
        )
    return 0


def _classify(
    graph: oy.Graph,
    devices: str | list[str],
    images: np.ndarray[Any, Any],
    passes: int,
    progress: Progress,
    title: str,
) -> Result:
    """Runs all images in batches, once to prepare and then ``passes`` times on the clock."""
    session = oy.Session(graph, devices=devices)
    logits = session.callable("logits", ["images"])
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    task = progress.add_task(title, total=len(images) * (passes + 1))
    predictions: list[np.ndarray[Any, Any]] = []
    seconds = []
    for number in range(passes + 1):
        predictions, began = [], time.perf_counter()
        for batch in batches:
            predictions.append(np.argmax(logits(batch), axis=1))
        if number:  # the first pass places, plans and compiles
            seconds.append(time.perf_counter() - began)
        progress.advance(task, len(images))
    return Result(
        np.concatenate(predictions),
        statistics.median(seconds),
        session.placement("logits", {"images": batches[0]}),
    )


def _as_json(
    chosen: Result, reference: Result, accuracy: float, agrees: bool, devices: Sequence[oy.Device]
) -> dict[str, Any]:
    return {
        "accuracy": accuracy,
        "digits": len(chosen.predictions),
        "equal_to_reference": agrees,
        "devices": [
            {"name": d.name, "kind": d.kind, "memory": d.memory, "description": d.description}
            for d in devices
        ],
        "nodes": chosen.placement.to_json()["nodes"],
        "predicted_seconds_per_batch": chosen.placement.seconds,
        "batch": BATCH,
        "seconds": chosen.seconds,
        "reference_seconds": reference.seconds,
    }


def _show_devices(console: Console, devices: Sequence[oy.Device]) -> None:
    table = Table(title="Devices", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("device", "kind", "memory", "description"):
        table.add_column(column)
    for device in devices:
        table.add_row(*map(Text, (device.name, device.kind, device.memory, device.description)))
    console.print(table)
    console.print()


def _show_plan(console: Console, placement: oy.Placement) -> None:
    title = f"Plan for a batch of {BATCH} (predicted {format_seconds(placement.seconds)})"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("op", "output", "kernel", "device", "cost", "runner-up", "why"):
        table.add_column(column, justify="right" if column == "cost" else "left")
    for decision in placement.decisions:
        second = decision.runner_up
        table.add_row(
            *map(
                Text,
                (
                    decision.node.op.name,
                    str(decision.node.outputs[0].spec),
                    decision.chosen.kernel.id,
                    decision.chosen.device.name,
                    format_seconds(decision.chosen.seconds),
                    f"{second.candidate.kernel.id} on {second.candidate.device.name}" if second else "none",
                    decision.reason,
                ),
            )
        )
    console.print()
    console.print(table)


def _show_verdict(console: Console, chosen: Result, reference: Result, accuracy: float, agrees: bool) -> None:
    count = len(chosen.predictions)
    console.print()
    console.print(
        f"accuracy     {accuracy:.4f} ({round(accuracy * count)} of {count} digits that the network was not trained on)"
    )
    console.print(f"predictions  {'equal to' if agrees else 'DIFFERENT FROM'} those of the reference kernels")
    ratio = reference.seconds / chosen.seconds
    console.print(
        f"time         {format_seconds(chosen.seconds)} for all digits; reference kernels {format_seconds(reference.seconds)}: {ratio:.1f} times as long"
    )

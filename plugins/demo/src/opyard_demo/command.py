"""``opyard demo``: classifies the held-out digits on the best kernels of this machine, and compares with the references."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import opyard as oy
from opyard.cli.output import console, json_option, print_devices, print_json, print_table, print_text
from opyard.errors import OpyardError
from opyard.units import format_seconds
from opyard_demo.data import load_digits

MODEL = Path(__file__).with_name("digits")
"""The saved model, written by examples/train_digits.py."""

ADVICE = "Type: pip install --force-reinstall opyard-demo opyard-onnx"

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
    "names",
    multiple=True,
    metavar="NAME",
    help="Use this device alone; may be repeated. Default: all.",
)
@json_option
def demo(names: Sequence[str], as_json: bool) -> int:
    """Classify handwritten digits; show what runs where, and why.

    A small trained network, a saved model, reads the 364 digits that it was not trained on, with the best kernels of this
    machine and then with the references, and both must agree.
    """
    graph, digits = load_model().graph, load_digits()
    best = oy.Session(graph, devices=list(names) or "auto")
    reference = oy.Session(graph, devices="reference")
    if not as_json:
        print_devices(best.devices)
        print_text("")
    with Progress(
        TextColumn("{task.description:<17}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("digits"),
        TimeElapsedColumn(),
        console=console(stderr=True),
    ) as progress:
        chosen = _classify(best, digits.test_images, PASSES, progress, "best kernels")
        expected = _classify(reference, digits.test_images, REFERENCE_PASSES, progress, "reference kernels")
    right = int(np.count_nonzero(chosen.predictions == digits.test_labels))
    wrong = int(np.count_nonzero(chosen.predictions != expected.predictions))
    if as_json:
        print_json(_as_json(chosen, expected, right, wrong, best.devices))
    else:
        _show(chosen, expected, right, wrong)
    if wrong:
        raise OpyardError(
            f"{wrong} predictions differ from the reference kernels': a kernel is wrong on this machine; see `opyard doctor`."
        )
    if right < REQUIRED_ACCURACY * len(digits.test_labels):
        raise OpyardError(
            f"accuracy {right / len(digits.test_labels):.4f} is below {REQUIRED_ACCURACY}: the model is damaged. {ADVICE}"
        )
    return 0


def load_model() -> oy.SavedModel:
    """From ``images`` float32[batch, 1, 8, 8] to ``logits`` float32[batch, 10]. Raises OpyardError where it cannot be opened."""
    try:
        return oy.load(MODEL)
    except (OpyardError, ImportError) as error:
        raise OpyardError(f"the model of the demo cannot be opened: {error} {ADVICE}") from error


def _classify(
    session: oy.Session, images: np.ndarray[Any, Any], passes: int, progress: Progress, title: str
) -> Result:
    """Runs all images in batches, once to prepare and then ``passes`` times on the clock."""
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
    chosen: Result, reference: Result, right: int, wrong: int, devices: Sequence[oy.Device]
) -> dict[str, Any]:
    return {
        "accuracy": right / len(chosen.predictions),
        "digits": len(chosen.predictions),
        "equal_to_reference": not wrong,
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


def _show(chosen: Result, reference: Result, right: int, wrong: int) -> None:
    print_text("")
    print_table(
        ["op", "output", "kernel", "device", "time", "why"],
        [
            [
                decision.match.title,
                decision.node.outputs[0].spec,
                decision.chosen.kernel.id,
                decision.chosen.device.name,
                format_seconds(decision.chosen.seconds),
                decision.reason,
            ]
            for decision in chosen.placement.decisions
        ],
        title=f"Plan for a batch of {BATCH} digits, estimated {format_seconds(chosen.placement.seconds)}:\n",
    )
    count, ratio = len(chosen.predictions), reference.seconds / chosen.seconds
    print_text(f"\naccuracy     {right / count:.4f}: {right} of {count} digits that it was not trained on")
    print_text(f"predictions  {'DIFFERENT FROM' if wrong else 'equal to'} those of the reference kernels")
    print_text(
        f"time         {format_seconds(chosen.seconds)}; reference kernels {format_seconds(reference.seconds)}, {ratio:.1f} times as long"
    )

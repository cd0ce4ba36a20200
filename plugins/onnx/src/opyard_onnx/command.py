"""``opyard run model.onnx``: runs a model once to prepare and then on the clock, and compares with another runtime."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

import opyard as oy
from opyard.cli.output import json_option, print_json, print_table, print_text
from opyard.errors import OpyardError, SpecError
from opyard.spec import parse_spec
from opyard.units import format_seconds
from opyard_onnx.model import Model

RUNS = 5
DRAWN_SIZE = 1
"""What an open size is where no input says more."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one output is from that of the other runtime. ``relative`` is of the greatest element there."""

    output: str
    absolute: float
    relative: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """What a run gave: outputs by name, the seconds of the first run and the median of the others, the placements, and notes."""

    outputs: dict[str, Any]
    first: float
    seconds: float
    placements: tuple[oy.Placement, ...]
    notes: tuple[str, ...]


@click.command()
@click.argument("model", metavar="MODEL")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=FILE.npy|SPEC|random",
    help="An array file, or the dtype and sizes to draw, such as x=float32[8,3,224,224]; may be repeated. Default: random.",
)
@click.option(
    "--device", "devices", multiple=True, metavar="NAME", help="Use this device alone; may be repeated."
)
@click.option(
    "--compare", type=click.Choice(["onnxruntime"]), help="Run it there, too, and show the differences."
)
@click.option("--seed", type=int, default=0, show_default=True, help="For the inputs that are drawn.")
@json_option
def run(
    model: str,
    inputs: tuple[str, ...],
    devices: tuple[str, ...],
    compare: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Run the model file MODEL on the best kernels of this machine.

    Inputs that are not given are drawn from a seed: normal numbers for floating types, zeros and ones for the others.
    Sizes that the model leaves open are 1 unless an input says more.

    \b
      opyard run model.onnx
      opyard run model.onnx --input images=batch.npy --device cpu:0 --compare onnxruntime
    """
    opened = Model(model, devices=list(devices) or "auto")
    feeds = _feeds(opened, inputs, seed)
    found = _timed(opened, feeds)
    differences = _compared(model, opened, feeds, found.outputs) if compare else []
    if as_json:
        print_json(_as_json(opened, feeds, found, differences, seed))
    else:
        _show(feeds, found, differences, compare)


# Inputs --------------------------------------------------------------------------------------------------------------


def _feeds(model: Model, texts: Sequence[str], seed: int) -> dict[str, Any]:
    """An array for each input of the model."""
    given: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise SpecError(
                f"--input is written as name=file.npy, name=float32[2,3] or name=random; found {text!r}."
            )
        if name not in model.inputs:
            known = ", ".join(model.inputs) or "none"
            raise SpecError(f"{model.file.title} has no input {name!r}. Inputs: {known}.")
        given[name] = value
    arrays = {name: _read(name, value) for name, value in given.items() if value.endswith(".npy")}
    specs = {
        name: _parsed(value) for name, value in given.items() if name not in arrays and value != "random"
    }
    sizes = _known_sizes(model, {**specs, **{name: oy.TensorSpec.of(a) for name, a in arrays.items()}})
    generator = np.random.default_rng(seed)
    return {
        name: arrays[name]
        if name in arrays
        else _drawn(specs.get(name) or _declared(model, name, sizes), generator)
        for name in model.inputs
    }


def _read(name: str, path: str) -> Any:
    if not Path(path).is_file():
        raise SpecError(f"--input {name}: there is no file {path!r}.")
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise SpecError(f"--input {name}: {path!r} is no array file: {error}.") from None


def _parsed(text: str) -> oy.TensorSpec:
    found = parse_spec(text)
    if found is None:
        raise SpecError("an input of a model is an array; none is for ops.")
    return found


def _declared(model: Model, name: str, sizes: Mapping[str, int]) -> oy.TensorSpec:
    """The spec that the model states, with open sizes as they are known from other inputs."""
    spec = model.spec(name)
    return oy.TensorSpec(
        [n if isinstance(n, int) else sizes.get(str(n), DRAWN_SIZE) for n in spec.shape], spec.dtype
    )


def _known_sizes(model: Model, specs: Mapping[str, oy.TensorSpec]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, spec in specs.items():
        declared = model.spec(name)
        if declared.ndim == spec.ndim:
            pairs = zip(declared.shape, spec.shape, strict=True)
            found.update({str(a): int(b) for a, b in pairs if not isinstance(a, int)})
    return found


def _drawn(spec: oy.TensorSpec, generator: np.random.Generator) -> Any:
    shape = tuple(int(n) for n in spec.shape)
    if spec.dtype.kind in "fcV" and "int" not in spec.dtype.name:
        return np.asarray(generator.standard_normal(shape)).astype(spec.dtype)
    return np.asarray(generator.integers(0, 2, shape)).astype(spec.dtype)


# Running -------------------------------------------------------------------------------------------------------------


def _timed(model: Model, feeds: Mapping[str, Any]) -> Run:
    began = time.perf_counter()
    outputs = model.run(feeds)
    first = time.perf_counter() - began
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        outputs = model.run(feeds)
        seconds.append(time.perf_counter() - began)
    named = dict(zip(model.outputs, outputs, strict=True))
    placements = tuple(model.placements(feeds))
    return Run(named, first, statistics.median(seconds), placements, tuple(model.notes))


def _compared(
    path: str, model: Model, feeds: Mapping[str, Any], outputs: Mapping[str, Any]
) -> list[Difference]:
    try:
        import onnxruntime
    except ImportError:
        raise OpyardError("--compare onnxruntime needs ONNX Runtime. Type: pip install onnxruntime") from None
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        theirs = dict(zip(model.outputs, session.run(list(model.outputs), dict(feeds)), strict=True))
    except Exception as error:  # its errors have no common class
        raise OpyardError(
            f"ONNX Runtime does not run {model.file.title}: {' '.join(str(error).split())}"
        ) from None
    return [_difference(name, outputs[name], theirs[name]) for name in model.outputs]


def _difference(name: str, ours: Any, theirs: Any) -> Difference:
    if not isinstance(ours, np.ndarray) or ours.dtype == object:
        return Difference(name, 0.0, 0.0, "not compared: it is no tensor of numbers")
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        note = f"{oy.TensorSpec.of(ours)!r} here, {oy.TensorSpec.of(theirs)!r} there"
        return Difference(name, float("inf"), float("inf"), note)
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    apart = np.where(np.isnan(apart), np.inf, apart)
    greatest = float(np.max(apart, initial=0.0))
    scale = float(np.max(np.abs(b), initial=0.0, where=np.isfinite(b)))
    return Difference(name, greatest, greatest / scale if scale else greatest)


# Output --------------------------------------------------------------------------------------------------------------


def _kernels(found: Run) -> list[tuple[str, str, int, float]]:
    """(kernel, device, nodes, predicted seconds), the longest first."""
    nodes: Counter[tuple[str, str]] = Counter()
    seconds: Counter[tuple[str, str]] = Counter()
    for placement in found.placements:
        for decision in placement.decisions:
            key = (decision.chosen.kernel.id, decision.chosen.device.name)
            nodes[key] += 1
            seconds[key] += decision.chosen.seconds  # type: ignore[assignment]
    return [(*key, nodes[key], float(seconds[key])) for key in sorted(nodes, key=lambda k: -seconds[k])]


def _text(item: Any) -> str:
    if item is None:
        return "nothing"
    if isinstance(item, list):
        return f"a sequence of {len(item)}"
    return (
        f"text[{', '.join(map(str, item.shape))}]" if item.dtype == object else repr(oy.TensorSpec.of(item))
    )


def _show(
    feeds: Mapping[str, Any], found: Run, differences: Sequence[Difference], compare: str | None
) -> None:
    rows = [[f"input {name}", _text(item)] for name, item in feeds.items()]
    rows += [[f"output {name}", _text(item)] for name, item in found.outputs.items()]
    print_table(["name", "spec"], rows)
    print_text("")
    kernels = [[k, d, n, format_seconds(s)] for k, d, n, s in _kernels(found)]
    if kernels:
        print_table(["kernel", "device", "nodes", "predicted"], kernels)
        print_text("")
    if len(found.placements) > 1:
        print_text(f"stages  {len(found.placements)}: shapes depend on numbers that the model computes")
    for note in found.notes:
        print_text(f"note    {note}", hanging=8)
    print_text(
        f"time    {format_seconds(found.seconds)}, median of {RUNS} runs; the first, which imports and places, {format_seconds(found.first)}"
    )
    for difference in differences:
        note = (
            difference.note or f"{difference.absolute:.3g}, {difference.relative:.3g} of the greatest element"
        )
        print_text(f"differs from {compare} at most by  {difference.output}: {note}")


def _as_json(
    model: Model, feeds: Mapping[str, Any], found: Run, differences: Sequence[Difference], seed: int
) -> dict[str, Any]:
    return {
        "model": model.file.title,
        "seed": seed,
        "inputs": {name: _text(item) for name, item in feeds.items()},
        "outputs": {name: _text(item) for name, item in found.outputs.items()},
        "first_seconds": found.first,
        "seconds": found.seconds,
        "runs": RUNS,
        "predicted_seconds": sum(placement.seconds for placement in found.placements),
        "kernels": [
            {"kernel": k, "device": d, "nodes": n, "predicted_seconds": s} for k, d, n, s in _kernels(found)
        ],
        "stages": len(found.placements),
        "notes": list(found.notes),
        "differences": [
            {
                "output": d.output,
                "absolute": d.absolute if np.isfinite(d.absolute) else None,
                "relative": d.relative if np.isfinite(d.relative) else None,
                "note": d.note,
            }
            for d in differences
        ],
    }

"""``opyard run MODEL``: runs a program once to prepare and then on the clock, compares, and shows where the time goes."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from ..errors import SpecError
from ..files import replace_file
from ..placement import Placement
from ..spec import TensorSpec, parse_spec
from ..units import format_seconds
from .output import json_option, print_json, print_table, print_text
from .runner import Runner, open_runner

RUNS = 5
PROFILED_RUNS = 10
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
    placements: tuple[Placement, ...]
    notes: tuple[str, ...]


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("specs", metavar="INPUTS", nargs=-1)
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
    "--compare",
    metavar="RUNTIME",
    help="Run it there, too, and show the differences: 'reference' for programs, 'onnxruntime' for ONNX models.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="For the inputs that are drawn.")
@click.option("--profile", "profiled", is_flag=True, help="Show where the time goes, by node, op and kernel.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write what happens in a run, and when, as Chrome trace events: open it in ui.perfetto.dev.",
)
@json_option
def run(
    model: str,
    specs: tuple[str, ...],
    inputs: tuple[str, ...],
    devices: tuple[str, ...],
    compare: str | None,
    seed: int,
    profiled: bool,
    trace: Path | None,
    as_json: bool,
) -> None:
    """Run MODEL on the best kernels of this machine.

    MODEL is a model file, or module:function or path.py:function: a function over arrays, a Graph, a Session, or a function
    that gives one of these. Inputs that are not given are drawn from a seed: normal numbers for floating types, zeros and
    ones for the others. Sizes that the model leaves open are 1 unless an input says more. INPUTS are the dtypes and sizes of
    its inputs in their order, which a function over arrays needs.

    \b
      opyard run model.onnx
      opyard run model.onnx --input images=batch.npy --device cpu:0 --compare onnxruntime
      opyard run models/digits
      opyard run model.py:block 'float32[32,64]' 'float32[64,10]' --profile --trace trace.json
    """
    if trace is not None:
        _require_writable(trace)
    given = _given(inputs)
    stated = tuple(map(_parsed, specs))
    opened = open_runner(model, stated, {n: _spec_of(g) for n, g in given.items() if g is not None}, devices)
    feeds = _feeds(opened, {**dict(zip(opened.inputs, stated, strict=False)), **given}, seed)
    found = _timed(opened, feeds)
    theirs = opened.run_by(compare, feeds) if compare else []
    differences = [
        _difference(name, found.outputs[name], other)
        for name, other in zip(opened.outputs, theirs, strict=False)
    ]
    profile = opened.profile(feeds, runs=PROFILED_RUNS) if profiled or trace else None
    if trace is not None and profile is not None:
        _write_trace(trace, profile.trace(f"opyard: {opened.title}"))
    if as_json:
        data = _as_json(opened, feeds, found, differences, seed)
        print_json({**data, "profile": profile.to_json()} if profile and profiled else data)
        return
    _show(feeds, found, differences, compare)
    if trace is not None:
        print_text(f"trace   {trace}; open it in ui.perfetto.dev or chrome://tracing")
    if profile is not None and profiled:
        print_text(f"\n{profile}")


# Inputs --------------------------------------------------------------------------------------------------------------


def _given(texts: Sequence[str]) -> dict[str, Any]:
    """What ``--input`` says, by name: an array, a spec to draw, or None for what the model states."""
    given: dict[str, Any] = {}
    written: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise SpecError(
                f"--input is written as name=file.npy, name=float32[2,3] or name=random; found {text!r}."
            )
        if name in given:
            raise SpecError(f"--input {name} is given twice: {written[name]!r} and {value!r}.")
        written[name] = value
        if value == "random":
            given[name] = None
        else:
            given[name] = _read(name, value) if value.endswith(".npy") else _drawn_spec(name, value)
    return given


def _spec_of(item: Any) -> TensorSpec:
    return item if isinstance(item, TensorSpec) else TensorSpec.of(item)


def _feeds(model: Runner, given: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """An array for each input of the model."""
    names = tuple(model.inputs)
    for name in given:
        if name not in names:
            raise SpecError(f"{model.title} has no input {name!r}. Inputs: {', '.join(names) or 'none'}.")
    sizes = _known_sizes(model, {name: _spec_of(item) for name, item in given.items() if item is not None})
    generator = np.random.default_rng(seed)
    feeds: dict[str, Any] = {}
    for name in names:
        item = given.get(name)
        if item is None:
            item = _declared(model, name, sizes)
        feeds[name] = _drawn(item, generator) if isinstance(item, TensorSpec) else item
    return feeds


def _read(name: str, path: str) -> Any:
    if not Path(path).is_file():
        raise SpecError(f"--input {name}: there is no file {path!r}.")
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError):  # NumPy's texts are about pickles, which are not read here
        raise SpecError(
            f"--input {name}: {path!r} is no array file, or one of Python objects; write it by numpy.save({path!r}, array)."
        ) from None
    except OSError as error:
        raise SpecError(f"--input {name}: {path!r} cannot be read: {error.strerror}.") from None


def _parsed(text: str) -> TensorSpec:
    found = parse_spec(text)
    if found is None:
        raise SpecError("an input of a model is an array; none is for ops.")
    return found


def _drawn_spec(name: str, text: str) -> TensorSpec:
    if Path(text).exists():
        raise SpecError(
            f"--input {name}: {text!r} does not end in .npy; an array is read from what numpy.save writes."
        )
    try:
        found = parse_spec(text)
    except SpecError as error:
        raise SpecError(f"--input {name}: {error}") from None
    if found is None:
        raise SpecError(f"--input {name}: an input of a model is an array; none is for ops.")
    return found


def _declared(model: Runner, name: str, sizes: Mapping[str, int]) -> TensorSpec:
    """The spec that the model states, with open sizes as they are known from other inputs."""
    spec = model.spec(name)
    return TensorSpec(
        [n if isinstance(n, int) else sizes.get(str(n), DRAWN_SIZE) for n in spec.shape], spec.dtype
    )


def _known_sizes(model: Runner, specs: Mapping[str, TensorSpec]) -> dict[str, int]:
    """The sizes that the model leaves open, as these inputs have them. Raises SpecError where two differ."""
    found: dict[str, tuple[int, str]] = {}
    for name, spec in specs.items():
        declared = model.spec(name)
        if declared.ndim != spec.ndim:
            continue
        for open_size, size in zip(declared.shape, spec.shape, strict=True):
            if isinstance(open_size, int):
                continue
            known, other = found.setdefault(str(open_size), (int(size), name))
            if known != size:
                raise SpecError(
                    f"the size {open_size} of {model.title} is {known} in the input {other!r} and {size} in {name!r}."
                )
    return {name: size for name, (size, _) in found.items()}


def _drawn(spec: TensorSpec, generator: np.random.Generator) -> Any:
    shape = tuple(int(n) for n in spec.shape)
    if spec.dtype.kind in "fcV" and "int" not in spec.dtype.name:
        return np.asarray(generator.standard_normal(shape)).astype(spec.dtype)
    return np.asarray(generator.integers(0, 2, shape)).astype(spec.dtype)


# Running -------------------------------------------------------------------------------------------------------------


def _timed(model: Runner, feeds: Mapping[str, Any]) -> Run:
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


def _difference(name: str, ours: Any, theirs: Any) -> Difference:
    if not isinstance(ours, np.ndarray) or ours.dtype == object:
        return Difference(name, 0.0, 0.0, "not compared: it is no tensor of numbers")
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        note = f"{TensorSpec.of(ours)!r} here, {TensorSpec.of(theirs)!r} there"
        return Difference(name, float("inf"), float("inf"), note)
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    apart = np.where(np.isnan(apart), np.inf, apart)
    greatest = float(np.max(apart, initial=0.0))
    scale = float(np.max(np.abs(b), initial=0.0, where=np.isfinite(b)))
    return Difference(name, greatest, greatest / scale if scale else greatest)


def _require_writable(path: Path) -> None:
    """Raises SpecError where a file cannot be written, before anything runs."""
    if path.is_dir():
        raise SpecError(f"--trace {path} is a folder; name a file in it: {path / 'trace.json'}.")
    if not path.parent.is_dir():
        raise SpecError(f"--trace {path}: there is no folder {str(path.parent)!r}; make it first.")
    if path.is_symlink() or (path.exists() and not path.is_file()):  # such as /dev/stdout
        raise SpecError(f"--trace {path} is no ordinary file; name one that may be replaced.")
    if not os.access(path.parent, os.W_OK):
        raise SpecError(
            f"--trace {path}: the folder {str(path.parent)!r} cannot be written to; name another."
        )


def _write_trace(path: Path, trace: Mapping[str, Any]) -> None:
    replace_file(path, json.dumps(trace, allow_nan=False).encode())


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
    return f"text[{', '.join(map(str, item.shape))}]" if item.dtype == object else repr(TensorSpec.of(item))


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
    model: Runner, feeds: Mapping[str, Any], found: Run, differences: Sequence[Difference], seed: int
) -> dict[str, Any]:
    return {
        "model": model.title,
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

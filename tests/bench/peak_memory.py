"""Measures the memory that runs of a model take at most, here and in ONNX Runtime.

    uv run python tests/bench/peak_memory.py                               ResNet-50 and U-Net, batch 16, about a minute
    uv run python tests/bench/peak_memory.py --models bert_base --batch 1 --json

Each runtime runs the model three times in a process of its own, on Linux, which says the most that a process ever had in
memory. From that of the last two runs is taken what the process had before the first one, with model and inputs loaded and
placed: what is left are activations, packed weights, scratch memory, and what allocators keep. ``outputs`` is the sum of all
tensors that the plan makes, and ``alive`` the most of them that it keeps at once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from opyard_bench.models.suite import NAMES, SCALES, Model, build
from opyard_bench.peers import contestants

MEBI = 1 << 20
STATUS = Path("/proc/self/status")


def resident(field: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at most."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def plan_sizes(model: Model) -> dict[str, float]:
    """MiB of all tensors that a run makes, and of those that are alive at once."""
    import opyard as oy
    from opyard.plan import Copy, Free, make_plan

    placement = oy.Session(model.graph, devices="cpu:0").placement(list(model.graph.outputs), model.feeds)
    plan, alive, most, total = make_plan(placement), set[int](), 0, 0
    sizes = [tensor.value.spec.nbytes for tensor in plan.tensors]
    for step in plan.steps:
        if isinstance(step, Free):
            alive -= set(step.slots)
            continue
        made = (step.output,) if isinstance(step, Copy) else step.outputs
        alive |= set(made)
        total += sum(sizes[slot] for slot in made)
        most = max(most, sum(sizes[slot] for slot in alive))
    return {"outputs": total / MEBI, "alive": most / MEBI}


def measure(runtime: str, name: str, batch: int, scale: str) -> dict[str, float]:
    """MiB that two runs took at most, beside what was there before the first."""
    model = build(name, batch, scale)
    prepare: Callable[..., Any] = getattr(contestants, f"prepare_{runtime}")
    found = plan_sizes(model) if runtime == "opyard" else {}
    run = prepare(model, 2)
    before = resident("VmRSS")
    run()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the most so far: proc(5)
    run()
    run()
    return {**found, "peak": resident("VmHWM") - before}


def main() -> None:
    """Starts a process for each model and runtime, and prints a table in Markdown, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=NAMES, default=["resnet50", "unet"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--scale", choices=tuple(SCALES), default="full")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("RUNTIME", "MODEL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        runtime, name = options.one
        print(json.dumps(measure(runtime, name, options.batch, options.scale)))
        return
    runtimes = ["opyard", *(["onnxruntime"] if find_spec("onnxruntime") else [])]
    rows = []
    for name in options.models:
        row: dict[str, Any] = {"model": name, "batch": options.batch}
        for runtime in runtimes:
            command = [sys.executable, __file__, "--one", runtime, name, "--batch", str(options.batch)]
            done = subprocess.run(
                [*command, "--scale", options.scale], check=True, capture_output=True, text=True
            )
            row[runtime] = json.loads(done.stdout)
        rows.append(row)
    if options.json:
        print(json.dumps(rows))
        return
    print(
        "MiB\n\n| model | batch | all tensors | alive at once | opyard | ONNX Runtime |\n|---|---|---|---|---|---|"
    )
    for row in rows:
        ours, theirs = row["opyard"], row.get("onnxruntime", {}).get("peak", float("nan"))
        cells = [row["model"], row["batch"], *(f"{ours[k]:.0f}" for k in ("outputs", "alive", "peak"))]
        print(f"| {' | '.join(map(str, cells))} | {theirs:.0f} |")


if __name__ == "__main__":
    main()

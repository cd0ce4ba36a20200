"""Measures what a step of an ONNX Loop takes: as a node of a graph, unrolled, and in ONNX Runtime.

    uv run python tests/bench/loops.py                       a table in Markdown
    uv run python tests/bench/loops.py --json                the same as JSON
    uv run python tests/bench/loops.py --steps 100 --rounds 3

The bodies are small, so that it is the loop which is measured: ``counted`` ends by its number, ``tested`` by a condition, ``large`` has a
product of 128 by 128 numbers. CPU time of the process, medians; the ways take turns, and each uses one thread. docs/onnx.md holds a table
made by this script.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx.parser
from onnx import helper, numpy_helper

import opyard as oy
import opyard_onnx

UNROLLED = 200
"""Steps of the loop that is unrolled: beyond that its import and placement take longer than all else."""

STEP = "m = MatMul (v, k) a = Add (m, v) w = Tanh (a)"
BODIES = {
    "counted": (8, f"{STEP} go = Identity (on)"),
    "tested": (8, f"{STEP} s = ReduceMax <keepdims = 0> (w) go = Less (s, most)"),
    "large": (128, f"{STEP} go = Identity (on)"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One body: microseconds of CPU time for a step, and seconds that the import and the first run take, by way."""

    body: str
    steps: int
    step: dict[str, float]
    start: dict[str, float]


def model(body: str, steps: int) -> Any:
    """A loop of so many steps over ``float[width, width]``, or over one row of 8."""
    width, text = BODIES[body]
    rows = 1 if width == 8 else width
    sizes = f"float[{rows},{width}]"
    found = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> g ({sizes} x) => ({sizes} y) {{ }}'
    )
    constants = {"n": np.int64(steps), "k": np.eye(width, dtype="float32") / 8, "most": np.float32(1e9)}
    for name, array in constants.items():
        found.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    graph = onnx.parser.parse_graph(
        f"body (int64 i, bool on, {sizes} v) => (bool go, {sizes} w) {{ {text} }}"
    )
    found.graph.node.append(helper.make_node("Loop", ["n", "", "x"], ["y"], body=graph))
    return found


def ways(body: str, steps: int) -> dict[str, tuple[int, Callable[[], Callable[[Any], Any]]]]:
    """What runs the loop, by name: its steps, and what makes a function of its input."""

    def graph(count: int, unroll: bool) -> Callable[[Any], Any]:
        loaded = opyard_onnx.load(model(body, count), unroll=unroll)
        return oy.Session(loaded, devices=["cpu:0"]).callable("y", ["x"])

    def runtime() -> Callable[[Any], Any]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = onnxruntime.InferenceSession(
            model(body, steps).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return lambda x: session.run(None, {"x": x})[0]

    found = {"node": (steps, lambda: graph(steps, False)), "onnxruntime": (steps, runtime)}
    if body != "tested":
        few = min(steps, UNROLLED)
        found["unrolled"] = (few, lambda: graph(few, True))
    return found


def measure(body: str, steps: int, rounds: int) -> Row:
    """Makes all ways, compares their results, and lets them take turns."""
    width, _ = BODIES[body]
    x = np.full((1 if width == 8 else width, width), 0.5, "float32")
    made, start, results = {}, {}, {}
    for name, (count, make) in ways(body, steps).items():
        began = time.process_time()
        made[name] = (count, make())
        results[name] = made[name][1](x)
        start[name] = time.process_time() - began
    np.testing.assert_allclose(results["node"], results["onnxruntime"], rtol=1e-4, atol=1e-5)
    taken: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(rounds):
        for name, (count, run) in made.items():
            began = time.process_time()
            run(x)
            taken[name].append((time.process_time() - began) / count)
    return Row(body, steps, {name: 1e6 * statistics.median(t) for name, t in taken.items()}, start)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    rows = [
        measure(body, options.steps if body != "large" else max(1, options.steps // 20), options.rounds)
        for body in BODIES
    ]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    names = list(rows[0].step)
    print(f"| body | steps | {' | '.join(f'{name}, us a step' for name in names)} |")
    print(f"|---|---:|{'---:|' * len(names)}")
    for row in rows:
        cells = [f"{row.step[name]:.2f}" if name in row.step else "" for name in names]
        print(f"| {row.body} | {row.steps:,} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

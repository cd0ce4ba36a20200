"""Measures fused kernels of the OpenCL backend: a chain of eight elementwise ops as one kernel, and rows with reductions.

    uv run python tests/bench/fusion.py                        a table in Markdown
    uv run python tests/bench/fusion.py --json                 the same as JSON
    uv run python tests/bench/fusion.py --elements 4194304 --rounds 5 --device opencl:0

All ways compute on the same float32 elements, in turns; arrays of pyopencl are those of ``pyopencl.array``, which has a kernel for each
op. Seconds are CPU time of the process with all its threads, medians, so that other work on the machine disturbs less; ``of a copy`` is
the time of ``np.copyto`` of the same elements, over that of the way. docs/codegen.md holds figures made by this script.
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

import opyard as oy
from opyard.driver import Device
from opyard.kernels import Kernel
from opyard.placement.regions import find_regions
from opyard.registry import Registry
from opyard.units import format_seconds

COLUMNS = 1024


@dataclass(frozen=True, slots=True)
class Row:
    """One way: seconds of CPU time, and how many times as long a copy of the elements takes."""

    way: str
    elements: int
    seconds: float
    of_a_copy: float


def one(x: Any) -> Any:
    return x + 1.0


def eight(x: Any) -> Any:
    return oy.maximum(oy.abs((x * 0.5 + 1.0) * x - 2.0) * 0.25, 0.1) + x


def exponential(x: Any) -> Any:
    return oy.exp(x * -0.5 + 1.0) * x


def functions_of_math(x: Any) -> Any:
    return oy.tanh(oy.sigmoid(x * 0.5 + 1.0) * x) - 0.5 * oy.exp(-x)


def softmax(x: Any) -> Any:
    shifted = oy.exp(x - oy.max(x, axis=-1, keepdims=True))
    return shifted / oy.sum(shifted, axis=-1, keepdims=True)


def norm(x: Any) -> Any:
    centred = x - oy.mean(x, axis=-1, keepdims=True)
    return centred / oy.sqrt(oy.mean(centred * centred, axis=-1, keepdims=True) + 1e-5)


FUSED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "one op": ("fused", one),
    "eight ops, one kernel": ("fused", eight),
    "four ops with exp, one kernel": ("fused", exponential),
    "seven ops with exp, sigmoid and tanh, one kernel": ("fused", functions_of_math),
    "softmax of its parts, one kernel": ("fused_rows", softmax),
    "normalization of its parts, one kernel": ("fused_rows", norm),
}


def measure(elements: int, rounds: int, name: str = "opencl:0") -> list[Row]:
    """All ways, in turns."""
    registry = oy.standard_registry()
    from opyard_opencl.plugin import opyard_register

    opyard_register(registry)
    device = registry.device(name)
    spec = oy.TensorSpec((max(1, elements // COLUMNS), COLUMNS))
    host = np.random.default_rng(0).standard_normal(spec.shape, dtype=np.float32)
    x, target = device.upload(host), np.empty_like(host)
    out = device.upload(np.empty_like(host))
    ways: dict[str, Callable[[], Any]] = {"np.copyto": lambda: np.copyto(target, host)}
    for title, (compiler, function) in FUSED.items():
        ways[title] = _started(_whole(registry, compiler, function, spec, device), x, out)
    ways["eight ops, eight kernels"] = _one_by_one(registry, eight, spec, device, x)
    ways["eight ops of pyopencl.array"] = _pyopencl(device, x)
    taken: dict[str, list[float]] = {title: [] for title in ways}
    for turn in range(rounds + 1):  # the first compiles
        for title, start in ways.items():
            before = time.process_time()
            start()
            device.synchronize()
            if turn:
                taken[title].append(time.process_time() - before)
    medians = {title: statistics.median(times) for title, times in taken.items()}
    copy = medians["np.copyto"]
    return [Row(title, int(spec.size), seconds, copy / seconds) for title, seconds in medians.items()]


def _started(run: Callable[..., Any], x: Any, out: Any) -> Callable[[], Any]:
    return lambda: run(x, out=out)


def _whole(
    registry: Registry, compiler: str, function: Callable[[Any], Any], spec: oy.TensorSpec, device: Device
) -> Callable[..., Any]:
    kernel = next(k for k in registry.region_compilers if k.name == compiler)
    graph = oy.trace(function, spec)
    matches, _ = find_regions(kernel, graph, device)
    return kernel.bind(max(matches, key=lambda match: len(match.nodes)).work, device)


def _one_by_one(
    registry: Registry, function: Callable[[Any], Any], spec: oy.TensorSpec, device: Device, x: Any
) -> Callable[[], Any]:
    """Each op by a kernel of its own."""
    graph = oy.trace(function, spec)
    kernels: list[tuple[Kernel, Any, Any]] = []
    constants = {value: device.upload(array) for value, array in graph.constants.items()}
    for node in graph.nodes:
        kernel = next(k for k in registry.kernels(node.op.name) if k.backend == "opencl")
        kernels.append((kernel.bind(node.call, device), node.inputs, node.outputs[0]))

    def run() -> None:
        known = {next(iter(graph.inputs.values())): x, **constants}
        for bound, inputs, output in kernels:
            known[output] = bound(*(known[value] for value in inputs))

    return run


def _pyopencl(device: Any, x: Any) -> Callable[[], Any]:
    import pyopencl.array as cla

    given = cla.Array(device.queue, x.shape, np.float32, data=x.buffer)

    least = cla.zeros_like(given) + 0.1  # its maximum takes arrays alone

    def run() -> None:
        cla.maximum(abs((given * 0.5 + 1.0) * given - 2.0) * 0.25, least) + given

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--elements", type=int, default=1 << 24)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="opencl:0")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure(options.elements, options.rounds, options.device)
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    print("| way | time | of a copy |\n|---|---:|---:|")
    for row in rows:
        print(f"| {row.way} | {format_seconds(row.seconds)} | {row.of_a_copy:.0%} |")


if __name__ == "__main__":
    main()

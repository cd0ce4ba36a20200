"""Compiled loops against the streaming limit of the machine, NumPy and, where it is installed, PyTorch.

    OPYARD_NUM_THREADS=1 uv run python tests/bench/compiled.py

Candidates take turns; times are minima, for others only add to them: of CPU time on one thread, of wall time on several. The limit
of a case is what a copy takes that reads and writes as many bytes in the same run, with stores through or past the caches,
whichever is faster; of a reduction it is what the C library takes to look for a byte that is not there. Arrays of 4 MiB lie in the
caches of most processors, those of 64 MiB in few.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import opyard as oy
from opyard.region import Region
from opyard.settings import num_threads
from opyard.spec import TensorSpec
from opyard_cpu.jit import compiled
from opyard_cpu.threads import LEAST_WORK, in_parts

Array = np.ndarray[Any, Any]
Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Loop:
    """What is timed: the ops, the same in NumPy and in PyTorch (a function of the module), and the shapes of the inputs."""

    name: str
    ops: Function
    numpy: Function
    torch: Function
    shapes: tuple[tuple[int, ...], ...]


def _numpy_softmax(x: Array) -> Array:
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def _numpy_layer(x: Array, w: Array, b: Array) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + 1e-5) * w + b


def _numpy_gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


ROW = (1024,)

TURN = 2e-3
"""Seconds that a turn lasts at least: the first call after another library finds the caches full of that."""


def _element_loops(rows: int) -> tuple[Loop, ...]:
    """Chains and kernels of rows on arrays of so many rows."""
    shape = (rows, *ROW)
    return (
        Loop(
            f"chain of 5, {rows} x 1024",
            lambda x, y: oy.relu(x * y + x) * 0.5 - y,
            lambda x, y: np.maximum(x * y + x, 0) * np.float32(0.5) - y,
            lambda t: lambda x, y: t.relu(x * y + x) * 0.5 - y,
            (shape, shape),
        ),
        Loop(
            f"gelu (tanh) {rows} x 1024",
            lambda x: oy.gelu(x, approximate="tanh"),
            _numpy_gelu,
            lambda t: lambda x: t.nn.functional.gelu(x, approximate="tanh"),
            (shape,),
        ),
        Loop(
            f"softmax {rows} x 1024",
            lambda x: oy.softmax(x),
            _numpy_softmax,
            lambda t: lambda x: t.softmax(x, -1),
            (shape,),
        ),
        Loop(
            f"layer norm {rows} x 1024",
            lambda x, w, b: oy.layer_normalization(x, w, b),
            _numpy_layer,
            lambda t: lambda x, w, b: t.nn.functional.layer_norm(x, ROW, w, b),
            (shape, ROW, ROW),
        ),
    )


LOOPS = (
    *_element_loops(1024),
    *_element_loops(16384),
    Loop("sum of 16M", lambda x: oy.sum(x), np.sum, lambda t: t.sum, ((4096, 4096),)),
    Loop(
        "sum of rows, 4096 x 4096",
        lambda x: oy.sum(x, axis=-1),
        lambda x: x.sum(axis=-1),
        lambda t: lambda x: t.sum(x, -1),
        ((4096, 4096),),
    ),
    Loop(
        "sum of columns, 4096 x 4096",
        lambda x: oy.sum(x, axis=0),
        lambda x: x.sum(axis=0),
        lambda t: lambda x: t.sum(x, 0),
        ((4096, 4096),),
    ),
)


def bound(function: Function, arrays: list[Array]) -> tuple[Function, Region]:
    """The kernel ``cpu/jit`` of a whole function."""
    registry = oy.default_registry()
    kernel = next(k for k in registry.region_compilers if k.id == "cpu/jit")
    graph = oy.decompose(oy.trace(function, *map(TensorSpec.of, arrays)), lambda call: False)
    work, device = Region(graph), registry.device("cpu:0")
    reason = kernel.refusal(work, device)
    assert reason is None, reason
    return kernel.bind(work, device), work


def copies(nbytes: int) -> dict[str, Function]:
    """Copies that read half of so many bytes and write the other half: NumPy's, and compiled ones with both kinds of stores."""
    source = np.ones(max(nbytes // 8, 1), np.float32)
    target = oy.default_registry().device("cpu:0").empty(TensorSpec.of(source))
    made: dict[str, Function] = {"NumPy": lambda: np.copyto(target, source)}
    usual = compiled.STREAM_BYTES
    for name, limit in {"through": 1 << 60, "past": 0}.items():
        compiled.STREAM_BYTES = limit
        run, _ = bound(lambda x: x * 2.0 + 1.0, [source])
        made[name] = lambda run=run: run(source, out=target)
    compiled.STREAM_BYTES = usual
    return made


def reading(nbytes: int) -> Function:
    """Reads so many bytes, and nothing else: memchr of the C library, on all threads."""
    source = np.ones(nbytes, np.uint8)
    search = ctypes.CDLL(None).memchr
    search.restype, search.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    first, count = source.ctypes.data, num_threads()

    def part(begin: int, end: int) -> None:
        search(first + nbytes * begin // count, 2, nbytes * end // count - nbytes * begin // count)

    def read() -> None:
        in_parts(part, count, LEAST_WORK)
        assert source is not None  # it lives as long as its address is used

    return read


def least(candidates: dict[str, Function], seconds: float) -> dict[str, float]:
    """Seconds of one call of each; they take turns. The least CPU time on one thread, and wall time on several."""
    alone = num_threads() == 1
    now, times = (
        time.process_time if alone else time.perf_counter,
        {name: list[float]() for name in candidates},
    )
    repeats = {}
    for name, function in candidates.items():
        function()
        begin = now()
        function()
        repeats[name] = max(1, int(TURN / max(now() - begin, 1e-6)))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(times))]) < 5:
        for name, function in candidates.items():
            function()  # finds the caches full of what the last one had; some hold all of these arrays
            begin = now()
            for _ in range(repeats[name]):
                function()
            times[name].append((now() - begin) / repeats[name])
    return {name: min(found) for name, found in times.items()}


def measure(loop: Loop, seconds: float) -> dict[str, float]:
    """Medians of one loop in all ways, and its limit; the results are compared first."""
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal(shape).astype(np.float32) for shape in loop.shapes]
    run, work = bound(loop.ops, arrays)
    out = oy.default_registry().device("cpu:0").empty(work.outputs[0])  # as those of plans
    expected = loop.numpy(*arrays)
    np.testing.assert_allclose(run(*arrays, out=out), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    candidates: dict[str, Function] = {
        "opyard": lambda: run(*arrays, out=out),
        "NumPy": lambda: loop.numpy(*arrays),
    }
    try:
        import torch
    except ImportError:
        torch = None
    if torch is not None:
        torch.set_num_threads(num_threads())
        tensors, function = [torch.from_numpy(array) for array in arrays], loop.torch(torch)
        candidates["PyTorch"] = lambda: function(*tensors)
    nbytes = int(work.cost.bytes)
    limits = {f"copy {name}": function for name, function in copies(nbytes).items()}
    if work.outputs[0].size < work.inputs[0].size and sys.platform != "win32":
        limits = {"read": reading(nbytes)}
    found = least({**candidates, **limits}, seconds)
    limit = min(found.pop(name) for name in limits)
    return {**found, "limit": limit}


def measured(seconds: float, only: str = "") -> dict[str, dict[str, float]]:
    """All loops whose names contain a text."""
    return {loop.name: measure(loop, seconds) for loop in LOOPS if only in loop.name}


def print_table(rows: dict[str, dict[str, float]]) -> None:
    """The report in Markdown."""
    print("| loop | opyard | limit | part of the limit | NumPy | PyTorch |\n|---|---:|---:|---:|---:|---:|")
    for name, row in rows.items():
        others = " | ".join(
            f"{row[other] / row['opyard']:.1f} x" if other in row else "–" for other in ("NumPy", "PyTorch")
        )
        own, limit = row["opyard"], row["limit"]
        print(f"| {name} | {own * 1e6:,.0f} us | {limit * 1e6:,.0f} us | {limit / own:.0%} | {others} |")


def main() -> None:
    """Prints a table, or the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the numbers as JSON")
    parser.add_argument("--seconds", type=float, default=3.0, help="of measuring, for each loop")
    parser.add_argument("--only", default="", help="loops whose names contain this")
    options = parser.parse_args()
    found = measured(options.seconds, options.only)
    if options.json:
        print(json.dumps(found))
    else:
        print_table(found)


if __name__ == "__main__":
    main()

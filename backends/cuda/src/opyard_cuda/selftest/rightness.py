"""Whether the results are right, and whether placement foresees times."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import opyard as oy
from opyard.driver import Device
from opyard.kernels import Kernel, Work

from .checks import Bench, Check, NotRun

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
"""The tools of NVIDIA's compute-sanitizer."""

FOUND = 86
"""The exit code of compute-sanitizer where it has found something."""


def conformance(bench: Bench) -> float:
    """Cases of the level core in which a kernel disagrees with the reference."""
    try:
        from opyard_conformance import run_conformance
    except ImportError:
        raise NotRun("opyard-conformance is not installed; pip install opyard-conformance") from None
    report = run_conformance(bench.device.name)
    if report.failures:
        first = report.failures[0]
        print(f"{first.op}: {first.detail}\n  {first.command}", file=sys.stderr)
    return float(len(report.failures))


def touch_kernels(bench: Bench) -> int:
    """Runs each kernel once, on the first work that it takes; gives the number of kernels that ran.

    The work is a case of the kernel's op; for pattern kernels and region compilers a graph of opyard-conformance, without
    which they are left out. Kernels with layouts of their own are left out, too: plain arrays are nothing to them.
    """
    ran = 0
    for kernel in oy.default_registry().all_kernels():
        if kernel.backend != bench.device.backend or kernel.layouts:
            continue
        for work, make in _works(kernel, bench.device):
            if kernel.refusal(work, bench.device) is None:
                arrays = [None if a is None else bench.device.upload(a) for a in make()]
                kernel.bind(work, bench.device)(*arrays)
                ran += 1
                break
    bench.device.synchronize()
    return ran


def _works(kernel: Kernel, device: Device) -> Iterator[tuple[Work, Callable[[], Any]]]:
    """What a kernel may take, and what makes its arrays."""
    registry = oy.default_registry()
    if kernel.op:
        op = registry.get_op(kernel.op)
        for case in op.cases():
            specs = (getattr(draw, "spec", None) for draw in case.inputs)
            yield op.call(*specs, **case.attributes), case.arrays
        return
    try:
        from opyard_conformance import region_trials
    except ImportError:
        return
    for trial in region_trials(registry, kernel, device, "smoke"):
        assert trial.region is not None
        yield trial.region, trial.case.arrays


def sanitizer(tool: str) -> Callable[[Bench], float]:
    """Measures what a tool of compute-sanitizer finds: 0 for nothing, 1 for something."""

    def measure(bench: Bench) -> float:
        program = shutil.which("compute-sanitizer")
        if program is None:
            raise NotRun("compute-sanitizer is not on PATH; it is part of the CUDA toolkit")
        command = [program, "--tool", tool, "--error-exitcode", str(FOUND)]
        command += [sys.executable, "-m", "opyard_cuda.selftest", "--touch"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode not in (0, FOUND):
            lines = (done.stderr or done.stdout).strip().splitlines() or ["nothing was said"]
            raise NotRun(f"compute-sanitizer ended with {done.returncode}: {lines[-1]}")
        if done.returncode:
            print(done.stdout, file=sys.stderr)
        return float(done.returncode == FOUND)

    return measure


def transformer() -> tuple[oy.Graph, list[np.ndarray[Any, Any]]]:
    """A transformer block: attention over 512 tokens of width 512, and two dense layers."""
    random, width, tokens = np.random.default_rng(0), 512, 512

    def weight(*shape: int) -> Any:
        return (random.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    parts = [weight(width, width) for _ in range(4)]
    up, down = weight(width, 4 * width), weight(4 * width, width)
    ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)

    def block(x: Any) -> Any:
        y = oy.layer_normalization(x, ones, zeros)
        query, key, value = (oy.matmul(y, part) for part in parts[:3])
        scores = oy.multiply(oy.matmul(query, oy.matrix_transpose(key)), width**-0.5)
        x = oy.add(x, oy.matmul(oy.matmul(oy.softmax(scores), value), parts[3]))
        y = oy.layer_normalization(x, ones, zeros)
        return oy.add(x, oy.matmul(oy.gelu(oy.matmul(y, up), approximate="tanh"), down))

    return oy.trace(block, oy.TensorSpec((tokens, width))), [weight(tokens, width)]


def resnet() -> tuple[oy.Graph, list[np.ndarray[Any, Any]]]:
    """A block of ResNet: two 3x3 convolutions of 64 channels over eight images of 56x56, and the shortcut."""
    random, channels = np.random.default_rng(0), 64
    first, second = (
        (random.standard_normal((channels, channels, 3, 3)) / 24).astype(np.float32) for _ in range(2)
    )
    bias = np.zeros(channels, np.float32)

    def block(x: Any) -> Any:
        y = oy.relu(oy.conv(x, first, bias, padding=1))
        return oy.relu(oy.add(x, oy.conv(y, second, bias, padding=1)))

    images = random.standard_normal((8, channels, 56, 56)).astype(np.float32)
    return oy.trace(block, oy.TensorSpec.of(images)), [images]


def prediction(
    program: Callable[[], tuple[oy.Graph, list[np.ndarray[Any, Any]]]],
) -> Callable[[Bench], float]:
    """Measures by how many percent the time of a program on all devices differs from the one that placement predicts after tuning."""

    def measure(bench: Bench) -> float:
        graph, arrays = program()
        feeds, outputs = dict(zip(graph.inputs, arrays, strict=True)), list(graph.outputs)
        with tempfile.TemporaryDirectory() as folder:
            costs = oy.MeasuredCosts(oy.CostStore(Path(folder) / "costs.sqlite"))
            session = oy.Session(graph, costs=costs)
            session.tune(outputs, feeds, budget_seconds=bench.sizes.seconds)
            predicted = session.placement(outputs, feeds).seconds
            call, samples = session.callable(outputs, list(feeds)), []
            for _ in range(30):
                begin = time.perf_counter()
                call(*arrays)
                samples.append(time.perf_counter() - begin)
            costs.store.close()
        return 100 * abs(statistics.median(samples[10:]) / predicted - 1)

    return measure


RIGHTNESS = (
    Check("conformance, level core", "cases that fail", conformance, 0, at_least=False),
    *(Check(f"compute-sanitizer, {tool}", "findings", sanitizer(tool), 0, at_least=False) for tool in TOOLS),
    Check("predicted time, transformer block", "% off", prediction(transformer), 20, at_least=False),
    Check("predicted time, ResNet block", "% off", prediction(resnet), 20, at_least=False),
)

"""Measures the kernels of every OpenCL device here beside np.copyto, OpenBLAS and the CPU backend, in the same run.

    uv run python tests/bench/opencl.py                          tables in Markdown, one thread
    uv run python tests/bench/opencl.py --only rows products     some of: elementwise, rows, products, convolution, launch
    uv run python tests/bench/opencl.py --json --quick           JSON; small sizes, to see that it runs

The process is bound to one processor; seconds are its CPU time, medians, candidates in turns. A kernel is compared with the reference before
it is timed. "Of copyto" is the time that np.copyto takes for the bytes that a kernel must read and write, by that of the
kernel. For other implementations than PoCL: tools/opencl_runtimes.py. docs/opencl.md holds figures made by this script.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

PARTS = ("elementwise", "rows", "products", "convolution", "launch")


def bind_to_one_processor() -> None:
    """Before anything counts processors."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.environ |= {"OPYARD_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "POCL_MAX_PTHREAD_COUNT": "1"}


def interleaved(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of CPU time of each function."""
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(rounds):
        for name, function in functions.items():
            begin = time.process_time()
            function()
            samples[name].append(time.process_time() - begin)
    return {name: statistics.median(values) for name, values in samples.items()}


class Bench:
    """A device, the sizes, and what is measured on it."""

    def __init__(self, device: Any, quick: bool) -> None:
        import numpy as np

        import opyard as oy

        self.numpy, self.opyard, self.device, self.quick = np, oy, device, quick
        self.registry = oy.default_registry()
        self.generator = np.random.default_rng(0)
        self.rounds = 3 if quick else 15

    def numbers(self, *shape: int) -> Any:
        return self.generator.standard_normal(shape, dtype=self.numpy.float32)

    def kernels(
        self, op: Any, arrays: tuple[Any, ...], device: Any = None, **attributes: Any
    ) -> Iterator[Any]:
        """Each kernel that takes the call on a device, as a name and a function that runs it, after a look at its result."""
        device = device or self.device
        call = op.op.call(*map(self.opyard.TensorSpec.of, arrays), **attributes)
        expected = call.reference(*arrays)[0]
        for candidate in self.opyard.candidates(call, [device], self.registry):
            if candidate.refusal is None:
                run = candidate.kernel.bind(call, device)
                yield candidate.kernel.id, self._checked(run, device, call, arrays, expected)

    def _checked(self, run: Any, device: Any, call: Any, arrays: Any, expected: Any) -> Callable[[], object]:
        places, out = [device.upload(array) for array in arrays], device.empty(call.output)

        def once() -> None:
            run(*places, out=out)
            device.synchronize()

        once()
        self.numpy.testing.assert_allclose(device.download(out), expected, rtol=1e-3, atol=1e-3)
        return once

    def beside_copyto(self, calls: dict[str, tuple[Any, tuple[Any, ...]]]) -> list[dict[str, Any]]:
        source = self.numbers(*self.shape())
        target = self.numpy.empty_like(source)
        functions: dict[str, Callable[[], object]] = {"copyto": lambda: self.numpy.copyto(target, source)}
        share = {}
        for title, (op, arrays) in calls.items():
            _, functions[title] = next(self.kernels(op, arrays))
            share[title] = (sum(array.nbytes for array in arrays) + source.nbytes) / (2 * source.nbytes)
        seconds = interleaved(functions, self.rounds)
        copy = seconds.pop("copyto")
        return [
            {"what": title, "seconds": took, "of copyto": share[title] * copy / took}
            for title, took in seconds.items()
        ]

    def shape(self) -> tuple[int, int]:
        return (256, 128) if self.quick else (8192, 1024)

    def elementwise(self) -> list[dict[str, Any]]:
        oy, x, y = self.opyard, self.numbers(*self.shape()), self.numbers(*self.shape())
        single = (oy.relu, oy.exp, oy.tanh, oy.sigmoid, oy.silu, oy.gelu)
        calls = {op.__name__: (op, (x,)) for op in single}
        return self.beside_copyto({"add": (oy.add, (x, y)), "multiply": (oy.multiply, (x, y)), **calls})

    def rows(self) -> list[dict[str, Any]]:
        oy, x, w = self.opyard, self.numbers(*self.shape()), self.numbers(self.shape()[1])
        return self.beside_copyto(
            {
                "layer_normalization": (oy.layer_normalization, (x, w, w)),
                "rms_normalization": (oy.rms_normalization, (x, w)),
                "softmax": (oy.softmax, (x,)),
                "log_softmax": (oy.log_softmax, (x,)),
            }
        )

    def products(self) -> list[dict[str, Any]]:
        found = []
        for n in (32, 64) if self.quick else (256, 512, 1024, 2048):
            a, b = self.numbers(n, n), self.numbers(n, n)
            out = self.numpy.empty_like(a)
            functions: dict[str, Callable[[], object]] = {
                "OpenBLAS": lambda a=a, b=b, out=out: self.numpy.matmul(a, b, out=out),
                **dict(self.kernels(self.opyard.matmul, (a, b))),
            }
            seconds = interleaved(functions, self.rounds if n < 2048 else 5)
            found += [
                {
                    "what": f"matmul {n}, {name}",
                    "seconds": took,
                    "GFLOP/s": 2e-9 * n**3 / took,
                    "of OpenBLAS": seconds["OpenBLAS"] / took,
                }
                for name, took in seconds.items()
            ]
        return found

    def convolution(self) -> list[dict[str, Any]]:
        size = 8 if self.quick else 56
        x, weight = self.numbers(1, 64, size, size), self.numbers(64, 64, 3, 3) * self.numpy.float32(0.1)
        host = self.registry.device("cpu:0")
        on_host = dict(self.kernels(self.opyard.conv, (x, weight), host, padding=1))
        functions = {**on_host, **dict(self.kernels(self.opyard.conv, (x, weight), padding=1))}
        seconds = interleaved(functions, self.rounds)
        best = min(seconds[name] for name in on_host)
        return [
            {
                "what": f"conv 3x3 64->64 {size}x{size}, {name}",
                "seconds": took,
                "times the best of cpu": took / best,
            }
            for name, took in seconds.items()
        ]

    def launch(self) -> list[dict[str, Any]]:
        """CPU time of the calling thread for a prepared launch, and for a run of a prepared kernel; both do nearly nothing.

        200 one after the other, and single ones after a pause, which find cold caches and have to wake the device.
        """
        from opyard_opencl.launch import Launch

        source = "kernel void one(global const float *x, global float *y, long n) { y[0] = x[0] + n; }"
        x = self.device.upload(self.numbers(16))
        out = self.device.empty(self.opyard.TensorSpec((16,)))
        prepared = Launch(self.device, source, "one", 1, (self.numpy.int64(1),))
        call = self.opyard.relu.op.call(self.opyard.TensorSpec((16,)))
        candidates = self.opyard.candidates(call, [self.device], self.registry)
        run = next(found.kernel for found in candidates if found.refusal is None).bind(call, self.device)
        both: dict[str, Callable[[], object]] = {
            "prepared launch": lambda: prepared(x, out),
            "relu of 16 numbers": lambda: run(x, out=out),
        }
        samples: dict[str, list[float]] = {name: [] for name in both}
        for _ in range(2 * self.rounds):
            for name, function in both.items():
                begin = time.thread_time_ns()
                for _ in range(200):
                    function()
                samples[name].append((time.thread_time_ns() - begin) / 200e9)
                self.device.synchronize()
                time.sleep(1e-3)
                begin = time.thread_time_ns()
                function()
                samples.setdefault(f"{name}, after a pause", []).append((time.thread_time_ns() - begin) / 1e9)
                self.device.synchronize()
        return [{"what": name, "seconds": statistics.median(values)} for name, values in samples.items()]


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of one part in Markdown."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for row in rows:
        cells = []
        for name in names:
            value = row[name]
            if name == "seconds":
                cells.append(f"{value * 1e6:.2f} µs" if value < 1e-4 else f"{value * 1e3:.2f} ms")
            else:
                cells.append(f"{value:.2f}" if isinstance(value, float) else str(value))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    bind_to_one_processor()
    import opyard as oy

    report: dict[str, Any] = {}
    for device in oy.default_registry().devices():
        if device.backend == "opencl":
            bench = Bench(device, chosen.quick)
            report[device.description] = {part: getattr(bench, part)() for part in chosen.only}
    if chosen.json:
        print(json.dumps(report, indent=2))
        return
    for title, parts in report.items():
        print(f"\n{title}\n")
        print("\n\n".join(table(rows) for rows in parts.values()))


if __name__ == "__main__":
    main()

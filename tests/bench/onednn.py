"""Measures kernels on oneDNN beside those on NumPy, and beside torch where it is installed.

    uv run python tests/bench/onednn.py                     a table in Markdown, on one thread
    uv run python tests/bench/onednn.py --threads 2
    uv run python tests/bench/onednn.py --rounds 5 --only conv --json

Seconds are CPU time of the process on one thread, and wall time on several: the lower quartile of rounds in which all ways
take turns. "plain" kernels take and give plain arrays, as eager calls do; others have channels-last images and packed weights,
as in plans. docs/performance.md holds figures made by this script.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Ways = dict[str, Callable[[], object]]

NAMES = {
    "im2col": "NumPy",
    "blas": "NumPy",
    "onednn": "oneDNN, plain",
    "onednn_nhwc": "oneDNN",
    "onednn_packed": "oneDNN",
    "direct_nhwc": "loops",
    "winograd": "Winograd",
    "gemm": "LLVM",
    "gemv": "LLVM",
    "onednn_bfloat16": "oneDNN, plain",
    "onednn_bfloat16_nhwc": "oneDNN",
    "onednn_bfloat16_packed": "oneDNN",
}
"""What the table calls kernels."""


@dataclass(frozen=True, slots=True)
class Row:
    """One piece of work: its operations, and seconds by the ways to do it."""

    name: str
    flops: float
    seconds: dict[str, float]


def drawn(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def started(kernel: Any, work: Any, *arrays: Array) -> Callable[[], object]:
    """A function that starts a kernel as a plan does."""
    import opyard as oy
    from opyard.placement.measuring import make_start

    registry = oy.default_registry()
    return make_start(kernel, work, registry.device("cpu:0"), arrays, registry)


def kernels(op: str, *arrays: Array, **attributes: Any) -> tuple[Ways, float]:
    """Calls of an op's kernels, and the operations of one."""
    import opyard as oy

    call = getattr(oy, op).op.call(*map(oy.TensorSpec.of, arrays), **attributes)
    registry = oy.default_registry()
    device = registry.device("cpu:0")
    all_kernels = (kernel for kernel in registry.kernels(op) if kernel.backend == "cpu")
    found = {kernel.name: kernel for kernel in all_kernels if kernel.refusal(call, device) is None}
    ways = {NAMES[name]: started(found[name], call, *arrays) for name in NAMES if name in found}
    return ways, call.cost.flops


def conv(
    x: tuple[int, ...], weight: tuple[int, ...], dtype: str = "float32", **attributes: Any
) -> tuple[Ways, float]:
    """A convolution with a bias."""
    arrays = (drawn(*x), drawn(*weight), drawn(weight[0]))
    if dtype != "float32":
        return kernels("conv", *(array.astype(named(dtype)) for array in arrays), **attributes)
    ways, flops = kernels("conv", *arrays, **attributes)
    if torch := torch_module():
        images, *rest = map(torch.from_numpy, arrays)
        images = images.contiguous(memory_format=torch.channels_last)
        renamed = {"strides": "stride"}
        given = {renamed.get(name, name): value for name, value in attributes.items()}
        ways["torch"] = lambda: torch.nn.functional.conv2d(images, *rest, **given)
    return ways, flops


def named(dtype: str) -> np.dtype[Any]:
    """A dtype by its name; NumPy knows bfloat16 once opyard is imported."""
    import opyard as oy

    return oy.TensorSpec((), dtype).dtype


def matmul(rows: int, depth: int, columns: int, dtype: str = "float32") -> tuple[Ways, float]:
    """A matrix product."""
    arrays = drawn(rows, depth), drawn(depth, columns)
    if dtype != "float32":
        return kernels("matmul", *(array.astype(named(dtype)) for array in arrays))
    ways, flops = kernels("matmul", *arrays)
    if torch := torch_module():
        given = [torch.from_numpy(array) for array in arrays]
        ways["torch"] = lambda: torch.matmul(*given)
    return ways, flops


def bytes_(name: str, x: tuple[int, ...], weight: tuple[int, ...], **attributes: Any) -> tuple[Ways, float]:
    """A product or a convolution of uint8 with int8 that are constant, as MatMulInteger and ConvInteger are imported."""
    import opyard as oy
    from opyard.placement.matching import find_matches
    from opyard.placement.patterns import Pattern

    wide = "float64" if name == "conv" else "int32"
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, x).astype(np.uint8)
    weights = generator.integers(-128, 128, weight).astype(wide)
    zero = np.array(3, np.int32)

    def function(x: Any, zero: Any, weight: Any) -> Any:
        whole = oy.subtract(oy.cast(x, dtype="int32"), zero)
        if name == "matmul":
            return oy.matmul(whole, weight)
        return oy.cast(oy.conv(oy.cast(whole, dtype=wide), weight, **attributes), dtype="int32")

    kernel = next(k for k in oy.default_registry().patterns if k.name == f"onednn_int8_{name}_zero")
    arrays = (images, zero, weights)
    graph = oy.trace(function, *map(oy.TensorSpec.of, arrays))
    (match,) = find_matches(Pattern.of(kernel), graph)
    run = kernel.bind(match.work, oy.default_registry().device("cpu:0"), (None, None, weights))
    (base,) = (node.call for node in graph.nodes if node.op.name == name)
    return {"oneDNN": lambda: run(*arrays)}, base.cost.flops


def dense_gelu(rows: int, depth: int, columns: int) -> tuple[Ways, float]:
    """A dense layer with gelu: one kernel, or one after the other."""
    import opyard as oy
    from opyard.placement.matching import find_matches
    from opyard.placement.patterns import Pattern

    x, w, b = drawn(rows, depth), drawn(depth, columns), drawn(columns)
    linear, flops = kernels("linear", x, w, b)
    call = oy.gelu.op.call(oy.TensorSpec((rows, columns)))
    plain = next(k for k in oy.default_registry().kernels("gelu") if k.id == "cpu/numpy")
    gelu = started(plain, call, drawn(rows, columns))
    fused = next(k for k in oy.default_registry().patterns if k.name == "onednn_linear_gelu")
    graph = oy.trace(lambda x, w, b: oy.gelu(oy.linear(x, w, b)), *map(oy.TensorSpec.of, (x, w, b)))
    (match,) = find_matches(Pattern.of(fused), graph)
    ways = {"NumPy": lambda: (linear["NumPy"](), gelu()), "oneDNN": started(fused, match.work, x, w, b)}
    if "LLVM" in linear:
        compiled = next(k for k in oy.default_registry().patterns if k.name == "gemm_linear_gelu")
        ways["LLVM"] = started(compiled, match.work, x, w, b)
    if torch := torch_module():
        given = [torch.from_numpy(array) for array in (x, np.ascontiguousarray(w.T), b)]
        function = torch.nn.functional
        ways["torch"] = lambda: function.gelu(function.linear(*given))
    return ways, flops


def lstm_step(rows: int, width: int) -> tuple[Ways, float]:
    """A step of an LSTM as one kernel, beside its product alone."""
    import opyard as oy
    from opyard.placement.matching import find_matches
    from opyard.placement.patterns import Pattern

    hidden, weight, memory = drawn(rows, width), drawn(width, 4 * width) / 16, drawn(rows, width)
    product, flops = kernels("matmul", hidden, weight)

    def step(hidden: Any, weight: Any, entered: Any, memory: Any) -> Any:
        entry, forget, content, leave = oy.split(oy.matmul(hidden, weight) + entered, sections=4, axis=-1)
        memory = oy.sigmoid(forget) * memory + oy.sigmoid(entry) * oy.tanh(content)
        return oy.sigmoid(leave) * oy.tanh(memory), memory

    arrays = hidden, weight, drawn(rows, 4 * width), memory
    fused = next(k for k in oy.default_registry().patterns if k.name == "gemm_lstm_ifco")
    (match,) = find_matches(Pattern.of(fused), oy.trace(step, *map(oy.TensorSpec.of, arrays)))
    return {"oneDNN": product["oneDNN"], "LLVM": started(fused, match.work, *arrays)}, flops


def layers(count: int, rows: int, depth: int, columns: int) -> tuple[Ways, float]:
    """As many dense layers, each with weights of its own, which are not in the caches when their turn comes."""
    found = [
        kernels("linear", drawn(rows, depth), drawn(depth, columns), drawn(columns)) for _ in range(count)
    ]
    every = {way: [ways[way] for ways, _ in found] for way in found[0][0]}

    def one_after_another(way: str) -> Callable[[], object]:
        return lambda: [run() for run in every[way]]

    return {way: one_after_another(way) for way in every}, sum(flops for _, flops in found)


def conv_relu6(x: tuple[int, ...], weight: tuple[int, ...], **attributes: Any) -> tuple[Ways, float]:
    """A convolution by itself, with relu6 as it is, and with the exact relu6 for what may be infinite or NaN."""
    import opyard as oy
    from opyard.placement.matching import find_matches
    from opyard.placement.patterns import Pattern
    from opyard_cpu.onednn import chains, convolution, layouts

    arrays = (drawn(*x), drawn(*weight), drawn(weight[0]))
    every, flops = kernels("conv", *arrays, **attributes)
    fused = next(k for k in oy.default_registry().patterns if k.name == "onednn_conv_relu6")
    graph = oy.trace(lambda *given: oy.relu6(oy.conv(*given, **attributes)), *map(oy.TensorSpec.of, arrays))
    (match,) = find_matches(Pattern.of(fused), graph)
    exact = convolution._compute(chains.chain_of(match.work))
    images, packed = np.ascontiguousarray(np.moveaxis(arrays[0], 1, -1)), layouts.Packed(arrays[1])
    ways = {"oneDNN": every["oneDNN"], "relu6": started(fused, match.work, *arrays)}
    return {**ways, "exact relu6": lambda: exact(images, packed, arrays[2])}, flops


def torch_module() -> Any:
    """torch, or None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(int(os.environ["OPYARD_NUM_THREADS"]))
    torch.set_grad_enabled(False)
    return torch


WORKS: dict[str, Callable[[], tuple[Ways, float]]] = {
    "conv 3x3, 64 to 64, 56x56": lambda: conv((1, 64, 56, 56), (64, 64, 3, 3), padding=1),
    "the same, batch 16": lambda: conv((16, 64, 56, 56), (64, 64, 3, 3), padding=1),
    "conv 3x3, 64 to 64, 56x56, bfloat16": lambda: conv(
        (1, 64, 56, 56), (64, 64, 3, 3), "bfloat16", padding=1
    ),
    "conv 3x3, 128 to 128, 28x28": lambda: conv((1, 128, 28, 28), (128, 128, 3, 3), padding=1),
    "conv 3x3, 256 to 256, 14x14": lambda: conv((1, 256, 14, 14), (256, 256, 3, 3), padding=1),
    "conv 3x3, 512 to 512, 7x7": lambda: conv((1, 512, 7, 7), (512, 512, 3, 3), padding=1),
    "conv 3x3, 512 to 512, 7x7, batch 16": lambda: conv((16, 512, 7, 7), (512, 512, 3, 3), padding=1),
    "conv 3x3, 64 to 64, 56x56, bytes": lambda: bytes_("conv", (1, 64, 56, 56), (64, 64, 3, 3), padding=1),
    "conv 1x1, 256 to 64, 56x56": lambda: conv((1, 256, 56, 56), (64, 256, 1, 1)),
    "conv 3x3, depthwise, 144, 56x56": lambda: conv((1, 144, 56, 56), (144, 1, 3, 3), padding=1, groups=144),
    "conv 7x7 by 2, 3 to 64, 224x224": lambda: conv((1, 3, 224, 224), (64, 3, 7, 7), padding=3, strides=2),
    "relu6: conv 1x1, 16 to 96, 112x112": lambda: conv_relu6((1, 16, 112, 112), (96, 16, 1, 1)),
    "relu6: conv 3x3, depthwise, 144, 56x56": lambda: conv_relu6(
        (1, 144, 56, 56), (144, 1, 3, 3), padding=1, groups=144
    ),
    "matmul 256": lambda: matmul(256, 256, 256),
    "matmul 512": lambda: matmul(512, 512, 512),
    "matmul 1024": lambda: matmul(1024, 1024, 1024),
    "matmul 1024, bfloat16": lambda: matmul(1024, 1024, 1024, "bfloat16"),
    "matmul 1024, bytes": lambda: bytes_("matmul", (1024, 1024), (1024, 1024)),
    "matmul 64x1024x1024": lambda: matmul(64, 1024, 1024),
    "matmul 64x1024x1024, bfloat16": lambda: matmul(64, 1024, 1024, "bfloat16"),
    "matmul 64x1024x1024, bytes": lambda: bytes_("matmul", (64, 1024), (1024, 1024)),
    "matmul 2048": lambda: matmul(2048, 2048, 2048),
    "matmul 1x1024x1024": lambda: matmul(1, 1024, 1024),
    "matmul 16x1024x1024": lambda: matmul(16, 1024, 1024),
    "12 layers, 128x768x768": lambda: layers(12, 128, 768, 768),
    "12 layers, 128x768x3072": lambda: layers(12, 128, 768, 3072),
    "12 layers, 197x1536x384": lambda: layers(12, 197, 1536, 384),
    "lstm step, 1 row of 256": lambda: lstm_step(1, 256),
    "lstm step, 16 rows of 256": lambda: lstm_step(16, 256),
    "lstm step, 16 rows of 512": lambda: lstm_step(16, 512),
    "linear and gelu 128x768x3072": lambda: dense_gelu(128, 768, 3072),
}


def measure(name: str, rounds: int, clock: Callable[[], float]) -> Row:
    """All ways in turns; each sample lasts a few milliseconds."""
    ways, flops = WORKS[name]()
    repeats, samples = {}, {way: list[float]() for way in ways}
    for way, run in ways.items():
        run()
        begin = clock()
        run()
        repeats[way] = max(1, int(5e-3 / max(clock() - begin, 1e-6)))
    for _ in range(rounds):
        for way, run in ways.items():
            begin = clock()
            for _ in range(repeats[way]):
                run()
            samples[way].append((clock() - begin) / repeats[way])
    quartile = {way: sorted(found)[len(found) // 4] for way, found in samples.items()}
    return Row(name, flops, quartile)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--only", default="", help="names that contain this")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ["OPYARD_NUM_THREADS"] = str(options.threads)
    os.environ["OPYARD_WINOGRAD"] = "1"
    from opyard_cpu.onednn.library import missing

    if reason := missing():
        raise SystemExit(reason)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    rows = [measure(name, options.rounds, clock) for name in WORKS if options.only in name]
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    ways = list(dict.fromkeys(way for row in rows for way in row.seconds))
    print(f"| work | {' | '.join(ways)} | GFLOP/s |\n|---|{'---:|' * (len(ways) + 1)}")
    for row in rows:
        cells = [f"{row.seconds[way] * 1e6:,.0f} us" if way in row.seconds else "" for way in ways]
        best = min(row.seconds[way] for way in ("oneDNN", "LLVM") if way in row.seconds)
        print(f"| {row.name} | {' | '.join(cells)} | {row.flops / best / 1e9:.0f} |")


if __name__ == "__main__":
    main()

"""Bandwidth, products and overheads."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

import opyard as oy

from .. import graphs
from .checks import Bench, Check, NotRun

COPY, PRODUCT = "copy", "product"
"""Names of the ceilings: bytes per second of a copy, read and written; seconds of a bare product."""

HALF: Any = ml_dtypes.bfloat16
"""The dtype of products."""

ROW = 4096
"""Elements of a row in the checks of kernels that work by rows."""


def _filled(bench: Bench, *shape: int, dtype: Any = np.float32) -> Any:
    """An array of the GPU with small numbers, none of them special."""
    numbers = np.random.default_rng(0).standard_normal(4096).astype(dtype)
    count = int(np.prod(shape))
    block = bench.device.upload(numbers)
    return bench.cupy.tile(block, -(-count // 4096))[:count].reshape(shape)


def copy_bandwidth(bench: Bench) -> float:
    """GB/s of a copy within the GPU's memory, read and write counted."""
    source = _filled(bench, bench.sizes.elements)
    target = bench.cupy.empty_like(source)
    rate: float = 2 * source.nbytes / bench.seconds(lambda: bench.cupy.copyto(target, source))
    bench.ceilings[COPY] = rate
    return rate / 1e9


def share(function: Callable[..., Any], *, weights: int = 0, arrays: int = 1) -> Callable[[Bench], float]:
    """Measures how much of the copy bandwidth a function of arrays ``[rows, ROW]`` and weights ``[ROW]`` reaches, in percent."""

    def measure(bench: Bench) -> float:
        ceiling = _ceiling(bench, COPY, "the copy bandwidth")
        row = min(ROW, bench.sizes.elements)
        inputs = [_filled(bench, bench.sizes.elements // row, row) for _ in range(arrays)]
        inputs += [_filled(bench, row) for _ in range(weights)]
        call = _alone(function, bench, *inputs)
        moved: int = sum(array.nbytes for array in inputs) + call(*inputs).nbytes
        return 100 * moved / bench.seconds(lambda: call(*inputs)) / ceiling

    return measure


def _ceiling(bench: Bench, name: str, what: str) -> float:
    if name not in bench.ceilings:
        raise NotRun(f"{what} could not be measured")
    return bench.ceilings[name]


def _alone(function: Callable[..., Any], bench: Bench, *arrays: Any) -> Callable[..., Any]:
    """The function, placed on the GPU as a whole, without what eager calls look up."""
    graph = oy.trace(function, *map(oy.TensorSpec.of, arrays))
    (output,) = graph.outputs
    return oy.Session(graph, devices=[bench.device.name]).callable(output, tuple(graph.inputs))


def fused(x: Any, y: Any) -> Any:
    """Five elementwise ops: ``silu(x) * y + x / 2``."""
    return oy.add(oy.multiply(oy.silu(x), y), oy.multiply(x, 0.5))


def layer_norm(x: Any, scale: Any, bias: Any) -> Any:
    """Layer normalization of rows."""
    return oy.layer_normalization(x, scale, bias)


def _matrices(bench: Bench) -> tuple[Any, Any, Any]:
    size = bench.sizes.matrix
    made = (_filled(bench, *shape, dtype=HALF) for shape in ((size, size), (size, size), (size,)))
    return tuple(made)


def product_rate(bench: Bench) -> float:
    """TFLOP/s of a square product in bfloat16."""
    x, weight, _ = _matrices(bench)
    call = _alone(lambda x, w: oy.matmul(x, w), bench, x, weight)
    bench.ceilings[PRODUCT] = bench.seconds(lambda: call(x, weight))
    return 2 * bench.sizes.matrix**3 / bench.ceilings[PRODUCT] / 1e12


def against_torch(bench: Bench) -> float:
    """The time of torch.matmul divided by ours, in percent."""
    ours = _ceiling(bench, PRODUCT, "the product")
    torch = _module("torch")
    if not torch.cuda.is_available():
        raise NotRun("torch is installed without CUDA")
    size = bench.sizes.matrix
    x, weight = (torch.randn(size, size, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    torch.matmul(x, weight)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    samples = []
    for _ in range(7):
        begin.record()
        for _ in range(10):
            torch.matmul(x, weight)
        end.record()
        end.synchronize()
        samples.append(begin.elapsed_time(end) / 1e4)  # milliseconds of ten
    return float(100 * np.median(samples) / ours)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise NotRun(f"{name} is not installed; pip install {name}") from None


def epilogue(bench: Bench) -> float:
    """The time of gelu(x @ w + b) divided by that of x @ w."""
    bare = _ceiling(bench, PRODUCT, "the product")
    x, weight, bias = _matrices(bench)
    call = _alone(
        lambda x, w, b: oy.gelu(oy.add(oy.matmul(x, w), b), approximate="tanh"), bench, x, weight, bias
    )
    return bench.seconds(lambda: call(x, weight, bias)) / bare


def prepared_launch(bench: Bench) -> float:
    """Microseconds of the host for one launch of a kernel that is bound."""
    x = _filled(bench, 1024)
    call = oy.relu.op.call(oy.TensorSpec.of(x))
    kernels = oy.default_registry().kernels("relu")
    kernel = next(
        k for k in kernels if k.backend == bench.device.backend and not k.refusal(call, bench.device)
    )
    run = kernel.bind(call, bench.device)
    return 1e6 * bench.host_seconds(lambda: run(x))


def replay(bench: Bench) -> float:
    """Microseconds for each node of a plan of elementwise ops that is replayed as a CUDA graph."""
    x = _filled(bench, 1024)

    def chain(x: Any) -> Any:
        y = x
        for _ in range(bench.sizes.nodes):
            y = oy.add(y, x)
        return y

    # by name, so that the ops are not fused
    kernel = next(k for k in oy.default_registry().kernels("add") if k.backend == bench.device.backend)
    with oy.using(pin={"add": kernel.id}):
        recording = graphs.record(chain, x)
    return 1e6 * bench.seconds(recording.launch) / bench.sizes.nodes


def pool(bench: Bench) -> float:
    """Microseconds to take a mebibyte from the pool and to give it back."""
    return 1e6 * bench.host_seconds(lambda: bench.cupy.cuda.alloc(1 << 20))


class _Exporter:
    """An array of another library, which hands over its memory."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def handed_over(bench: Bench) -> float:
    """Bytes copied where an array of another library is taken over."""
    x = _filled(bench, 4096)
    taken: Any = bench.device.from_dlpack(_Exporter(x))  # type: ignore[attr-defined]
    return 0.0 if bench.cupy.may_share_memory(taken, x) else float(x.nbytes)


def upload(bench: Bench) -> float:
    """GB/s from the host to the GPU."""
    values = np.ones(bench.sizes.elements // 4, np.float32)
    return values.nbytes / bench.seconds(lambda: bench.device.upload(values)) / 1e9


def download(bench: Bench) -> float:
    """GB/s from the GPU to the host."""
    values = _filled(bench, bench.sizes.elements // 4)
    return float(values.nbytes / bench.seconds(lambda: bench.device.download(values)) / 1e9)


SPEED = (
    Check("copy bandwidth", "GB/s", copy_bandwidth),
    Check("upload", "GB/s", upload),
    Check("download", "GB/s", download),
    Check("fused elementwise", "% of copy", share(fused, arrays=2), 90),
    Check("softmax", "% of copy", share(lambda x: oy.softmax(x)), 90),
    Check("layer normalization", "% of copy", share(layer_norm, weights=2), 90),
    Check("rms normalization", "% of copy", share(lambda x, s: oy.rms_normalization(x, s), weights=1), 90),
    Check("bfloat16 product", "TFLOP/s", product_rate),
    Check("bfloat16 product, torch.matmul", "% of its speed", against_torch, 98),
    Check("product, bias and gelu", "x the bare product", epilogue, 1.03, at_least=False),
    Check("prepared launch", "us", prepared_launch, 3, at_least=False),
    Check("replay as a CUDA graph", "us per node", replay, 1.5, at_least=False),
    Check("memory from the pool and back", "us", pool, 1, at_least=False),
    Check("taking over an array by DLPack", "bytes copied", handed_over, 0, at_least=False),
)

"""Regions as one generated CUDA kernel: run by the emulation, thread by thread, and compiled by NVRTC."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.errors import DeviceUnavailable, KernelError
from opyard.ops import STANDARD
from opyard.passes import simplify_parts
from opyard.placement.regions import find_regions
from opyard.region import Region
from opyard.registry import Registry
from opyard.testing import violation
from opyard_cuda import fusion, nvrtc, plugin, sources
from opyard_cuda.emulation import SCHEDULES, Library, Schedule, compiler

REGISTRY = Registry()
REGISTRY.ops_from(STANDARD)
plugin.opyard_register(REGISTRY)
COMPILERS = {kernel.name: kernel for kernel in REGISTRY.region_compilers}

X, ROW, COLUMN = oy.TensorSpec((5, 70)), oy.TensorSpec((70,)), oy.TensorSpec((5, 1))
HALF, WHOLE = X.with_dtype("float16"), X.with_dtype("int32")


def softmax(x: Any) -> Any:
    shifted = oy.exp(x - oy.max(x, axis=-1, keepdims=True))
    return shifted / oy.sum(shifted, axis=-1, keepdims=True)


def normalized(x: Any, scale: Any, bias: Any) -> Any:
    centred = x - oy.mean(x, axis=-1, keepdims=True)
    variance = oy.mean(centred * centred, axis=-1, keepdims=True)
    return centred / oy.sqrt(variance + 1e-5) * scale + bias


ELEMENTWISE: dict[str, tuple[Callable[..., Any], tuple[oy.TensorSpec, ...]]] = {
    "chain": (lambda x: oy.sigmoid(oy.abs(x) * 2.0 - 1.0) + x, (X,)),
    "tree": (lambda x, r, c: oy.tanh(x + r) * c - oy.where(x > r, x, c), (X, ROW, COLUMN)),
    "two results": (lambda x: (lambda y: (y, oy.sqrt(y)))(oy.square(x) + 1.0), (X,)),
    "half": (lambda x: oy.relu(x * 3.0) - 0.1, (HALF,)),
    "integers": (lambda x: (x // 3) % 5 + oy.abs(x), (WHOLE,)),
    "to bool": (lambda x: oy.logical_and(x > 0.1, oy.isfinite(x)), (X,)),
    "casts": (lambda x: oy.cast(oy.cast(x, dtype="float16"), dtype="int8") + 1, (X,)),
}
ROWS: dict[str, tuple[Callable[..., Any], tuple[oy.TensorSpec, ...]]] = {
    "softmax": (softmax, (X,)),
    "norm": (normalized, (X, ROW, ROW)),
    "loss": (lambda x, y: oy.mean((x - y) ** 2), (X, X)),
    "start": (lambda x, r: x / oy.max(oy.abs(x), axis=1, keepdims=True) + r, (X, ROW)),
    "short": (lambda x: oy.log(oy.sum(oy.exp(x), axis=-1)), (X,)),
    "half": (lambda x: x - oy.mean(x, axis=-1, keepdims=True), (HALF,)),
    "integers": (lambda x: oy.min(x * 2, axis=-1), (WHOLE,)),
}
MATRIX, OTHER = oy.TensorSpec((20, 35)), oy.TensorSpec((35, 37))
PRODUCTS: dict[str, tuple[Callable[..., Any], tuple[oy.TensorSpec, ...]]] = {
    "alone": (lambda a, b: oy.matmul(a, b), (MATRIX, OTHER)),
    "epilogue": (
        lambda a, b, c: (lambda y: (oy.relu(y), y * 0.5))(oy.matmul(a, b) + c),
        (MATRIX, OTHER, oy.TensorSpec((37,))),
    ),
    "integers": (
        lambda a, b: oy.matmul(a, b) // 3,
        (oy.TensorSpec((2, 3, 4), "int32"), oy.TensorSpec((4, 5), "int32")),
    ),
    "batches": (
        lambda a, b, c: oy.matmul(a, b) - c,
        (oy.TensorSpec((2, 1, 3, 4)), oy.TensorSpec((3, 4, 5)), oy.TensorSpec((3, 1, 1))),
    ),
    "half": (
        lambda a, b: oy.tanh(oy.matmul(a, b)),
        (MATRIX.with_dtype("float16"), OTHER.with_dtype("float16")),
    ),
}
FUNCTIONS = {"fused": ELEMENTWISE, "fused_rows": ROWS, "fused_product": PRODUCTS}
CASES = (
    [("fused_product", name) for name in PRODUCTS]
    + [("fused", name) for name in ELEMENTWISE]
    + [("fused_rows", name) for name in ROWS]
)


def region_of(kind: str, name: str, device: Any = None) -> Region:
    """The region of a whole function."""
    function, specs = FUNCTIONS[kind][name]
    graph = simplify_parts(oy.trace(function, *specs))
    matches, reasons = find_regions(COMPILERS[kind], graph, device)
    assert not reasons
    largest = max(matches, key=lambda match: len(match.nodes))
    assert len(largest.nodes) == len(graph.nodes)
    return largest.work


def source_of(kind: str, region: Region) -> sources.CudaSource:
    make: dict[str, Any] = {
        "fused": fusion.elementwise_source,
        "fused_rows": fusion.row_source,
        "fused_product": fusion.product_source,
    }
    return make[kind](region)[0]


def arrays_of(region: Region) -> list[np.ndarray[Any, Any]]:
    generator = np.random.default_rng(0)
    return [
        (generator.standard_normal(spec.shape) * 3).astype(spec.dtype)
        for spec in region.inputs
        if spec is not None
    ]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """The emulation with all programs of CASES, compiled together."""
    try:
        compiler()
    except DeviceUnavailable as error:
        pytest.skip(str(error))
    made = Library(tmp_path_factory.mktemp("fused"))
    for kind, name in CASES:
        source = source_of(kind, region_of(kind, name))
        made.raw_module(source.text, (), source.entries)
    return made


@pytest.fixture
def emulated(library: Library, numpy_for_cupy: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(np, "RawModule", library.raw_module, raising=False)
    monkeypatch.setattr("opyard_cuda.array_module.address", lambda array: array.ctypes.data // 16 * 16)
    sources.module.cache_clear()
    yield numpy_for_cupy
    sources.module.cache_clear()


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_region_is_computed_by_one_kernel(kind: str, name: str, emulated: Any, library: Library) -> None:
    region = region_of(kind, name, emulated)
    assert COMPILERS[kind].refusal(region, emulated) is None
    arrays = arrays_of(region)
    run = COMPILERS[kind].bind(region, emulated)
    for schedule in SCHEDULES[:1] if kind == "fused" else SCHEDULES:
        library.schedule = Schedule(schedule)
        made = run(*arrays)
        assert violation(region, arrays, made if region.is_tuple else [made]) is None, schedule


@pytest.mark.parametrize(("kind", "name"), [("fused", "chain"), ("fused_rows", "start")])
def test_an_output_may_be_given_in_any_layout(kind: str, name: str, emulated: Any) -> None:
    region = region_of(kind, name, emulated)
    arrays = arrays_of(region)
    run = COMPILERS[kind].bind(region, emulated)
    for out in (np.empty((5, 70), np.float32), np.empty((70, 5), np.float32).T):
        assert run(*map(np.asfortranarray, arrays), out=out) is out
        assert violation(region, arrays, [out]) is None


def test_a_missing_barrier_is_found(emulated: Any, library: Library) -> None:
    source, plan, group = fusion.row_source(region_of("fused_rows", "softmax"))
    broken = source.text.replace("#define BARRIER __syncthreads()", "#define BARRIER")
    assert broken != source.text
    kernel = library.raw_module(broken, (), source.entries).get_function("rows")
    x, table = np.zeros((5, 70), np.float32), np.array([5, 70], np.int32)
    sizes = np.int32(plan.rows), np.int32(plan.width), np.int32(1)
    with pytest.raises(KernelError):
        kernel((5,), (group,), (x, np.empty_like(x), *sizes, table))


@pytest.mark.parametrize(
    ("kind", "function", "specs", "reason"),
    [
        ("fused", lambda x: oy.sum(x, axis=0), (X,), "sum is not elementwise"),
        ("fused", lambda x: oy.exp(x), (oy.TensorSpec((0, 3)),), "there is nothing to compute"),
        ("fused", lambda x: oy.exp(x), (X.with_dtype("complex64"),), "takes bool, int8"),
        ("fused_rows", lambda x: oy.sum(x, axis=0), (X,), "it reduces the axes (0,); only the last ones"),
        ("fused_rows", lambda x: oy.sum(x), (X.with_dtype("complex64"),), "takes bool, int8"),
        ("fused_product", lambda a: oy.matmul(a, a), (oy.TensorSpec((3,)),), "takes matrices, not vectors"),
        (
            "fused_product",
            lambda a: oy.matmul(a, a),
            (oy.TensorSpec((0, 0)),),
            "takes matrices of numbers that are not empty",
        ),
        ("fused_product", lambda a: oy.sum(a), (X,), "sum is not elementwise"),
        (
            "fused_product",
            lambda a: oy.matmul(a, a),
            (oy.TensorSpec((3, 3), "complex64"),),
            "takes bool, int8",
        ),
    ],
)
def test_calls_that_are_not_claimed(kind: str, function: Any, specs: Any, reason: str) -> None:
    node = oy.trace(function, *specs).nodes[-1]
    refusal = COMPILERS[kind].claim_refusal(node.call, None)  # type: ignore[arg-type]
    assert refusal is not None and refusal.startswith(reason)


def test_few_rows_leave_most_of_a_gpu_idle(numpy_for_cupy: Any) -> None:
    def seconds(rows: int) -> float:
        graph = oy.trace(lambda x: oy.sum(x * 2.0, axis=-1), oy.TensorSpec((rows, (1 << 24) // rows)))
        region = Region.of(graph.nodes, graph.inputs.values(), graph.outputs.values())
        return fusion.cost_rows(region, numpy_for_cupy)

    assert seconds(1) > 100 * seconds(1 << 12)


@pytest.fixture(scope="session")
def headers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        nvrtc.library()
    except DeviceUnavailable as error:
        pytest.skip(str(error))
    return tmp_path_factory.mktemp("headers")


@pytest.mark.parametrize(
    ("kind", "name"), [("fused", "tree"), ("fused_rows", "norm"), ("fused_product", "epilogue")]
)
def test_programs_compile_and_spill_nothing(kind: str, name: str, headers: Path) -> None:
    source = source_of(kind, region_of(kind, name))
    usage = nvrtc.compile_source(source, "sm_90", headers).usage[source.entries[0]]
    assert (usage.spilled, usage.stack) == (0, 0)
    assert usage.registers <= 64  # a multiprocessor then holds 1,024 threads

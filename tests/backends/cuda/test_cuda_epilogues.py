"""Products with epilogues, over a stand-in for cuBLASLt in C++ that computes on the host what the documentation says."""

from __future__ import annotations

import ctypes
import gc
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes  # noqa: F401  NumPy knows bfloat16 by it
import numpy as np
import pytest

import opyard as oy
from opyard.errors import KernelError
from opyard.operation import Op
from opyard.placement.matching import find_matches
from opyard.placement.patterns import Pattern
from opyard.registry import Registry
from opyard.spec import TensorSpec
from opyard.testing import violation
from opyard_cuda import backend, cublaslt
from opyard_cuda.cublaslt import Form, Product
from opyard_cuda.kernels import epilogues

COMPILER = shutil.which("g++")


class Array(np.ndarray[Any, Any]):
    """A NumPy array with the attribute ``data`` of CuPy's, which knows its address."""

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)


def array(values: Any) -> Any:
    return np.asarray(values).view(Array)


def _contiguous(values: Any) -> Any:
    return array(np.ascontiguousarray(values))


class Device:
    """Stands for a GPU."""

    name = "cuda:0"
    number = 0

    def __init__(self) -> None:
        self.handle = nullcontext()
        self.workspaces: list[int] = []
        self.cupy = SimpleNamespace(
            cuda=SimpleNamespace(alloc=self._alloc, get_current_stream=lambda: SimpleNamespace(ptr=0x57))
        )

    def _alloc(self, size: int) -> Any:
        self.workspaces.append(size)
        return SimpleNamespace(ptr=0xC0FFEE)

    def empty(self, spec: TensorSpec) -> Any:
        # 256 bytes beside what NumPy gives, so that the address can be as CuPy's are
        raw = np.empty(spec.nbytes + 256, np.uint8)
        start = -raw.ctypes.data % 256
        return array(raw[start : start + spec.nbytes].view(spec.dtype).reshape(spec.shape))

    def upload(self, values: Any) -> Any:
        found = self.empty(TensorSpec.of(values))
        found[...] = values
        return found


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if COMPILER is None:
        pytest.skip("there is no g++ to build the stand-in for cuBLASLt")
    file = tmp_path_factory.mktemp("cublaslt") / "stand_in.so"
    source = Path(__file__).parent / "cublaslt_stand_in.cpp"
    subprocess.run([COMPILER, "-O1", "-shared", "-fPIC", "-o", str(file), str(source)], check=True)
    library = ctypes.CDLL(str(file))
    for name in ("stream_seen", "workspace_seen", "alignment_seen"):
        getattr(library, name).restype = ctypes.c_uint64
    return library


@pytest.fixture
def library(stand_in: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    found = cublaslt.typed(stand_in)
    monkeypatch.setattr(cublaslt, "library", lambda: found)
    monkeypatch.setattr(epilogues, "xp", lambda: SimpleNamespace(ascontiguousarray=_contiguous))
    cublaslt.handle.cache_clear()
    yield stand_in
    epilogues._product.cache_clear()
    assert stand_in.alive() == 0  # each description and layout was given back
    cublaslt.handle.cache_clear()


def _regions(registry: Registry, name: str, *specs: TensorSpec) -> Any:
    """The work of a pattern kernel where it is found in its own pattern."""
    (kernel,) = (k for k in registry.patterns if k.id == f"cuda/cublaslt_{name}")
    assert kernel.pattern is not None
    graph = oy.trace(kernel.pattern, *specs)
    (match,) = find_matches(Pattern.of(kernel), graph)
    return kernel, match.work


def _values(shape: tuple[int, ...], dtype: Any, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["bias", "relu", "gelu", "bias_relu", "bias_gelu"])
@pytest.mark.parametrize("shape", [(5, 7, 3), (2, 3, 6, 12), (4, 1)])
def test_patterns_agree_with_the_reference(
    name: str, dtype: str, shape: tuple[int, ...], library: Any, registry: Registry
) -> None:
    *rows, k, n = shape
    specs = [TensorSpec((*rows, k), dtype), TensorSpec((k, n), dtype)]
    specs += [TensorSpec((n,), dtype)] if "bias" in name else []
    kernel, work = _regions(registry, name, *specs)
    device: Any = Device()
    assert epilogues.accepts(work, device) is None
    arrays = [device.upload(_values(spec.shape, spec.dtype, i)) for i, spec in enumerate(specs)]
    run = epilogues.prepare(work, device)
    found = run(*arrays)
    assert violation(work, [np.asarray(a) for a in arrays], [np.asarray(found)]) is None
    out = device.empty(work.outputs[0])
    assert run(*arrays, out=out) is out
    np.testing.assert_array_equal(np.asarray(out), np.asarray(found))
    assert library.stream_seen() == 0x57
    assert library.alignment_seen() == 256
    # the stand-in asks for a workspace for more than eight columns
    assert device.workspaces == ([cublaslt.WORKSPACE // 2] * 2 if n > 8 else [])
    assert library.workspace_seen() == (0xC0FFEE if n > 8 else 0)
    assert kernel.out


@pytest.mark.parametrize("op", ["matmul", "linear"])
def test_single_ops_agree_with_the_reference(
    op: str, library: Any, registry: Registry, ops: dict[str, Op]
) -> None:
    (kernel,) = (k for k in registry.kernels(op) if k.name == "cublaslt")
    device: Any = Device()
    device.capabilities = oy.Capabilities(features=frozenset({"cublaslt"}))
    declared, ran = ops[op], 0
    for case in declared.cases():
        call = declared.call(*(draw.spec if draw else None for draw in case.inputs), **case.attributes)
        if kernel.refusal(call, device) is None:
            arrays = [None if a is None else device.upload(a) for a in case.arrays()]
            found = kernel.bind(call, device)(*arrays)
            assert violation(call, case.arrays(), [np.asarray(found)]) is None, case.id
            ran += 1
    assert ran >= 3


def test_transposed_operands_are_read_where_they_are(
    library: Any, ops: dict[str, Op], monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[tuple[int, ...]] = []
    device: Any = Device()
    x, weight = _values((7, 5), np.float32, 0), _values((3, 7), np.float32, 1)
    left, right = device.upload(x).T, device.upload(weight).T
    call = ops["matmul"].call(TensorSpec.of(left), TensorSpec.of(right))
    run = epilogues.prepare(call, device)

    def copying(given: Any) -> Any:
        if not given.flags.c_contiguous:
            copies.append(given.shape)
        return _contiguous(given)

    monkeypatch.setattr(epilogues, "xp", lambda: SimpleNamespace(ascontiguousarray=copying))
    np.testing.assert_allclose(np.asarray(run(left, right)), x.T @ weight.T, rtol=1e-5)
    assert copies == []
    every_other = device.upload(np.repeat(weight.T, 2, axis=1))[:, ::2]
    np.testing.assert_allclose(np.asarray(run(left, every_other)), x.T @ weight.T, rtol=1e-5)
    assert copies == [(7, 3)]


def test_a_result_with_gaps_is_written_by_a_copy(library: Any, ops: dict[str, Op]) -> None:
    device: Any = Device()
    x, weight = device.upload(_values((3, 4), np.float32, 0)), device.upload(_values((4, 2), np.float32, 1))
    run = epilogues.prepare(ops["matmul"].call(TensorSpec.of(x), TensorSpec.of(weight)), device)
    out = array(np.zeros((3, 2, 2), np.float32))[..., 0]
    assert run(x, weight, out=out) is out
    np.testing.assert_array_equal(np.asarray(out), np.asarray(run(x, weight)))


def test_an_algorithm_is_chosen_for_the_alignment_of_the_arrays(library: Any, ops: dict[str, Op]) -> None:
    device: Any = Device()
    call = ops["matmul"].call(TensorSpec((1, 4)), TensorSpec((4, 2)))
    run = epilogues.prepare(call, device)
    rows, weight = (
        device.upload(_values((3, 4), np.float32, 0)),
        device.upload(_values((4, 2), np.float32, 1)),
    )
    for row, alignment in ((0, 256), (1, 16), (2, 32)):
        np.testing.assert_allclose(
            np.asarray(run(rows[row : row + 1], weight)), np.asarray(rows[row : row + 1]) @ weight, rtol=1e-5
        )
        assert library.alignment_seen() == alignment
    assert epilogues._product.cache_info().misses == 3


@pytest.mark.parametrize(
    ("shapes", "dtypes", "sentence"),
    [
        (((2, 3), (5, 3, 4), (4,)), "fff", "takes a weight of rank 2, not 3"),
        (((0, 3), (3, 4), (4,)), "fff", "takes no empty arrays"),
        (((2, 3), (3, 4), (4,)), "ffe", "takes arrays of one dtype, not float16, float32"),
        (((2, 3), (3, 4), (2, 4)), "fff", r"adds a bias of shape \[4\], not"),
        (((2, 3), (3, 4), (1,)), "fff", r"adds a bias of shape \[4\], not"),
        (((2, 3), (3, 4), (2, 1)), "fff", r"adds a bias of shape \[4\], not"),
    ],
)
def test_what_it_does_not_take(
    shapes: tuple[tuple[int, ...], ...], dtypes: str, sentence: str, registry: Registry
) -> None:
    specs = [TensorSpec(shape, np.dtype(c).name) for shape, c in zip(shapes, dtypes, strict=True)]
    _, work = _regions(registry, "bias", *specs)
    assert re.match(sentence, epilogues.accepts(work, None) or "")


def test_gelu_by_the_error_function_is_no_epilogue(registry: Registry) -> None:
    (kernel,) = (k for k in registry.patterns if k.id == "cuda/cublaslt_bias_gelu")
    specs = TensorSpec((2, 3)), TensorSpec((3, 4)), TensorSpec((4,))

    def matches(function: Callable[..., Any]) -> int:
        return len(list(find_matches(Pattern.of(kernel), oy.trace(function, *specs))))

    assert matches(lambda x, w, b: oy.gelu(x @ w + b, approximate="tanh")) == 1
    assert matches(lambda x, w, b: oy.gelu(b + x @ w, approximate="tanh")) == 1
    assert matches(lambda x, w, b: oy.gelu(x @ w + b)) == 0


def test_a_status_of_the_library_is_an_error(library: Any) -> None:
    with pytest.raises(
        KernelError,
        match="cublasLtMatrixLayoutCreate gave status 7; see cublasStatus_t in NVIDIA's documentation of cuBLAS",
    ):
        Product(Form(0, 4, 3, "float32", cublaslt.DEFAULT), 0)
    gc.collect()


def test_where_no_algorithm_is_offered_it_says_for_what(library: Any) -> None:
    with pytest.raises(
        KernelError, match=r"cuBLASLt has no algorithm for Form\(m=2, n=4, k=13, dtype='float32'"
    ):
        Product(Form(2, 4, 13, "float32", cublaslt.DEFAULT), 0)
    gc.collect()


def test_the_library_is_a_feature_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = ModuleType("cupy_backends.cuda.libs")
    libraries.cublas = object()  # type: ignore[attr-defined]
    for name in ("cupy_backends", "cupy_backends.cuda"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs", libraries)

    def missing() -> Any:
        raise OSError("no such library")

    monkeypatch.setattr(cublaslt, "library", missing)
    assert backend.library_features() == {"cublas"}
    monkeypatch.setattr(cublaslt, "library", lambda: object())
    assert backend.library_features() == {"cublas", "cublaslt"}


@pytest.mark.parametrize("pathfinder", ["fails", "is absent"])
def test_a_library_that_cannot_be_found(pathfinder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Any:
        raise RuntimeError(f'Failure finding "lib{name}.so.13"')

    if pathfinder == "fails":
        module = ModuleType("cuda.pathfinder")
        module.load_nvidia_dynamic_lib = fail  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
        monkeypatch.setitem(sys.modules, "cuda.pathfinder", module)
    else:
        monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    cublaslt.library.cache_clear()
    with pytest.raises(OSError, match="cublasLt"):
        cublaslt.library()

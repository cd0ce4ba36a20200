"""Kernels in Triton's language: which they refuse, what they are compiled to without a GPU, and how they are launched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes  # noqa: F401  NumPy knows bfloat16 by it
import numpy as np
import pytest

import opyard as oy
from opyard.errors import KernelError
from opyard.kernels import Kernel
from opyard.operation import Op
from opyard.placement.matching import find_matches
from opyard.placement.patterns import Pattern
from opyard.registry import Registry
from opyard.spec import TensorSpec
from opyard_cuda import array_module, triton_kernels
from opyard_cuda.triton_kernels import launch, products
from opyard_cuda.triton_kernels.launch import Program

from .triton_trials import Hopper

INSTALLED = pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton is not installed; pip install triton"
)

ARCHITECTURES = (80, 90, 100)


def _kernel(registry: Registry, op: str) -> Kernel:
    return next(kernel for kernel in registry.kernels(op) if kernel.name == "triton")


@pytest.fixture
def kernel_of(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that gives an op's kernel, where Triton is said to be installed."""
    monkeypatch.setattr(launch, "find_spec", lambda name: object())
    return lambda op: _kernel(registry, op)


def test_without_triton_each_kernel_says_what_to_install(
    registry: Registry, ops: dict[str, Op], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    names = [k.op for k in registry.all_kernels() if k.name == "triton"]
    assert names == ["layer_normalization", "linear", "log_softmax", "matmul", "rms_normalization", "softmax"]
    for name in names:
        x = TensorSpec((4, 4), "float16")
        call = ops[name].call(*(x, x) if name in ("matmul", "linear") else (x,))
        reason = _kernel(registry, name).refusal(call, Hopper())
        assert reason == "Triton is not installed; pip install 'opyard-cuda[triton]'"


def test_refusals_say_what_was_found(kernel_of: Any, ops: dict[str, Op]) -> None:
    def refusal(name: str, *specs: TensorSpec, device: Any = None, **attributes: Any) -> str | None:
        return kernel_of(name).refusal(ops[name].call(*specs, **attributes), device or Hopper())

    x, long, half = TensorSpec((2, 3)), TensorSpec((2, 16385)), TensorSpec((4, 8), "float16")
    assert refusal("softmax", x) is None
    assert (
        refusal("softmax", x, device=Hopper("sm_75"))
        == "its programs are compiled for compute capability 8.0 and later, not 7.5"
    )
    assert refusal("softmax", x, axis=0) == "works along the last axis, which is 1, not along axis 0"
    assert refusal("softmax", long) == "takes rows of up to 16384 elements, not 16385"
    assert refusal("rms_normalization", long) == "takes rows of up to 16384 elements, not 16385"
    assert refusal("layer_normalization", TensorSpec((2, 128, 128)), axis=1) is None
    assert refusal("layer_normalization", TensorSpec((2, 128, 129)), axis=1) == (
        "takes rows of up to 16384 elements, not 16512"
    )
    assert refusal("matmul", half, TensorSpec((8, 4), "float16")) is None
    assert "of float16, bfloat16, not float32" in (refusal("matmul", x, TensorSpec((3, 2))) or "")
    huge = TensorSpec((1 << 31, 8), "float16")
    assert refusal("matmul", huge, TensorSpec((8, 4), "float16")) == (
        "takes up to 2147483647 rows and columns, not 2147483648, 4, 8"
    )
    assert refusal("matmul", TensorSpec((0, 8), "float16"), TensorSpec((8, 4), "float16")) == (
        "takes no empty arrays"
    )


def test_tiles_are_small_where_large_ones_would_be_few(ops: dict[str, Op]) -> None:
    def plan(m: int, k: int, n: int) -> tuple[dict[str, Any], tuple[str, ...], tuple[int]]:
        specs = TensorSpec((m, k), "bfloat16"), TensorSpec((k, n), "bfloat16")
        made, grid = products.program(ops["matmul"].call(*specs))
        return dict(made.constants), made.multiples, grid

    constants, multiples, grid = plan(100, 48, 130)
    assert (constants["BLOCK_M"], constants["BLOCK_N"], grid) == (64, 64, (2 * 3,))
    assert multiples == ("k",)
    assert constants["bias"] is None
    constants, multiples, grid = plan(1280, 64, 1280)
    assert (constants["BLOCK_M"], constants["BLOCK_N"], grid) == (128, 128, (10 * 10,))
    assert multiples == ("m", "n", "k")


@pytest.mark.parametrize(
    ("pattern", "function", "activation"),
    [
        ("bias", oy.identity, ""),
        ("bias_relu", oy.relu, "relu"),
        ("bias_silu", oy.silu, "silu"),
        ("bias_gelu", oy.gelu, "gelu"),
        ("bias_gelu", lambda y: oy.gelu(y, approximate="tanh"), "gelu_tanh"),
    ],
)
def test_the_activation_is_that_of_the_graph(
    pattern: str, function: Any, activation: str, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda name: object())
    kernel = next(k for k in registry.patterns if k.name == f"triton_{pattern}")
    specs = [TensorSpec(shape, "float16") for shape in ((3, 8), (8, 4), (4,))]
    graph = oy.trace(lambda x, weight, bias: function(oy.matmul(x, weight) + bias), *specs)
    (match,) = find_matches(Pattern.of(kernel), graph)
    assert kernel.refusal(match.work, Hopper()) is None
    made, _ = products.program(match.work)
    assert dict(made.constants)["ACTIVATION"] == activation


def test_scratch_memory_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_source(source: Any, target: Any, options: Any) -> Any:
        assert (source, target) == (
            ("function", {"x": "*fp32"}, {}, {(0,): [["tt.divisibility", 16]]}),
            ("cuda", 90, 32),
        )
        return SimpleNamespace(metadata=SimpleNamespace(global_scratch_size=128))

    modules = {name: ModuleType(name) for name in ("triton", "triton.backends.compiler", "triton.compiler")}
    modules["triton"].compile = compile_source  # type: ignore[attr-defined]
    modules["triton.backends.compiler"].GPUTarget = lambda *parts: parts  # type: ignore[attr-defined]
    modules["triton.compiler"].ASTSource = lambda *parts: parts  # type: ignore[attr-defined]
    programs = ModuleType("programs")
    programs.greedy = "function"  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "opyard_cuda.triton_kernels.programs", programs)
    monkeypatch.setattr(triton_kernels, "programs", programs, raising=False)
    with pytest.raises(KernelError) as caught:
        launch.compiled(Program.of("greedy", {"x": "float32"}, {}, {}), 90)
    assert (
        str(caught.value)
        == "the program 'greedy' wants 128 bytes of scratch memory, which is not given to it."
    )


# With Triton -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton keeps what it compiles in a folder of the tests."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))


def _programs() -> Iterator[Program]:
    """Of each program what takes most registers, and each activation once."""
    sizes, row = {"columns": 16384}, {"BLOCK": 16384}
    yield Program.of(
        "softmax", {"x": "float32", "result": "float32"}, sizes, {"LOGARITHM": False, **row}, warps=16
    )
    yield Program.of(
        "softmax", {"x": "float16", "result": "float16"}, sizes, {"LOGARITHM": True, **row}, warps=16
    )
    for centred in (False, True):
        arrays = {
            "x": "bfloat16",
            "scale": "float32",
            "bias": "float32" if centred else None,
            "result": "bfloat16",
        }
        constants = {"CENTRED": centred, **row}
        yield Program.of("normalization", arrays, sizes, constants, floats=("epsilon",), warps=16)
    for number, activation in enumerate(("", "relu", "gelu", "gelu_tanh", "silu")):
        dtype, side = triton_kernels.HALVES[number % 2], 64 if number % 2 else 128
        arrays = {"x": dtype, "weight": dtype, "bias": dtype if activation else None, "result": dtype}
        tile = {"BLOCK_M": side, "BLOCK_N": side, "BLOCK_K": 64, "GROUP": products.GROUP}
        sizes = {"m": 1000, "n": 512, "k": 512}
        yield Program.of("product", arrays, sizes, {"ACTIVATION": activation, **tile}, warps=side // 16)


def _activation(program: Program) -> str:
    return str(dict(program.constants).get("ACTIVATION", ""))


@INSTALLED
@pytest.mark.parametrize(
    "program",
    [
        pytest.param(program, marks=[pytest.mark.sweep] if _activation(program) else [])
        for program in _programs()
    ],
    ids=lambda program: f"{program.entry}-{_activation(program)}",
)
def test_programs_compile_for_each_architecture(program: Program, cache: None) -> None:
    for architecture in ARCHITECTURES:
        found = launch.compiled(program, architecture)
        assert found.asm["cubin"].startswith(b"\x7fELF")
        # what a block of the smallest of these GPUs, which has compute capability 8.9, can have
        assert found.metadata.shared <= (101376 if architecture == 80 else 232448)
        threads = re.search(r"\.reqntid (\d+)", found.asm["ptx"])
        assert threads is not None
        assert int(threads[1]) == 32 * program.warps
        assert found.metadata.num_ctas == 1  # others would need clusters of blocks
        assert ("mma" in found.asm["ptx"]) is (program.entry == "product")
        assert _spilled(found.asm["cubin"]) == 0


def _spilled(machine_code: bytes) -> int:
    """Bytes of local memory of a thread, by the tool that comes with Triton."""
    import triton.backends.nvidia

    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(machine_code)
        file.flush()
        said = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    stack, local = re.findall(r"(?:STACK|LOCAL):(\d+)", said)
    return int(stack) + int(local)


@pytest.fixture
def launched(numpy_for_cupy: Any, monkeypatch: pytest.MonkeyPatch, cache: None) -> Iterator[list[Any]]:
    """Arguments of all launches, over a stand-in for CuPy's modules of machine code."""
    found: list[Any] = []

    class Module:
        def __init__(self, path: str) -> None:
            self.path = Path(path)

        def get_function(self, name: str) -> Any:
            def kernel(grid: Any, block: Any, arguments: Any, shared_mem: int) -> None:
                found.append((self.path, name, grid, block, arguments, shared_mem, vars(kernel)))

            return kernel

    monkeypatch.setattr(np, "RawModule", Module, raising=False)
    launch._function.cache_clear()
    yield found
    launch._function.cache_clear()


def _kinds(path: Path, name: str) -> list[str]:
    """The types of a kernel's parameters, as the assembly that the machine code was made from declares them."""
    head = re.search(rf"\.entry {name}\((.*?)\)", path.with_suffix(".ptx").read_text(), re.S)
    assert head is not None
    return re.findall(r"\.param \.(\w+)", head[1])


def _kind(argument: Any) -> str:
    kinds = {np.uint64: "u64", np.int32: "u32", np.float32: "f32"}
    return "u64" if isinstance(argument, np.ndarray) and argument.ndim else kinds[type(argument)]


@INSTALLED
@pytest.mark.parametrize("given", [(False, False), (True, False), (True, True)])
def test_launches_give_what_the_machine_code_takes(
    given: tuple[bool, bool], registry: Registry, ops: dict[str, Op], launched: list[Any]
) -> None:
    device = Hopper()
    x, scale, bias = np.ones((6, 300), np.float16), np.ones(300, np.float32), np.zeros(300, np.float32)
    arrays = [x, *(a if there else None for a, there in zip((scale, bias), given, strict=True))]
    specs = [None if a is None else TensorSpec.of(a) for a in arrays]
    _kernel(registry, "layer_normalization").bind(ops["layer_normalization"].call(*specs), device)(*arrays)
    (path, name, grid, block, arguments, shared, attributes), *_ = launched
    assert (name, grid, block) == ("normalization", (6,), (64,))
    assert [_kind(a) for a in arguments] == _kinds(path, name)
    addresses = [a.ctypes.data for a in arrays if a is not None]
    assert [array_module.address(a) for a in arguments[: len(addresses)]] == addresses
    assert arguments[sum(given) + 2 :][:2] == (300, np.float32(1e-5))
    assert attributes == {"max_dynamic_shared_size_bytes": shared}


@INSTALLED
def test_products_give_what_the_machine_code_takes(registry: Registry, launched: list[Any]) -> None:
    device = Hopper()
    kernel = next(k for k in registry.patterns if k.name == "triton_bias_gelu")
    x, weight, bias = (
        np.ones((2, 100, 48), np.float16),
        np.ones((48, 130), np.float16),
        np.ones(130, np.float16),
    )
    assert kernel.pattern is not None
    graph = oy.trace(kernel.pattern, *map(TensorSpec.of, (x, weight, bias)))
    (match,) = find_matches(Pattern.of(kernel), graph)
    result = np.zeros((2, 100, 130), np.float16)
    assert kernel.bind(match.work, device)(x, weight, bias, out=result) is result
    ((path, name, grid, block, arguments, shared, attributes),) = launched
    assert (name, grid, block) == ("product", (4 * 3,), (128,))
    assert [_kind(a) for a in arguments] == _kinds(path, name)
    assert [array_module.address(a) for a in arguments[:3]] == [a.ctypes.data for a in (x, weight, bias)]
    assert arguments[3] is result
    assert arguments[4:7] == (200, 130, 48)
    assert attributes == {"max_dynamic_shared_size_bytes": shared}
    assert shared > 49152 / 2


@INSTALLED
def test_nothing_is_launched_for_empty_arrays(
    registry: Registry, ops: dict[str, Op], launched: list[Any]
) -> None:
    for name, shape in product(("softmax", "rms_normalization"), ((0, 4), (4, 0))):
        x = np.zeros(shape, np.float32)
        result = _kernel(registry, name).bind(ops[name].call(TensorSpec.of(x)), Hopper())(x)
        assert result.shape == shape
    assert not launched


@INSTALLED
def test_programs_agree_with_the_reference_in_the_interpreter(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.backends.cuda.triton_trials"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    tried = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert len(tried) == 6 + len(triton_kernels.patterns.PATTERNS)
    assert all(int(count) > 1 for count in tried.values())

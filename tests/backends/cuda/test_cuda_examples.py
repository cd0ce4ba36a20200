"""The examples of docs/cuda.md: their CUDA C++ compiles, they register, and what they launch covers all elements.

CuPy, torch and Triton are stand-ins. A launch of theirs computes what the kernel of the example does, with NumPy.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.spec import TensorSpec
from opyard_cuda.nvrtc import ARCHITECTURES, compile_source
from opyard_cuda.sources import CudaSource

PAGE = Path(__file__).parents[3] / "docs" / "cuda.md"
EXAMPLES = dict(
    re.findall(r"^```python\n# not run: ([\w ]+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
)
KERNELS = {"raw kernel": "raw", "raw module": "module", "elementwise kernel": "elementwise", "file": "file"}
FILE = """extern "C" __global__ void swish(const float* x, float* y, long long size) {
  long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  if (i < size) y[i] = x[i] / (1.0f + expf(-x[i]));
}"""


class Array(np.ndarray[Any, Any]):
    """An array with a device."""

    device = nullcontext()  # type: ignore[assignment]


def _swish(x: Any) -> Any:
    return x / (1 + np.exp(-x))


def _launch(grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
    x, y, size = arguments
    assert grid[0] > 0, "a launch needs a block"
    assert size == x.size and x.flags.c_contiguous
    covered = min(size, math.prod(grid) * math.prod(block))
    y.reshape(-1)[:covered] = _swish(x.reshape(-1)[:covered])


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[CudaSource]]:
    """What the examples hand to CuPy's compilers."""
    found: list[CudaSource] = []

    def raw_kernel(code: str, name: str, **options: Any) -> Callable[..., None]:
        found.append(CudaSource(name, code, (name,)))
        return _launch

    def raw_module(code: str, options: Any = (), name_expressions: Any = ("swish",)) -> Any:
        found.append(CudaSource("module", code, tuple(name_expressions), tuple(options)))
        return SimpleNamespace(get_function=lambda name: _launch if name in name_expressions else None)

    def elementwise(inputs: str, output: str, operation: str, name: str) -> Any:
        types = {"T": "float"}
        text = f'extern "C" __global__ void {name}(float x, float* out) {{ typedef {types["T"]} T; float y; {operation}; *out = y; }}'
        found.append(CudaSource(name, text, (name,)))

        def run(x: Any, out: Any = None) -> Any:
            return np.copyto(out, _swish(x)) or out if out is not None else _swish(x)

        return run

    cupy: Any = ModuleType("cupy")
    cupy.RawKernel, cupy.RawModule, cupy.ElementwiseKernel = raw_kernel, raw_module, elementwise
    cupy.ascontiguousarray = lambda x: np.ascontiguousarray(x).view(Array)
    cupy.empty_like = np.empty_like
    cupy.cuda = SimpleNamespace(get_current_stream=lambda: SimpleNamespace(ptr=7))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    package = tmp_path / "opyard_acme"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "swish.cu").write_text(FILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = oy.standard_registry()
    registry.backend("cuda", load=lambda: SimpleNamespace(devices=tuple), arrays=())
    with oy.using(registry=registry):
        yield found
    sys.modules.pop("opyard_acme", None)


def _kernel(example: str, name: str) -> Any:
    names: dict[str, Any] = {}
    exec(EXAMPLES["op"] + EXAMPLES[example], names)
    registry = oy.default_registry()
    return next(k for k in registry.kernels("acme.swish") if k.id == f"cuda/{name}")


class Device:
    name, capabilities, handle = "cuda:0", oy.Capabilities(), nullcontext()

    def empty(self, spec: TensorSpec) -> Any:
        return np.full(spec.shape, np.nan, spec.dtype)


def _runs_right(kernel: Any) -> None:
    registry, device = oy.default_registry(), Device()
    for shape in ((), (1,), (257, 3), (0, 2)):
        x = np.linspace(-3, 3, math.prod(shape), dtype=np.float32).reshape(shape).view(Array)
        call = registry.get_op("acme.swish").call(TensorSpec.of(x))
        if kernel.refusal(call, device) is None:
            run = kernel.bind(call, device)
            np.testing.assert_allclose(np.asarray(run(x)), _swish(np.asarray(x)), rtol=1e-6)
            if kernel.out:
                out = np.empty(shape, np.float32)
                assert run(x, out=out) is out
        else:
            assert not x.size


@pytest.mark.parametrize("example", KERNELS)
def test_an_example_compiles_and_computes(example: str, sources: list[CudaSource], headers: Path) -> None:
    kernel = _kernel(example, KERNELS[example])
    _runs_right(kernel)
    assert sources
    for source in sources:
        for architecture in ARCHITECTURES:
            usage = compile_source(source, architecture, headers).usage
            assert set(usage) == set(source.entries)
            assert not any(found.spilled for found in usage.values())


def test_the_example_of_triton_registers_and_launches(
    sources: list[CudaSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    streams: list[int] = []

    class Program:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda x, y, size, BLOCK: _launch(grid, (BLOCK,), (x, y, size))

    triton: Any = ModuleType("triton")
    triton.jit, triton.cdiv = lambda function: Program(), lambda a, b: -(-a // b)
    triton.language = ModuleType("triton.language")
    triton.language.constexpr = int
    torch: Any = ModuleType("torch")
    torch.from_dlpack = lambda x: x
    torch.cuda = SimpleNamespace(ExternalStream=streams.append, stream=nullcontext)
    for name, module in {"triton": triton, "triton.language": triton.language, "torch": torch}.items():
        monkeypatch.setitem(sys.modules, name, module)
    _runs_right(_kernel("triton", "triton"))
    assert set(streams) == {7}


def test_examples_are_short() -> None:
    assert set(EXAMPLES) == {*KERNELS, "op", "triton"}
    assert all(text.count("\n") < 30 for text in EXAMPLES.values())


def test_the_command_that_compiles_a_file(headers: Path, tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    program = re.search(r'^\$ python -c "\n(.*?)"\n```', text, re.M | re.S)
    assert program
    (tmp_path / "swish.cu").write_text(FILE)

    done = subprocess.run(
        [sys.executable, "-c", program[1]], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("{'swish': Usage(registers=")

"""Programs of elementwise kernels: what they share, and that sharing changes no result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from opyard.opfunction import op
from opyard.ops import STANDARD
from opyard.registry import Registry
from opyard.spec import TensorSpec
from opyard_opencl import library, plugin
from opyard_opencl.quirks import quirks_of

_REGISTRY = Registry()
_REGISTRY.ops_from(STANDARD)
plugin.opyard_register(_REGISTRY)


@pytest.fixture
def built(opencl: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources that are asked for during a test, each once."""
    sources: list[str] = []
    build = opencl.build

    def record(source: str, options: tuple[str, ...] = ()) -> Any:
        if source not in sources:
            sources.append(source)
        return build(source, options)

    monkeypatch.setattr(opencl, "build", record)
    return sources


def _run(device: Any, name: str, *arrays: np.ndarray[Any, Any], **attributes: Any) -> None:
    call = STANDARD[name].op.call(*map(TensorSpec.of, arrays), **attributes)
    (kernel,) = _REGISTRY.kernels(name)
    found = device.download(kernel.bind(call, device)(*map(device.upload, arrays)))
    np.testing.assert_allclose(found, call.reference(*arrays)[0], rtol=1e-6)


def test_standard_ops_of_equal_dtypes_share_a_program(opencl: Any, built: list[str]) -> None:
    x, row = np.full((3, 4), 0.5, np.float32), np.full((1, 4), 2.0, np.float32)
    for name in ("exp", "tanh", "relu", "sqrt"):
        _run(opencl, name, x)
    assert len(built) == 1
    for name in ("add", "maximum", "pow"):
        for pair in ((x, x), (x, row), (row, x), (x, x[:1, :1]), (row[0, 0], row[0, 0])):
            _run(opencl, name, *map(np.asarray, pair))
    assert len(built) == 2


def test_sums_and_extrema_share_a_program(opencl: Any, built: list[str]) -> None:
    x = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    for name in ("sum", "mean", "prod", "max", "min"):
        for axis in (0, 1, None):
            _run(opencl, name, x, axis=axis)
    assert len(built) == 1
    for name in ("argmax", "argmin"):
        _run(opencl, name, x, axis=0)
    assert len(built) == 2


def test_other_expressions_have_a_program_for_all_ways_to_broadcast(opencl: Any, built: list[str]) -> None:
    @op("acme.mix", scalar="a * x + (1 - a) * y")
    def mix(x: Any, y: Any, *, a: float = 0.25) -> Any: ...

    registry = Registry()
    plugin.opyard_register(registry)
    registry.op(mix)
    (kernel,) = registry.kernels("acme.mix")
    x, row = np.ones((3, 4), np.float32), np.zeros((1, 4), np.float32)
    for pair in ((x, x), (x, row), (row, x)):
        call = mix.op.call(*map(TensorSpec.of, pair))
        found = opencl.download(kernel.bind(call, opencl)(*map(opencl.upload, pair)))
        np.testing.assert_allclose(found, call.reference(*pair)[0])
    assert len(built) == 1


def test_where_kernels_are_compiled_at_once_each_has_its_own_program(
    opencl: Any, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opencl, "quirks", replace(opencl.quirks, compiles_late=False))
    x = np.full((3, 4), 0.5, np.float32)
    for name in ("exp", "tanh", "sum", "argmax"):
        _run(opencl, name, x)
    assert [source.count("kernel void") for source in built] == [1, 1, 2, 1]


def test_only_compilers_known_for_it_compile_late() -> None:
    assert quirks_of("Portable Computing Language", "OpenCL 3.0 PoCL 3.0-rc2").compiles_late
    assert not quirks_of("NVIDIA CUDA", "OpenCL 3.0").compiles_late


@pytest.mark.parametrize("dtype", ["float32", "int8", "bool"])
def test_every_kernel_of_a_shared_program_can_be_made(dtype: str, opencl: Any) -> None:
    for inputs in (1, 2):
        text, entries = library._standard((dtype,) * inputs, (dtype,))
        names = {kernel.function_name for kernel in opencl.build(text).all_kernels()}
        for entry in entries.values():
            assert {library._named(entry, way) for way in library._ways(inputs)} <= names

"""CuPy itself, where it is installed, and GPUs, where there are some."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from opyard.operation import Op
from opyard.ops import STANDARD
from opyard.registry import Registry
from opyard.spec import TensorSpec
from opyard.testing import violation
from opyard_cuda import elementwise, plugin, sources
from opyard_cuda.array_module import OnDevice


def test_every_name_of_cupy_exists(registry: Registry) -> None:
    cupy = pytest.importorskip("cupy")
    targets = {kernel.load.target for kernel in registry.all_kernels() if isinstance(kernel.load, OnDevice)}
    ufuncs = {target.partition(":")[2] for target in targets if target.startswith("cupy:")}
    assert ufuncs
    assert not [name for name in ufuncs if not isinstance(getattr(cupy, name, None), cupy.ufunc)]
    names = {f"{base.__module__}:{base.__qualname__}" for base in cupy.ndarray.__mro__}
    assert names & set(plugin.ARRAYS)


@pytest.mark.parametrize(
    "name",
    [
        "cuda.alloc",
        "cuda.alloc_pinned_memory",
        "cuda.get_allocator",
        "cuda.set_allocator",
        "cuda.set_pinned_memory_allocator",
        "cuda.using_allocator",
        "cuda.MemoryAsyncPool.free_bytes",
        "cuda.MemoryPool.malloc",
        "cuda.PinnedMemoryPool.malloc",
        "cuda.Stream.begin_capture",
        "cuda.Stream.end_capture",
        "cuda.Graph.launch",
        "get_default_pinned_memory_pool",
        "ndarray.get",
        "may_share_memory",
        "RawModule.get_function",
    ],
)
def test_what_the_backend_uses_of_cupy_exists(name: str) -> None:
    found = pytest.importorskip("cupy")
    for part in name.split("."):
        found = getattr(found, part)


def test_the_allocator_of_cupy_tells_its_pool() -> None:
    cupy = pytest.importorskip("cupy")
    assert cupy.cuda.get_allocator().__self__ is cupy.get_default_memory_pool()


def test_sources_become_modules_of_cupy() -> None:
    pytest.importorskip("cupy")
    for source in sources.all_sources():
        assert sources.module(source).name_expressions == source.entries


def test_cupy_takes_every_generated_kernel(ops: dict[str, Op]) -> None:
    pytest.importorskip("cupy")
    for op in ops.values():
        for case in op.cases():
            call = op.call(*(draw.spec if draw else None for draw in case.inputs), **case.attributes)
            if elementwise.accepts(call, None) is None:  # type: ignore[arg-type]
                elementwise._kernel(elementwise.source(call), f"opyard_{op.name}")


@pytest.mark.cuda
@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "int64", "uint32", "float16", "float32", "float64", "complex64"]
)
@pytest.mark.parametrize("shape", [(), (0, 3), (5, 7)])
def test_upload_and_download(cuda_devices: tuple[Any, ...], dtype: str, shape: tuple[int, ...]) -> None:
    values = np.ones(shape, dtype)
    for device in cuda_devices:
        array = device.upload(values)
        assert device.owns(array)
        found = device.download(array)
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values)


@pytest.mark.cuda
def test_the_registry_knows_the_device_of_an_array(cuda_devices: tuple[Any, ...], registry: Registry) -> None:
    array = cuda_devices[-1].upload(np.zeros(3))
    found = registry.device_of(array)
    assert found is not None
    assert found.name == cuda_devices[-1].name


@pytest.mark.cuda
@pytest.mark.parametrize("name", STANDARD)
def test_kernels_agree_with_the_reference(
    name: str, cuda_devices: tuple[Any, ...], registry: Registry, ops: dict[str, Op]
) -> None:
    op, device = ops[name], cuda_devices[-1]
    for kernel in registry.kernels(name):
        for case in op.cases():
            call = op.call(*(draw.spec if draw else None for draw in case.inputs), **case.attributes)
            if kernel.refusal(call, device) is not None:
                continue
            arrays = case.arrays()
            native = [None if array is None else device.upload(array) for array in arrays]
            result = kernel.bind(call, device)(*native)
            found = result if call.is_tuple else (result,)
            assert all(map(device.owns, found)), case.id
            assert violation(call, arrays, [device.download(array) for array in found]) is None, case.id


@pytest.mark.cuda
@pytest.mark.parametrize(
    "name", ["argmax", "argmin", "max", "min", "sum", "logsumexp", "sort", "argsort", "softmax"]
)
def test_special_values_stand_where_the_reference_has_them(
    name: str, cuda_devices: tuple[Any, ...], registry: Registry, ops: dict[str, Op]
) -> None:
    rows = [[1, np.nan, 3, np.nan], [np.inf, 1, np.inf, 2], [-np.inf] * 4, [-np.inf, 2, 0, -0.0]]
    values, device = np.tile(np.array(rows, np.float32), (1, 100)), cuda_devices[0]
    call = ops[name].call(TensorSpec.of(values), axis=1)
    for kernel in registry.kernels(name):
        found = device.download(kernel.bind(call, device)(device.upload(values)))
        assert violation(call, [values], [found]) is None, kernel.id


@pytest.mark.cuda
def test_kernels_write_into_a_given_array(
    cuda_devices: tuple[Any, ...], registry: Registry, ops: dict[str, Op]
) -> None:
    device, spec = cuda_devices[0], TensorSpec((3, 4))
    x = device.upload(np.ones((3, 4), np.float32))
    for kernel in registry.kernels("add"):
        out = device.empty(spec)
        assert kernel.bind(ops["add"].call(spec, spec), device)(x, x, out=out) is out
        np.testing.assert_array_equal(device.download(out), np.full((3, 4), 2, np.float32))


@pytest.mark.cuda
def test_dlpack_shares_memory(cuda_devices: tuple[Any, ...]) -> None:
    device = cuda_devices[0]
    array = device.upload(np.arange(4.0))
    same = device.from_dlpack(array)
    assert same.data.ptr == array.data.ptr
    np.testing.assert_array_equal(device.download(device.from_dlpack(np.arange(4.0))), np.arange(4.0))


@pytest.mark.cuda
def test_streams_and_times(cuda_devices: tuple[Any, ...]) -> None:
    device = cuda_devices[0]
    x = device.upload(np.ones((256, 256), np.float32))
    results = []
    with device.stream():
        results.append(x @ x)
    assert device.download(results[0])[0, 0] == 256
    begin = device.record()
    results.append(x @ x)
    assert device.elapsed(begin, device.record()) > 0
    device.synchronize()
    free, total = device.memory_info()
    assert 0 < free <= total


@pytest.mark.cuda
def test_copies_between_two_gpus(cuda_devices: tuple[Any, ...]) -> None:
    if len(cuda_devices) < 2:
        pytest.skip("this machine has one GPU")
    first, second = cuda_devices[:2]
    values = np.arange(12.0).reshape(3, 4)
    for array in (first.upload(values), first.upload(values)[:, ::2]):
        copied = second.copy_from(array, first)
        assert second.owns(copied)
        np.testing.assert_array_equal(second.download(copied), first.download(array))

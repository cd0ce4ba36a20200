"""The backend over a stand-in for CuPy: which device is current, what waits for what, which path a copy takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from opyard.errors import DeviceError
from opyard.spec import TensorSpec
from opyard_cuda import backend
from opyard_cuda.backend import CUDABackend, CUDADevice
from opyard_cuda.capabilities import estimate
from opyard_cuda.probe import Probe


@pytest.fixture
def devices(fake_cupy: Any) -> tuple[CUDADevice, CUDADevice]:
    return CUDADevice(0, fake_cupy, 13020), CUDADevice(1, fake_cupy, 13020)


def _exporter(number: int, kind: int = 2) -> Any:
    """An array of another library, on a device of DLPack."""
    return SimpleNamespace(
        values=np.arange(3.0), number=number, __dlpack__=None, __dlpack_device__=lambda: (kind, number)
    )


def test_the_backend_lists_every_device(monkeypatch: pytest.MonkeyPatch, fake_cupy: Any) -> None:
    monkeypatch.setattr(backend, "probe", lambda: Probe(True, "", 13020, 2))
    monkeypatch.setattr(backend, "import_cupy", lambda: fake_cupy)
    monkeypatch.setattr(backend, "library_features", lambda: frozenset({"cublas"}))
    found = CUDABackend().devices()
    assert [(d.name, d.kind, d.memory, d.backend) for d in found] == [
        ("cuda:0", "gpu", "cuda:0", "cuda"),
        ("cuda:1", "gpu", "cuda:1", "cuda"),
    ]
    assert found[0].description == "Fake GPU, 141 GB, CUDA 13.2, CuPy 14.0"
    monkeypatch.setattr(backend, "library_features", lambda: frozenset())
    assert (
        CUDABackend()
        .devices()[0]
        .description.endswith("CuPy 14.0; no cuBLAS, so no products: install cupy-cuda13x[ctk]")
    )
    assert {"sm_90", "fp16", "bf16", "fp64", "cublas"} <= found[0].capabilities.features


def test_arrays_go_to_their_device_and_back(devices: tuple[CUDADevice, CUDADevice]) -> None:
    values = np.arange(6.0).reshape(2, 3)[:, ::2]
    array = devices[1].upload(values)
    assert devices[1].owns(array)
    assert not devices[0].owns(array)
    assert not devices[1].owns(values)
    np.testing.assert_array_equal(devices[1].download(array), values)
    assert type(devices[1].download(array)) is np.ndarray


def test_results_of_some_size_come_in_pinned_memory(
    devices: tuple[CUDADevice, CUDADevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        devices[0].cupy.cuda, "alloc_pinned_memory", lambda size: asked.append(size) or bytearray(size)
    )
    for values in (np.arange(1 << 14, dtype=np.float32).reshape(2, -1), np.arange(3.0)):
        found = devices[0].download(devices[0].upload(values))
        np.testing.assert_array_equal(found, values)
        assert TensorSpec.of(found) == TensorSpec.of(values)
    assert asked == [1 << 16]


def test_an_empty_array_lies_on_its_device(devices: tuple[CUDADevice, CUDADevice]) -> None:
    array = devices[1].empty(TensorSpec((2, 0), "int32"))
    assert devices[1].owns(array)
    assert TensorSpec.of(array) == TensorSpec((2, 0), "int32")


def test_a_dtype_that_cupy_does_not_have_is_refused(devices: tuple[CUDADevice, CUDADevice]) -> None:
    with pytest.raises(
        DeviceError,
        match=r"cuda:0 cannot hold float8_e5m2\[2\]: Unsupported dtype; cast it first: cast\(x, dtype='float32'\)",
    ):
        devices[0].upload(np.zeros(2, ml_dtypes.float8_e5m2))


def test_a_copy_between_gpus_waits_on_both_sides(
    devices: tuple[CUDADevice, CUDADevice], fake_cupy: Any
) -> None:
    array = devices[0].upload(np.arange(4))
    result = devices[1].copy_from(array, devices[0])
    assert devices[1].owns(result)
    np.testing.assert_array_equal(devices[1].download(result), np.arange(4))
    assert fake_cupy.cuda.Stream.log == ["record 0", "1 waits for 0", "record 1", "0 waits for 1"]


def test_a_copy_on_one_gpu_is_a_copy(devices: tuple[CUDADevice, CUDADevice]) -> None:
    array = devices[0].upload(np.arange(4))
    result = devices[0].copy_from(array, devices[0])
    result[0] = 9
    assert devices[0].download(array)[0] == 0


@pytest.mark.parametrize("target", [0, 1])
def test_cuda_memory_of_another_library_does_not_go_through_the_host(
    devices: tuple[CUDADevice, CUDADevice], target: int
) -> None:
    source: Any = SimpleNamespace()  # without download
    result = devices[target].copy_from(_exporter(0), source)
    assert devices[target].owns(result)
    np.testing.assert_array_equal(devices[target].download(result), np.arange(3.0))


def test_everything_else_goes_through_the_host(devices: tuple[CUDADevice, CUDADevice]) -> None:
    source: Any = SimpleNamespace(download=lambda array: np.asarray(array))
    result = devices[0].copy_from([1.0, 2.0], source)
    np.testing.assert_array_equal(devices[0].download(result), [1.0, 2.0])
    np.testing.assert_array_equal(devices[0].copy_from(np.arange(3), source), np.arange(3))


def test_from_dlpack_takes_any_exporter(devices: tuple[CUDADevice, CUDADevice]) -> None:
    assert devices[0].owns(devices[0].from_dlpack(_exporter(0)))
    assert devices[0].owns(devices[0].from_dlpack(_exporter(1)))
    np.testing.assert_array_equal(devices[1].from_dlpack(np.arange(3)), np.arange(3))
    with pytest.raises(
        DeviceError, match=r"list does not hand over its memory .* give cuda:0 a NumPy array: upload\(array\)"
    ):
        devices[0].from_dlpack([1.0])


def test_memory_counts_the_pool_as_free(devices: tuple[CUDADevice, CUDADevice], fake_cupy: Any) -> None:
    assert devices[0].memory_info() == (150, 1000)
    before = fake_cupy.get_default_memory_pool.freed
    devices[0].release_memory()
    assert fake_cupy.get_default_memory_pool.freed == before + 1
    fake_cupy.cuda.get_allocator = lambda: len  # of a program: what it holds is not known
    assert devices[0].memory_info() == (100, 1000)
    devices[0].release_memory()
    assert fake_cupy.get_default_memory_pool.freed == before + 1


def test_the_size_of_the_cache_is_an_attribute(
    devices: tuple[CUDADevice, CUDADevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(type(devices[0].handle).attributes, "L2CacheSize", 50 << 20)  # type: ignore[arg-type]
    assert devices[0].cache_bytes() == 50 << 20
    monkeypatch.delitem(type(devices[0].handle).attributes, "L2CacheSize")
    assert devices[0].cache_bytes() is None


def test_views_overlap(devices: tuple[CUDADevice, CUDADevice]) -> None:
    array = devices[0].upload(np.ones((2, 3), np.float32))
    assert devices[0].overlaps(array, array[1]) and not devices[0].overlaps(array, array.copy())


def test_elapsed_is_in_seconds_and_waits_for_the_work(
    devices: tuple[CUDADevice, CUDADevice], fake_cupy: Any
) -> None:
    begin = devices[1].record()
    fake_cupy.cuda.Stream.log.append("work")
    assert devices[1].elapsed(begin, devices[1].record()) == 2.5e-3
    assert fake_cupy.cuda.Stream.log == ["record 1", "work", "record 1", "synchronize event"]


def test_a_stream_begins_behind_and_ends_before_other_work(
    devices: tuple[CUDADevice, CUDADevice], fake_cupy: Any
) -> None:
    with devices[0].stream():
        fake_cupy.cuda.Stream.log.append("work")
    assert fake_cupy.cuda.Stream.log == [
        "record 0",
        "0 waits for 0",
        "enter stream",
        "work",
        "leave stream",
        "record 0",
        "0 waits for 0",
    ]
    devices[0].synchronize()
    assert fake_cupy.cuda.Stream.log[-1] == "synchronize 0"


def test_estimates_of_a_known_gpu() -> None:
    attributes = {
        "MultiProcessorCount": 132,
        "ClockRate": 1_980_000,
        "MemoryClockRate": 3_201_000,
        "GlobalMemoryBusWidth": 6144,
    }
    found = estimate("90", attributes)
    assert found.flops == pytest.approx(66.9e12, rel=0.01)  # the data sheet of an H200 says 67e12
    assert found.bandwidth == pytest.approx(4.9e12, rel=0.02)  # and 4.8e12


@pytest.mark.parametrize(
    ("level", "has", "lacks"),
    [
        ("52", {"sm_52", "fp64"}, {"fp16", "bf16"}),
        ("75", {"fp16", "tensor_cores"}, {"bf16"}),
        ("80", {"bf16"}, {"fp8"}),
        ("120", {"sm_120", "fp8"}, set()),
    ],
)
def test_features_follow_from_the_compute_capability(level: str, has: set[str], lacks: set[str]) -> None:
    features = estimate(level, {}).features
    assert has <= features
    assert not lacks & features


def test_attributes_that_the_driver_does_not_tell() -> None:
    found = estimate(
        "121", {"MultiProcessorCount": 48, "ClockRate": 0, "MemoryClockRate": 0, "Integrated": 1}
    )
    assert found.flops > 1e12
    assert found.bandwidth > 1e11
    assert found.transfer_bandwidth == found.bandwidth / 2

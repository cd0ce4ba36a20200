"""Stand-ins for CuPy and for the driver, so that all but the GPU itself is tested everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from opyard.driver import Capabilities, Device
from opyard.errors import DeviceUnavailable
from opyard.kernels import resolve
from opyard.operation import Op
from opyard.ops import STANDARD
from opyard.registry import Registry
from opyard_cuda import array_module, nvrtc, sources
from opyard_cuda.backend import CUDABackend
from opyard_cuda.emulation import Library, compiler
from opyard_cuda.plugin import opyard_register
from opyard_cuda.probe import probe


@pytest.fixture
def registry() -> Registry:
    """A registry with the standard ops and this plugin alone."""
    registry = Registry()
    registry.ops_from(STANDARD)
    opyard_register(registry)
    return registry


class HostDevice(Device):
    """Stands for a GPU: its arrays are NumPy arrays."""

    def __init__(self) -> None:
        capabilities = Capabilities(features=frozenset({"cublas", "fp64"}))
        super().__init__(
            "cuda:0", kind="gpu", memory="cuda:0", array_type=np.ndarray, capabilities=capabilities
        )
        self.handle = nullcontext()

    def upload(self, array: np.ndarray[Any, Any]) -> Any:
        return np.array(array)

    def download(self, array: Any) -> np.ndarray[Any, Any]:
        return np.asarray(array)


@pytest.fixture(scope="session")
def ops() -> dict[str, Op]:
    """The standard ops by name."""
    return {name: function.op for name, function in STANDARD.items()}


@pytest.fixture
def numpy_for_cupy(monkeypatch: pytest.MonkeyPatch) -> HostDevice:
    """NumPy in the place of CuPy: the logic of array kernels is the same, their speed and streams are not."""
    monkeypatch.setattr(array_module, "MODULE", "numpy")
    monkeypatch.setattr(array_module, "device_of", lambda arrays: nullcontext())
    monkeypatch.setattr(array_module, "address", lambda array: array.ctypes.data)
    monkeypatch.setattr(array_module, "_resolved", lambda target: resolve(target.replace("cupy:", "numpy:")))
    return HostDevice()


@pytest.fixture(scope="session")
def cuda_devices() -> tuple[Any, ...]:
    """The GPUs of this machine; skips, with the reason, where there are none."""
    found = probe()
    if not found.ok:
        pytest.skip(found.reason)
    try:
        return tuple(CUDABackend().devices())
    except DeviceUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def emulated_library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Where CUDA C++ is compiled for the CPU, once for all tests; skips, with the reason, without a compiler."""
    try:
        compiler()
    except DeviceUnavailable as error:
        pytest.skip(str(error))
    return Library(tmp_path_factory.mktemp("emulation"))


@pytest.fixture(scope="module")
def emulation(emulated_library: Library) -> Iterator[tuple[Library, HostDevice]]:
    """NumPy with RawModule in the place of CuPy: kernels in CUDA C++ run as fibres on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array_module, "MODULE", "numpy")
        patch.setattr(array_module, "address", lambda array: array.ctypes.data)
        patch.setattr(np, "RawModule", emulated_library.raw_module, raising=False)
        sources.module.cache_clear()
        yield emulated_library, HostDevice()
        sources.module.cache_clear()


class FakeArray(np.ndarray[Any, Any]):
    """A NumPy array that is said to lie on a GPU."""

    device: Any = None

    def copy(self, order: Any = "C") -> Any:
        return on_device(np.array(self), FakeDevice.current[-1])

    def get(self, out: Any) -> None:
        out[...] = self


def on_device(array: Any, number: int) -> FakeArray:
    result = np.array(array).view(FakeArray)
    result.device = FakeDevice(number)
    return result


class FakeDevice:
    """What the backend uses of cupy.cuda.Device."""

    current: ClassVar[list[int]] = [0]  # the state of the thread, for all instances
    compute_capability = "90"
    attributes: ClassVar[dict[str, int]] = {
        "MultiProcessorCount": 132,
        "ClockRate": 1_980_000,
        "MemoryClockRate": 3_201_000,
        "GlobalMemoryBusWidth": 6144,
    }
    mem_info = (100, 1000)

    def __init__(self, number: int) -> None:
        self.id = number

    def __enter__(self) -> FakeDevice:
        self.current.append(self.id)
        return self

    def __exit__(self, *_: object) -> None:
        self.current.pop()

    def synchronize(self) -> None:
        FakeStream.log.append(f"synchronize {self.id}")


class FakeStream:
    """What the backend uses of cupy.cuda.Stream and Event; ``log`` keeps the order of waiting."""

    log: ClassVar[list[str]] = []  # one log for all streams

    def __init__(self, **_: Any) -> None:
        self.device = FakeDevice.current[-1]

    def record(self) -> Any:
        self.log.append(f"record {FakeDevice.current[-1]}")
        return self

    def wait_event(self, event: Any) -> None:
        self.log.append(f"{FakeDevice.current[-1]} waits for {event.device}")

    def synchronize(self) -> None:
        self.log.append("synchronize event")

    def __enter__(self) -> FakeStream:
        self.log.append("enter stream")
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append("leave stream")


class FakePool:
    freed = 0

    def free_bytes(self) -> int:
        return 50

    def free_all_blocks(self) -> None:
        FakePool.freed += 1

    def malloc(self, size: int) -> Any:
        raise NotImplementedError


def _as_array(array: Any) -> FakeArray:
    if np.asarray(array).dtype.name.startswith("float8"):
        raise ValueError("Unsupported dtype")
    return on_device(array, FakeDevice.current[-1])


@pytest.fixture
def fake_cupy() -> Iterator[Any]:
    """What the backend uses of CuPy, over NumPy, with as many GPUs as are asked for."""
    FakeStream.log.clear()
    runtime = SimpleNamespace(
        getDeviceProperties=lambda number: {"name": b"Fake GPU", "totalGlobalMem": 141_000_000_000}
    )
    cuda = SimpleNamespace(
        Device=FakeDevice,
        Event=FakeStream,
        Stream=FakeStream,
        get_current_stream=FakeStream,
        get_elapsed_time=lambda start, stop: 2.5,
        get_allocator=lambda: FakePool().malloc,
        alloc_pinned_memory=bytearray,
        runtime=runtime,
    )
    yield SimpleNamespace(
        __version__="14.0",
        ndarray=FakeArray,
        cuda=cuda,
        asarray=_as_array,
        may_share_memory=np.may_share_memory,
        asnumpy=lambda array: np.array(array).view(np.ndarray),
        empty=lambda shape, dtype: on_device(np.empty(shape, dtype), FakeDevice.current[-1]),
        from_dlpack=lambda exporter: on_device(exporter.values, exporter.number),
        get_default_memory_pool=FakePool,
    )
    assert FakeDevice.current == [0]


@pytest.fixture(scope="session")
def headers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for CUDA's headers; skips, with the reason, where NVRTC is not installed."""
    try:
        nvrtc.library()
    except DeviceUnavailable as error:
        pytest.skip(str(error))
    return tmp_path_factory.mktemp("headers")

"""Recording and replaying: what is copied where, what is kept, and what is refused; streams and graphs are stand-ins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.errors import DeviceError, KernelError
from opyard_cuda.backend import CUDADevice
from opyard_cuda.graphs import record

from .conftest import FakeDevice, FakePool, FakeStream


class Array:
    """An array of the stand-in: no subclass of NumPy's, which opyard would take for one of the host."""

    def __init__(self, values: Any, number: int) -> None:
        self.values = np.array(values)
        self.device = FakeDevice(number)
        self.shape, self.dtype, self.nbytes = self.values.shape, self.values.dtype, self.values.nbytes

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.values

    def __setitem__(self, place: Any, other: Any) -> None:
        self.values[place] = np.asarray(other)

    def copy(self) -> Any:
        return Array(self.values, FakeDevice.current[-1])


def on_device(values: Any, number: int) -> Array:
    return Array(values, number)


class Graph:
    """Stands for a CUDA graph: computes anew what was recorded, into the same arrays."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.work: Callable[[], None] = lambda: None

    def launch(self) -> None:
        self.log.append(f"launch on {FakeDevice.current[-1]}")
        self.work()


class Stream(FakeStream):
    """A stream that records."""

    graph: Any = None

    def begin_capture(self) -> None:
        self.log.append("begin")

    def end_capture(self) -> Any:
        self.log.append("end")
        Stream.graph = Graph(self.log)
        return Stream.graph


@pytest.fixture
def rig(fake_cupy: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A registry with two GPUs and the kernels add and multiply, and what CuPy was asked for."""
    allocators: list[Any] = []

    @contextmanager
    def using_allocator(allocator: Any) -> Iterator[None]:
        Stream.log.append("own pool")
        yield
        Stream.log.append("pool of all")

    fake_cupy.ndarray = Array
    fake_cupy.asarray = lambda values: Array(values, FakeDevice.current[-1])
    fake_cupy.cuda.Stream = Stream
    fake_cupy.cuda.MemoryPool = FakePool
    fake_cupy.cuda.using_allocator = using_allocator
    fake_cupy.cuda.set_pinned_memory_allocator = allocators.append
    fake_cupy.get_default_pinned_memory_pool = lambda: SimpleNamespace(malloc=len)
    devices = CUDADevice(0, fake_cupy), CUDADevice(1, fake_cupy)
    registry = oy.standard_registry()
    registry.backend(
        "cuda",
        load=lambda: SimpleNamespace(devices=lambda: devices),
        arrays=(f"{Array.__module__}:Array",),
    )
    runs: list[str] = []

    def kernel(name: str, compute: Callable[..., Any]) -> None:
        def run(*arrays: Any) -> Any:
            runs.append(name)
            return on_device(compute(*map(np.asarray, arrays)), arrays[0].device.id)

        registry.kernel(name, backend="cuda", name="fake", load=run)

    kernel("add", np.add)
    kernel("multiply", np.multiply)
    with oy.using(registry=registry):
        yield SimpleNamespace(
            devices=devices,
            registry=registry,
            runs=runs,
            allocators=allocators,
            log=Stream.log,
            cupy=fake_cupy,
        )


def _at(rig: Any, number: int, *values: float) -> Any:
    return rig.devices[number].upload(np.array(values, np.float32))


def test_a_recording_runs_on_other_arrays(rig: Any) -> None:
    x, y = _at(rig, 1, 1, 2), _at(rig, 1, 3, 4)
    recording = record(lambda x, y: (x + y) * x, x, y)
    assert rig.runs == ["add", "multiply"] * 2  # once to warm up, once to record
    assert [line for line in rig.log if line in ("begin", "end", "own pool", "pool of all")] == [
        "own pool",
        "begin",
        "end",
        "pool of all",
    ]
    a, b = recording.inputs
    Stream.graph.work = lambda: np.copyto(recording.outputs[0].values, (a.values + b.values) * a.values)
    found = recording(_at(rig, 1, 5, 6), _at(rig, 1, 7, 8))
    np.testing.assert_array_equal(np.asarray(found), [60, 84])
    assert not np.may_share_memory(found.values, recording.outputs[0].values)
    assert rig.log[-1] == "launch on 1"
    assert len(rig.runs) == 4
    np.testing.assert_array_equal(np.asarray(x), [1, 2])
    a[...] = 1
    recording.launch()
    np.testing.assert_array_equal(np.asarray(recording.outputs[0]), np.asarray(b) + 1)


def test_several_results_are_a_tuple(rig: Any) -> None:
    x = _at(rig, 0, 1, 2)
    recording = record(lambda x: (x + x, x * x), x)
    first, second = recording(x)
    np.testing.assert_array_equal(np.asarray(first), [2, 4])
    np.testing.assert_array_equal(np.asarray(second), [1, 4])


def test_arrays_that_do_not_fit_are_refused(rig: Any) -> None:
    recording = record(lambda x: x + x, _at(rig, 0, 1, 2))
    with pytest.raises(
        DeviceError,
        match=r"recorded with arrays float32\[2\] of cuda:0, called with float32\[3\]; record the function again for other shapes, and bring arrays there: opyard.to_device\(x, device\)",
    ):
        recording(_at(rig, 0, 1, 2, 3))
    for wrong in (_at(rig, 1, 1, 2), np.ones(2, np.float32)):
        with pytest.raises(DeviceError, match=r"called with float32\[2\]; "):
            recording(wrong)
    with pytest.raises(DeviceError, match="called with ; "):
        recording()


@pytest.mark.parametrize(
    ("places", "names"), [((0, 1), "cuda:0, cuda:1"), ((), "none"), ((None, None), "reference")]
)
def test_only_arrays_of_one_gpu_are_recorded(rig: Any, places: tuple[Any, ...], names: str) -> None:
    arrays = [np.ones(2, np.float32) if place is None else _at(rig, place, 1, 2) for place in places]
    with pytest.raises(
        DeviceError,
        match=f"record takes arrays of one GPU, found arrays of: {names}; bring them there: opyard.to_device",
    ):
        record(lambda *arrays: arrays[0], *arrays)


def test_copies_from_the_host_cannot_be_recorded(rig: Any) -> None:
    def stage(x: Any) -> Any:
        if rig.allocators:  # what CuPy asks for pinned memory while it records
            rig.allocators[-1](12)
        return on_device(x.values, x.device.id)

    rig.registry.kernel("exp", backend="cuda", name="staging", load=stage)
    with pytest.raises(
        KernelError,
        match=r"cannot be recorded for cuda:0: kernel cuda/staging failed on .*a kernel copies 12 bytes from the host in each run.* Work that waits for the GPU, or copies from the host, cannot be",
    ):
        record(oy.exp, _at(rig, 0, 1, 2))
    assert rig.log.index("begin") < rig.log.index("end")
    assert rig.allocators[-1] is len  # the pool of all serves again
    assert rig.registry.failures == {}


def test_other_threads_may_copy_while_one_records(rig: Any) -> None:
    from threading import Thread

    sizes: list[int] = []

    def other(x: Any) -> Any:
        if rig.allocators:
            worker = Thread(target=lambda: sizes.append(rig.allocators[-1]([1, 2, 3])))
            worker.start()
            worker.join()
        return on_device(x.values, x.device.id)

    rig.registry.kernel("exp", backend="cuda", name="other", load=other)
    record(oy.exp, _at(rig, 0, 1, 2))
    assert sizes == [3]


def test_a_recording_that_cannot_be_ended_tells_both_errors(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any) -> Any:
        raise RuntimeError("cudaErrorStreamCaptureInvalidated")

    def raising(x: Any) -> Any:
        if rig.allocators:
            raise ValueError("waits for the GPU")
        return on_device(x.values, x.device.id)

    monkeypatch.setattr(Stream, "end_capture", fail)
    rig.registry.kernel("exp", backend="cuda", name="raising", load=raising)
    with pytest.raises(KernelError, match="waits for the GPU") as caught:
        record(oy.exp, _at(rig, 0, 1, 2))
    notes = caught.value.__cause__.__notes__  # type: ignore[union-attr]
    assert notes[-1] == "the recording ended with: cudaErrorStreamCaptureInvalidated"


def test_what_leaves_the_gpu_cannot_be_recorded(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from opyard_cuda import graphs

    monkeypatch.setattr(graphs, "_captured", lambda *_: (None, (np.ones(2),)))
    with pytest.raises(
        KernelError, match=r"the function gives ndarray and no array of cuda:0, so it cannot be recorded"
    ):
        record(lambda x: x + x, _at(rig, 0, 1, 2))

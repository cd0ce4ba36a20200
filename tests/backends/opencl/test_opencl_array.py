"""Arrays of OpenCL devices: parts of them as views, DLPack, and that nothing is copied on CPU devices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyopencl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opyard as oy
from opyard.errors import DeviceError, SpecError
from opyard.ops import STANDARD
from opyard.registry import Registry
from opyard.spec import TensorSpec


def _numbers(*shape: int) -> np.ndarray[Any, Any]:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize(
    "key",
    [slice(1, 3), 2, -1, (1, slice(0, 2)), (1, 2, 3), (slice(None), ...), (...,), slice(2, 2), np.int64(1)],
)
def test_a_part_is_a_view(key: Any, opencl: Any) -> None:
    host = _numbers(4, 3, 5)
    array = opencl.upload(host)
    part = array[key]
    np.testing.assert_array_equal(np.asarray(part), host[key])
    assert part.shape == host[key].shape
    if part.size:
        assert np.shares_memory(opencl.download(part), host)
        assert opencl.overlaps(part, array)


def test_a_kernel_writes_into_a_part(opencl: Any, opencl_registry: Registry) -> None:
    x, target = opencl.upload(_numbers(2, 7)), opencl.upload(np.zeros((5, 7), np.float32))
    call = STANDARD["negative"].op.call(TensorSpec((2, 7)))
    (kernel,) = opencl_registry.kernels("negative")
    kernel.bind(call, opencl)(x, out=target[3:])
    expected = np.zeros((5, 7), np.float32)
    expected[3:] = -_numbers(2, 7)
    np.testing.assert_array_equal(opencl.download(target), expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.data())
def test_parts_of_parts(size: int, data: Any) -> None:
    device = next(d for d in oy.default_registry().devices() if d.name == "opencl:0")
    host = _numbers(size)
    array = device.upload(host)
    for _ in range(3):
        start, stop = sorted(data.draw(st.tuples(st.integers(0, size), st.integers(0, size))))
        array, host = array[start:stop], host[start:stop]
    np.testing.assert_array_equal(np.asarray(array), host)


def test_parts_that_are_no_views(opencl: Any) -> None:
    array = opencl.upload(_numbers(4, 4))
    with pytest.raises(SpecError, match=r"does not lie together in memory; opyard\.slice copies it"):
        array[:, 1:3]
    with pytest.raises(SpecError, match="takes integers and slices in brackets; other reading is by gather"):
        array[[1, 2]]
    with pytest.raises(IndexError):
        array[4]


def test_parts_in_memory_of_its_own(separate: Any) -> None:
    array = separate.upload(_numbers(8, 256))
    np.testing.assert_array_equal(np.asarray(array[2:4]), _numbers(8, 256)[2:4])
    assert not separate.overlaps(array, separate.upload(_numbers(3)))
    with pytest.raises(
        DeviceError, match=r"can begin a view at multiples of \d+ bytes, not at 4; opyard\.slice"
    ):
        array[0, 1:3]


def test_dlpack_shares_memory(opencl: Any) -> None:
    host = _numbers(3, 4)
    array = opencl.upload(host)
    assert array.__dlpack_device__() == (1, 0)
    assert np.shares_memory(np.from_dlpack(array), host)
    back = opencl.from_dlpack(host)
    assert np.shares_memory(opencl.download(back), host)
    assert opencl.owns(opencl.from_dlpack(array))


def test_dlpack_of_memory_of_its_own(separate: Any) -> None:
    array = separate.upload(_numbers(3))
    assert array.__dlpack_device__() == (4, 0)
    with pytest.raises(
        BufferError, match=r"memory of its own, which no other library can use; opyard\.to_numpy"
    ):
        array.__dlpack__()
    with pytest.raises(
        SpecError, match="takes arrays in host memory by DLPack, not Array; give it a NumPy array"
    ):
        separate.from_dlpack(array)
    with pytest.raises(SpecError, match="takes arrays in host memory by DLPack, not list"):
        separate.from_dlpack([1.0])


def test_no_byte_is_copied_between_numpy_and_a_cpu_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way by which pyopencl copies is counted while a program runs on NumPy arrays."""
    copies: list[str] = []
    make = pyopencl.Buffer

    def buffer(context: Any, flags: Any, *rest: Any, **named: Any) -> Any:
        if flags & pyopencl.mem_flags.COPY_HOST_PTR:
            copies.append("a buffer with a copy")
        return make(context, flags, *rest, **named)

    monkeypatch.setattr(pyopencl, "Buffer", buffer)
    for name in ("enqueue_copy", "enqueue_map_buffer", "enqueue_fill_buffer"):
        monkeypatch.setattr(pyopencl, name, lambda *_, name=name, **__: copies.append(name))
    with oy.Graph() as graph:
        x = graph.input("x", oy.TensorSpec((64, 32), "float32"))
        graph.output("y", oy.softmax(oy.matmul(x, oy.matrix_transpose(x))))
    host = np.random.default_rng(0).random((64, 32), dtype=np.float32)
    with oy.Session(graph, devices="opencl:0") as session:
        found = session.run("y", {"x": host})
    assert copies == []
    scores = host @ host.T
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    np.testing.assert_allclose(found, powers / powers.sum(axis=1, keepdims=True), rtol=1e-5)

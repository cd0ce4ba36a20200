"""Arrays, memory, queue and errors of an OpenCL device."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
import weakref
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyopencl
import pytest

import opyard as oy
from opyard.driver import HOST, shares_arrays, transfer
from opyard.errors import DeviceError, KernelError
from opyard.spec import TensorSpec, as_dtype
from opyard_opencl.array import Array
from opyard_opencl.device import failure
from opyard_opencl.launch import Launch
from opyard_opencl.movement import prepare_repeat

_SCALE = """
kernel void scale(global const float *x, global float *y, long count) {
    const long i = get_global_id(0);
    if (i < count) y[i] = 3 * x[i];
}
"""


def _scaled(device: Any, x: Array) -> Array:
    y: Array = device.empty(TensorSpec(x.shape))
    Launch(device, _SCALE, "scale", x.size, (np.int64(x.size),))(x, y)
    return y


def test_describes_itself(opencl: Any) -> None:
    assert opencl.name == "opencl:0"
    assert opencl.kind == "cpu"
    assert opencl.memory == HOST
    assert opencl.cl_device.driver_version in opencl.description
    assert "fp64" in opencl.capabilities.features
    assert opencl.memory_info() is None


def test_upload_and_download_share_memory(opencl: Any) -> None:
    host = np.arange(12, dtype=np.float32).reshape(3, 4)
    array = opencl.upload(host)
    assert np.shares_memory(opencl.download(array), host)
    host[0, 0] = 7  # both sides see it
    assert opencl.download(_scaled(opencl, array))[0, 0] == 21


def test_results_are_downloaded_without_a_copy(opencl: Any) -> None:
    result = _scaled(opencl, opencl.upload(np.ones(5, np.float32)))
    assert np.shares_memory(opencl.download(result), opencl.download(result))
    np.testing.assert_array_equal(np.asarray(result), 3)


def test_read_only_arrays_are_shared_too(opencl: Any) -> None:
    host = np.ones(4, np.float32)
    host.flags.writeable = False
    array = opencl.upload(host)
    assert np.shares_memory(opencl.download(array), host)
    np.testing.assert_array_equal(opencl.download(_scaled(opencl, array)), 3)


@pytest.mark.parametrize("make", [lambda a: a.T, lambda a: a[:, ::2], lambda a: a[::-1], np.asfortranarray])
def test_arrays_that_are_not_dense_are_copied(make: Any, opencl: Any) -> None:
    host = make(np.arange(24, dtype=np.float32).reshape(4, 6))
    array = opencl.upload(host)
    assert array.shape == host.shape
    np.testing.assert_array_equal(opencl.download(array), host)
    np.testing.assert_array_equal(opencl.download(_scaled(opencl, array)), 3 * host)


def test_unaligned_arrays(opencl: Any) -> None:
    raw = np.zeros(4 * 8 + 1, np.uint8)
    host = raw[1:].view(np.float32)
    host[:] = 2
    np.testing.assert_array_equal(opencl.download(_scaled(opencl, opencl.upload(host))), 6)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "bfloat16", "complex64"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3)])
def test_every_dtype_and_shape_goes_there_and_back(
    shape: tuple[int, ...], dtype: str, opencl: Any, separate: Any
) -> None:
    host = np.ones(shape, as_dtype(dtype))
    for device in (opencl, separate):
        found = device.download(device.upload(host))
        assert found.dtype == host.dtype
        np.testing.assert_array_equal(found, host)
        assert device.empty(TensorSpec(shape, dtype)).shape == shape


def test_memory_of_its_own_is_not_shared(separate: Any) -> None:
    host = np.ones(5, np.float32)
    array = separate.upload(host)
    host[:] = 9
    found = separate.download(array)
    np.testing.assert_array_equal(found, 1)
    assert array.host is None
    np.testing.assert_array_equal(separate.download(_scaled(separate, array)), 3)


def test_array_facts(opencl: Any) -> None:
    array = opencl.upload(np.zeros((2, 3), np.int16))
    assert (array.ndim, array.size, array.nbytes) == (2, 6, 12)
    assert repr(array) == "<Array int16[2, 3] on opencl:0>"
    view = array.view((3, 2))
    assert view.shape == (3, 2)
    assert view.buffer is array.buffer
    assert opencl.owns(array)
    assert not opencl.owns(np.zeros(2))


def test_numpy_takes_arrays(opencl: Any) -> None:
    array = opencl.upload(np.arange(3, dtype=np.float32))
    assert np.asarray(array, dtype=np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(array, copy=True), array.host)
    with pytest.raises(ValueError, match="as float64 needs a copy"):
        np.asarray(array, dtype=np.float64, copy=False)


def test_owns_only_its_own_arrays(opencl: Any, separate: Any) -> None:
    assert not separate.owns(opencl.upload(np.zeros(2)))


def test_a_program_that_does_not_build(opencl: Any) -> None:
    with pytest.raises(KernelError, match=r"(?s)the OpenCL compiler refuses the source:.*nonsense"):
        opencl.build("kernel void f() { nonsense; }")


def test_a_kernel_that_does_not_exist(opencl: Any) -> None:
    launch = Launch(opencl, _SCALE, "missing", 1, ())
    with pytest.raises(DeviceError, match="preparing kernel 'missing': the OpenCL driver reports"):
        launch(opencl.upload(np.zeros(1, np.float32)))


def test_a_kernel_that_lacks_an_argument(opencl: Any) -> None:
    launch = Launch(opencl, _SCALE, "scale", 1, ())
    with pytest.raises(DeviceError, match="starting kernel 'scale': the OpenCL driver reports"):
        launch(opencl.upload(np.zeros(1, np.float32)))


def test_what_a_compiler_says_is_no_warning_of_ours(opencl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make = pyopencl.Program.build

    def build(*arguments: Any, **named: Any) -> Any:
        warnings.warn("Non-empty compiler output", pyopencl.CompilerWarning, stacklevel=2)
        return make(*arguments, **named)

    monkeypatch.setattr(pyopencl.Program, "build", build)
    monkeypatch.delenv("PYOPENCL_COMPILER_OUTPUT", raising=False)
    assert opencl.build(_SCALE + "// said nothing of")
    monkeypatch.setenv("PYOPENCL_COMPILER_OUTPUT", "1")
    with pytest.warns(pyopencl.CompilerWarning, match="Non-empty compiler output"):
        opencl.build(_SCALE + "// asked for")


def test_programs_are_built_where_the_cache_of_the_binding_fails(
    opencl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyopencl import cache

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError("no space left on device")

    monkeypatch.setattr(cache, "_create_built_program_from_source_cached", fail)
    with pytest.warns(UserWarning, match=r"(?s)caching failed.*no space left on device"):
        cache.create_built_program_from_source_cached(opencl.context, _SCALE, b"")
    assert opencl.build(_SCALE + "// not in a cache")


def test_programs_are_built_once(opencl: Any) -> None:
    assert opencl.build(_SCALE) is opencl.build(_SCALE)


def test_too_much_memory(opencl: Any, separate: Any) -> None:
    for device in (opencl, separate):
        for size in (2**44, 2**60):  # more than there is, and more than an address can say
            with pytest.raises(
                DeviceError, match=r"allocating \d+ bytes: out of memory .*Use smaller batches"
            ):
                device.empty(TensorSpec((size,), "float64"))
    with pytest.raises(DeviceError, match=r"out of memory \(.*INVALID_BUFFER_SIZE\)\. Use smaller batches"):
        opencl.scratch(2**46)


def test_elements_that_are_moved_to_more_memory_than_there_is(opencl: Any) -> None:
    call = oy.repeat.op.call(TensorSpec((4,)), repeats=2**42)
    with pytest.raises(
        DeviceError, match=r"preparing repeat\(.*\) -> .*: out of memory \(.*\)\. Use smaller batches"
    ):
        prepare_repeat(call, opencl)


def test_out_of_memory_of_the_driver_says_what_to_do() -> None:
    error = pyopencl.MemoryError("clCreateBuffer failed: MEM_OBJECT_ALLOCATION_FAILURE")
    found = failure("opencl:0: allocating 8 bytes", error)
    assert isinstance(found, DeviceError)
    assert "out of memory" in str(found)
    assert "Use smaller batches" in str(found)


def test_scratch_is_kept_for_a_thread(opencl: Any) -> None:
    first = opencl.scratch(1000)
    assert opencl.scratch(10) is first
    assert opencl.scratch(first.buffer.size + 1).buffer.size > first.buffer.size


def test_much_unfinished_work_is_waited_for(opencl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from opyard_opencl import device

    monkeypatch.setattr(device, "_IN_FLIGHT_LIMIT", 1000)
    opencl.synchronize()
    _scaled(opencl, opencl.upload(np.zeros(4096, np.float32)))
    assert opencl.flight.started == [[]], "what was there before is done"


def test_what_a_kernel_may_write_to_is_kept_when_waiting_is_interrupted(
    opencl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    opencl.synchronize()
    result = _scaled(opencl, opencl.upload(np.ones(5, np.float32)))
    gone = weakref.ref(result)
    del result
    with monkeypatch.context() as patched:
        patched.setattr(opencl, "queue", SimpleNamespace(finish=interrupt))
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                opencl.synchronize()
    assert gone() is not None
    opencl.synchronize()
    assert gone() is None


_FORK = """
import os
import numpy as np
from opyard.errors import DeviceError
from opyard.registry import Registry
from opyard.spec import TensorSpec
from opyard.ops import STANDARD
from opyard_opencl import plugin
from opyard_opencl.elementwise import prepare
registry = Registry()
plugin.opyard_register(registry)
device = registry.open("opencl").devices[0]
x = device.upload(np.ones(5, np.float32))
run = prepare(STANDARD["negative"].op.call(TensorSpec((5,))), device)
run(x, out=x)
device.record()
number = os.fork()
asked = (
    lambda: run(x, out=x),
    lambda: run(x),
    lambda: device.download(x),
    lambda: device.upload(np.ones(3)),
    lambda: device.build("kernel void f() {}"),
    device.record,
    device.synchronize,
)
if not number:
    for ask in asked:
        try:
            ask()
        except DeviceError as error:
            print(error, flush=True)
    raise SystemExit(3)  # with all that Python does at exit
print(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), device.download(x)[0])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork processes")
def test_a_forked_process_gets_a_sentence_instead_of_waiting_for_ever(opencl: Any) -> None:
    done = subprocess.run([sys.executable, "-c", _FORK], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    *said, end = done.stdout.splitlines()
    assert len(said) == 7
    for sentence in said:
        assert sentence.startswith(f"{opencl.name} was opened before this process was forked from another")
        assert sentence.endswith("start processes anew: multiprocessing.set_start_method('spawn').")
    assert end == "3 -1.0"


def test_a_linker_that_is_gone_since_the_device_was_opened(
    opencl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opencl, "quirks", replace(opencl.quirks, needs_linker=True))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        DeviceError, match=r"^opencl:0 builds kernels with the linker `ld`, and there is none"
    ):
        opencl.build(_SCALE)


def test_elapsed(opencl: Any) -> None:
    array = opencl.upload(np.zeros(8, np.float32))
    marks = [opencl.record()]
    for _ in range(2):
        result = _scaled(opencl, array)
        marks.append(opencl.record())
    whole = opencl.elapsed(marks[0], marks[2])
    assert 0 < opencl.elapsed(marks[0], marks[1]) < whole
    assert not opencl.download(result).any(), "the queue that keeps times does the same work"


def test_a_clock_that_cannot_be_read(opencl: Any) -> None:
    """A mark on a queue without times."""
    plain = pyopencl.enqueue_marker(pyopencl.CommandQueue(opencl.context, opencl.cl_device))
    with pytest.raises(
        DeviceError, match=r"opencl:0: reading its clock: the OpenCL driver reports .*PROFILING"
    ):
        opencl.elapsed(plain, plain)


def test_devices_of_two_contexts_do_not_share_arrays(opencl: Any) -> None:
    from opyard_opencl.device import OpenCLDevice

    other = OpenCLDevice("opencl:1", opencl.cl_device, opencl.quirks)
    assert (other.memory, other.array_type) == (opencl.memory, opencl.array_type)
    assert not shares_arrays(opencl, other)
    moved = transfer(opencl.upload(np.arange(3, dtype=np.float32)), opencl, other)
    assert other.owns(moved)
    np.testing.assert_array_equal(other.download(moved), [0, 1, 2])


def test_the_size_of_the_cache_is_what_the_driver_says(opencl: Any) -> None:
    said = opencl.cl_device.global_mem_cache_size
    assert opencl.cache_bytes() == (said or None)

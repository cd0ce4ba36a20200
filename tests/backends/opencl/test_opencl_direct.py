"""Starting kernels by a compiled function: what it takes, what it leaves to Python, what it keeps alive, and Python alone."""

from __future__ import annotations

import gc
import importlib.util
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import opyard as oy
from opyard.errors import DeviceError, KernelError
from opyard.spec import TensorSpec
from opyard_opencl import device as device_module
from opyard_opencl import direct
from opyard_opencl.array import Array
from opyard_opencl.elementwise import prepare
from opyard_opencl.launch import Launch

_SHIFT = """
kernel void shift(global const float *x, global float *y, long count, float by) {
    const long i = get_global_id(0);
    if (i < count) y[i] = x[i] + by;
}
"""


@pytest.fixture
def compiled(opencl: Any) -> None:
    if not direct.available():
        pytest.skip("llvmlite is not installed, or this Python is unknown")


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(direct, "_compiled", lambda: None)
    assert not direct.available()
    yield


def _shift(device: Any, count: int = 8, by: float = 1) -> Launch:
    return Launch(device, _SHIFT, "shift", count, (np.int64(count), np.float32(by)))


def _numbers(device: Any, count: int = 8) -> Array:
    found: Array = device.upload(np.arange(count, dtype=np.float32))
    return found


def _negative(device: Any, dtype: str = "float32") -> Callable[..., Any]:
    return prepare(oy.negative.op.call(TensorSpec((2, 4), dtype)), device)


def _check(device: Any, launch: Launch) -> None:
    x = _numbers(device)
    for _ in range(3):  # the first start makes the function that the others use
        y = device.empty(TensorSpec((8,)))
        launch(x, y)
        np.testing.assert_array_equal(device.download(y), np.arange(1, 9))


def test_the_same_results_by_the_function_and_by_the_binding(
    opencl: Any, separate: Any, compiled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for device in (opencl, separate):
        launch = _shift(device)
        _check(device, launch)
        assert launch._start is not None
        monkeypatch.setattr(direct, "_compiled", lambda: None)
        launch = _shift(device)
        _check(device, launch)
        assert launch._start is None
        monkeypatch.undo()


def test_a_kernel_of_one_launch_is_one_function(opencl: Any, compiled: None) -> None:
    run = _negative(opencl)
    assert isinstance(run, type(len))
    x, out = opencl.upload(np.ones((2, 4), np.float32)), opencl.empty(TensorSpec((2, 4)))
    assert run(x, out=out) is out
    np.testing.assert_array_equal(opencl.download(out), -1)
    assert run(x, out=x) is x  # in place
    made = run(x)
    assert made is not x
    np.testing.assert_array_equal(opencl.download(made), 1)
    assert run(out=out, *[x]) is out  # noqa: B026


@pytest.mark.parametrize("way", ["compiled", "uncompiled"])
def test_what_a_kernel_was_not_prepared_for(way: str, opencl: Any, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(way)
    run = _negative(opencl)
    x, out = opencl.upload(np.ones((2, 4), np.float32)), opencl.empty(TensorSpec((2, 4)))
    for wrong in (TensorSpec((4, 2)), TensorSpec((2, 4), "int32"), TensorSpec((2, 4, 1))):
        with pytest.raises(KernelError, match=r"this kernel was prepared for .* and its inputs are"):
            run(opencl.empty(wrong), out=out)
        with pytest.raises(KernelError, match=r"this kernel was prepared for .* and its out is"):
            run(x, out=opencl.empty(wrong))
    with pytest.raises(KernelError, match="its inputs are missing"):
        run()
    for arrays, named in (((x, out), {}), ((x, x), {"out": out})):
        with pytest.raises(KernelError, match=r"its inputs are float32\[2, 4\], float32\[2, 4\]"):
            run(*arrays, **named)
    for named in ({"other": out}, {"out": out, "other": out}, {"other": out, "out": out}):
        with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
            run(x, **named)


def test_equal_shapes_and_dtypes_need_not_be_the_same_objects(opencl: Any, compiled: None) -> None:
    run = _negative(opencl)
    x = opencl.upload(np.ones((2, 4), np.float32))
    other = Array(opencl, x.buffer, tuple(map(int, "24")), np.dtype("=f4"), x.host)
    out = opencl.empty(TensorSpec((2, 4)))
    np.testing.assert_array_equal(opencl.download(run(other, out=out)), -1)


def test_errors_of_a_comparison_are_raised(opencl: Any, compiled: None) -> None:
    class Broken:
        def __ne__(self, other: object) -> bool:
            raise ValueError("cannot be compared")

    run = _negative(opencl)
    x = opencl.upload(np.ones((2, 4), np.float32))
    for name in ("shape", "dtype"):
        broken = Array(opencl, x.buffer, x.shape, x.dtype, x.host)
        setattr(broken, name, Broken())
        with pytest.raises(ValueError, match="cannot be compared"):
            run(broken, out=x)


@pytest.mark.parametrize("way", ["compiled", "uncompiled"])
def test_arrays_of_other_devices(
    way: str, opencl: Any, separate: Any, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(way)
    launch, x = _shift(opencl), _numbers(opencl)
    launch(x, x)
    other: Any
    for other, title in ((_numbers(separate), r"Array of .*opencl:9"), (np.ones(8), "ndarray of cpu")):
        with pytest.raises(
            DeviceError, match=f"kernel 'shift' takes arrays of this device, not {title}.*to_device"
        ):
            launch(x, other)


def test_a_start_that_the_driver_refuses(opencl: Any, compiled: None) -> None:
    x = _numbers(opencl)
    launch = Launch(opencl, _SHIFT, "shift", 0, (np.int64(8),))  # one argument is missing
    start = direct.starter(opencl, launch._kernel(2), 8, 1, 1, 2, lambda *_: "left to Python", needed=None)
    assert start(x, x) == "left to Python"


def test_arrays_live_until_the_work_is_done(opencl: Any, separate: Any, compiled: None) -> None:
    run = _negative(opencl)
    opencl.synchronize()
    out = opencl.empty(TensorSpec((2, 4)))
    x = opencl.upload(np.ones((2, 4), np.float32))
    before, gone = sys.getrefcount(out), weakref.ref(x)
    for _ in range(5):
        run(x, out=out)
    del x
    assert gone() is not None
    opencl.synchronize()
    assert gone() is None
    assert sys.getrefcount(out) == before
    run = _negative(separate)  # there the driver keeps what it needs
    x = separate.upload(np.ones((2, 4), np.float32))
    run(x, out=separate.empty(TensorSpec((2, 4))))
    assert not separate.flight.started


@pytest.mark.parametrize("way", ["compiled", "uncompiled"])
def test_work_is_waited_for_when_much_was_started(
    way: str, opencl: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request.getfixturevalue(way)
    waited: list[int] = []
    monkeypatch.setattr(device_module, "_IN_FLIGHT_LAUNCHES", 4)
    run, x, out = (
        _negative(opencl),
        opencl.upload(np.ones((2, 4), np.float32)),
        opencl.empty(TensorSpec((2, 4))),
    )
    opencl.synchronize()
    wait = opencl.synchronize
    monkeypatch.setattr(opencl, "synchronize", lambda: (waited.append(1), wait()))
    for _ in range(10):
        run(x, out=out)
    assert len(waited) == 2  # at the fifth start, and the tenth


def test_a_function_that_is_dropped_frees_what_it_needs(opencl: Any, compiled: None) -> None:
    launch = _shift(opencl)
    _check(opencl, launch)
    opencl.synchronize()
    gone = weakref.ref(launch)
    del launch
    assert gone() is None  # without the garbage collector: tables of positions can be large
    run = _negative(opencl)
    gc.collect()  # what it needs is found through it alone
    x = opencl.upload(np.ones((2, 4), np.float32))
    np.testing.assert_array_equal(opencl.download(run(x, out=opencl.empty(TensorSpec((2, 4))))), -1)


def test_threads_share_a_function(opencl: Any, compiled: None) -> None:
    run, failures = _negative(opencl), []

    def work(number: int) -> None:
        x = opencl.upload(np.full((2, 4), number, np.float32))
        for _ in range(300):
            out = opencl.empty(TensorSpec((2, 4)))
            run(x, out=out)
            if not (opencl.download(out) == -number).all():
                failures.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_queue_that_keeps_times_is_used(separate: Any, compiled: None) -> None:
    run = _negative(separate)
    x, out = separate.upload(np.ones((2, 4), np.float32)), separate.empty(TensorSpec((2, 4)))
    run(x, out=out)
    begin = separate.record()
    assert separate.flight.queue == separate.queue.int_ptr
    run(x, out=out)
    assert separate.elapsed(begin, separate.record()) > 0
    np.testing.assert_array_equal(separate.download(out), -1)


def test_where_no_function_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    make = direct._compiled.__wrapped__
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(direct, "find_spec", lambda name: None)
    assert make() is None
    monkeypatch.undo()
    monkeypatch.setattr(direct, "_driver", lambda: None)
    assert make() is None
    monkeypatch.undo()
    monkeypatch.setattr(direct, "_offsets", lambda: None)
    assert make() is None
    monkeypatch.undo()
    monkeypatch.setattr(direct.sysconfig, "get_config_var", lambda name: 1)
    assert make() is None


def test_an_array_that_is_laid_out_in_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:  # with a dictionary, as all that has no slots
        __basicsize__ = 32

    monkeypatch.setattr(direct, "Array", Other)
    assert direct._offsets.__wrapped__() is None

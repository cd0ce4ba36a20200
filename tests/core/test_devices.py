from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import opyard as oy
from hosts import Devices, HostDevice, add_host
from opyard.driver import Device, shares_arrays, transfer
from opyard.errors import DeviceError, DeviceUnavailable
from opyard.reference import ReferenceBackend
from opyard.testing import NullBackend, NullDevice, add_null_backend


class Buffer:
    """A native array of a device that defines the required methods alone."""

    def __init__(self, contents: np.ndarray[Any, Any]) -> None:
        self.contents = contents
        self.shape, self.dtype = contents.shape, contents.dtype


class Minimal(oy.Device):
    def upload(self, array: np.ndarray[Any, Any]) -> Buffer:
        return Buffer(array.copy())

    def download(self, array: Any) -> np.ndarray[Any, Any]:
        return np.array(array.contents)


def minimal(name: str = "mini:0", memory: str = "mini") -> Minimal:
    return Minimal(name, kind="gpu", memory=memory, array_type=Buffer, description="the least that works")


def test_defaults_of_a_device_with_the_required_methods_alone() -> None:
    device = minimal()
    array = device.upload(np.arange(3))
    assert device.owns(array) and not device.owns(np.arange(3))
    assert (device.backend, device.capabilities) == ("mini", oy.Capabilities())
    empty = device.empty(oy.TensorSpec((2, 0), "int8"))
    assert (empty.shape, empty.dtype) == ((2, 0), np.int8)
    assert device.memory_info() is None
    assert device.record() is device.cache_bytes() is None
    device.synchronize()
    assert repr(device) == "<Device mini:0 (gpu): the least that works>"


def test_a_device_without_the_required_methods_cannot_be_made() -> None:
    with pytest.raises(TypeError, match=r"abstract.*download.*upload"):
        oy.Device("x:0", kind="cpu", memory="host", array_type=np.ndarray)  # type: ignore[abstract]


def test_transfers_go_through_the_host_unless_the_arrays_are_shared() -> None:
    source, target, other = minimal("mini:0", "a"), minimal("mini:1", "a"), minimal("mini:2", "b")
    array = source.upload(np.arange(3))
    assert transfer(array, source, source) is array
    assert shares_arrays(source, target) and transfer(array, source, target) is array
    copied = transfer(array, source, other)
    assert copied is not array and copied.contents.tolist() == [0, 1, 2]
    same_memory = HostDevice("host:0")
    same_memory.memory = "a"
    assert not shares_arrays(source, same_memory), "one memory, two array types"
    assert transfer(array, source, same_memory).tolist() == [0, 1, 2]


def test_backends_are_recognised_by_their_method() -> None:
    assert isinstance(ReferenceBackend(), oy.Backend) and not isinstance(object(), oy.Backend)


def test_the_reference_device() -> None:
    (device,) = ReferenceBackend().devices()
    array = np.ones(2)
    assert device.upload(array) is array and device.download(array) is array
    assert device.owns(np.float32(1)) and device.owns(array) and not device.owns([1.0])
    assert isinstance(device.download(np.float32(1)), np.ndarray)


def test_devices_come_in_an_order_that_does_not_depend_on_registration() -> None:
    names = []
    for order in (("zeta", "alpha"), ("alpha", "zeta")):
        registry = oy.standard_registry()
        for name in order:
            add_host(registry, name)
        add_null_backend(registry, NullDevice("null:1"), NullDevice("null:0"))
        registry.backend("mini", load=lambda: Devices(minimal()))
        names.append([device.name for device in registry.devices()])
    assert names[0] == names[1] == ["null:0", "null:1", "mini:0", "alpha:0", "zeta:0", "reference"]


def test_a_device_by_name() -> None:
    registry = oy.standard_registry()
    first, second = add_null_backend(registry, NullDevice("null:0"), NullDevice("null:1"))
    assert registry.device("null") is first and registry.device("null:1") is second
    assert registry.device("reference").name == "reference"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "null:7",
            "there is no device 'null:7': backend 'null' has null:0. Devices here: null:0, reference. `opyard devices`",
        ),
        (
            "nul",
            "there is no device 'nul': there is no backend called 'nul'. Did you mean null.*Known: idle, null, reference",
        ),
        ("idle:0", "there is no device 'idle:0': install a driver Devices here: null:0, reference"),
    ],
)
def test_a_device_that_does_not_exist(name: str, message: str) -> None:
    registry = oy.standard_registry()
    add_null_backend(registry)
    registry.backend("idle", load=lambda: NullBackend(reason="install a driver"))
    with pytest.raises(DeviceUnavailable, match=message):
        registry.device(name)


@pytest.mark.parametrize(
    ("load", "state", "reason"),
    [
        (lambda: NullBackend(reason="install it"), "inactive", "install it"),
        (NullBackend, "inactive", "backend 'wrong' lists no device on this machine"),
        ("a_module_nobody_has:B", "failed", "ModuleNotFoundError: No module named 'a_module_nobody_has'"),
        (lambda: 1 / 0, "failed", "ZeroDivisionError: division by zero"),
        (object, "failed", "AttributeError: 'object' object has no attribute 'devices'"),
        (
            lambda: NullBackend(NullDevice("null:0")),
            "failed",
            "RegistryError: backend 'wrong' lists device 0 as 'null:0'; its name must begin with 'wrong'.",
        ),
    ],
)
def test_what_becomes_of_backends_without_devices(load: Any, state: str, reason: str) -> None:
    registry = oy.standard_registry()
    registry.backend("wrong", load=load)
    status = registry.open("wrong")
    assert (status.state, status.reason, status.devices) == (state, reason, ())
    assert [device.name for device in registry.devices()] == ["reference"]


def test_a_driver_that_exits_does_not_end_the_host_but_the_user_may() -> None:
    def leave(error: BaseException) -> Any:
        raise error

    registry = oy.standard_registry()
    registry.backend("leaving", load=lambda: leave(SystemExit(0)))
    registry.backend("stopped", load=lambda: leave(KeyboardInterrupt()))
    assert registry.open("leaving").reason == "SystemExit: 0"
    with pytest.raises(KeyboardInterrupt):
        registry.devices()


def test_a_backend_is_opened_once() -> None:
    registry, opened = oy.standard_registry(), []
    registry.backend("null", load=lambda: opened.append(1) or NullBackend(NullDevice("null:0")))  # type: ignore[func-returns-value]
    assert registry.device("null") is registry.devices()[0] and registry.open("null") is registry.open("null")
    assert opened == [1]


def test_a_backend_that_was_asked_for_before_it_was_registered() -> None:
    registry = oy.standard_registry()
    assert registry.open("null").reason.startswith("there is no backend called 'null'.")
    add_null_backend(registry)
    assert registry.open("null").state == "ok"


def test_whose_array_it_is() -> None:
    registry = oy.standard_registry()
    first, second = add_null_backend(registry, NullDevice("null:0"), NullDevice("null:1"))
    assert registry.device_of(second.upload(np.ones(1))) is second
    assert registry.device_of(first.upload(np.ones(1))) is first
    assert registry.device_of(NullDevice("null:9").upload(np.ones(1))) is None
    assert registry.device_of([1.0]) is None
    reference = registry.device("reference")
    assert registry.device_of(np.ones(1)) is reference and registry.device_of(np.float32(1)) is reference
    assert registry.device_of(np.ma.masked_array([1.0])) is reference, "a subclass counts"
    assert registry.device_of(np.ones(1)) is not add_host(registry, "toy")
    assert registry.device_of(np.ones(1)).name == "toy:0"  # type: ignore[union-attr]


def test_to_device_and_back() -> None:
    registry = oy.standard_registry()
    first, second = add_null_backend(registry, NullDevice("null:0"), NullDevice("null:1"))
    with oy.using(registry=registry):
        host = np.arange(3.0)
        there = oy.to_device(host, "null:1")
        assert second.owns(there) and oy.to_device(there, second) is there
        assert first.owns(oy.to_device(there, first))
        assert oy.to_numpy(there).tolist() == [0.0, 1.0, 2.0]
        assert oy.to_device(host, "reference") is host and oy.to_numpy(host) is host
        assert oy.devices() == registry.devices()


def test_to_device_of_what_is_no_array_or_of_no_device() -> None:
    with oy.using(registry=oy.standard_registry()):
        with pytest.raises(
            DeviceError, match="no array of any device here but list; convert it to a NumPy array first"
        ):
            oy.to_device([1.0], "reference")
        with (
            oy.Graph() as graph,
            pytest.raises(DeviceError, match="but a value of a graph; fetch it with a Session"),
        ):
            oy.to_numpy(graph.input("x", oy.TensorSpec((2,), "float32")))
        with pytest.raises(DeviceUnavailable, match=r"there is no device 'cud:0'.*no backend called 'cud'"):
            oy.to_device(np.ones(1), "cud:0")


def test_a_device_may_refuse_arrays_of_its_own_kind() -> None:
    class Bound(NullDevice):
        def reads_arrays_of(self, other: Device) -> bool:
            return False

    free, other = NullDevice("null:0", memory="shared"), NullDevice("null:1", memory="shared")
    bound = Bound("null:2", memory="shared")
    assert shares_arrays(free, other)
    assert shares_arrays(bound, bound)
    assert not shares_arrays(free, bound)
    assert not shares_arrays(bound, free)


def test_a_clock_of_a_device() -> None:
    seconds = iter([1.0, 3.5])
    device = NullDevice("null:0", clock=lambda: next(seconds))
    assert device.elapsed(device.record(), device.record()) == 2.5


def test_marks_without_a_way_to_read_them() -> None:
    device = minimal()
    text = (
        r"mini:0 cannot tell the time between two marks: a device that overrides record\(\) overrides elapsed"
    )
    with pytest.raises(DeviceError, match=text):
        device.elapsed(0.0, 1.0)

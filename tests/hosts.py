"""Backends for tests that work on NumPy arrays, so that eager calls on ordinary arrays meet several kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import opyard as oy
from opyard.registry import Registry


class HostDevice(oy.Device):
    """A device on NumPy arrays; ``capabilities`` make it fast or slow in the eyes of the roofline."""

    def __init__(self, name: str, capabilities: oy.Capabilities | None = None) -> None:
        super().__init__(
            name,
            kind="cpu",
            memory="host",
            array_type=np.ndarray,
            capabilities=capabilities or oy.Capabilities(),
        )

    def owns(self, array: Any) -> bool:
        return isinstance(array, (np.ndarray, np.generic))

    def upload(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return array

    def download(self, array: Any) -> np.ndarray[Any, Any]:
        return np.asarray(array)


class Devices:
    """A backend with the devices that it is given."""

    def __init__(self, *devices: oy.Device) -> None:
        self._devices = devices

    def devices(self) -> Sequence[oy.Device]:
        return self._devices


def add_host(
    registry: Registry, name: str = "toy", capabilities: oy.Capabilities | None = None
) -> HostDevice:
    """Registers a backend on NumPy arrays with one device."""
    device = HostDevice(f"{name}:0", capabilities)
    registry.backend(name, load=lambda: Devices(device), arrays=("numpy:ndarray", "numpy:generic"))
    return device


def constant(number: float) -> Callable[..., Any]:
    """A kernel that is recognised by its result."""
    return lambda *arrays, **attributes: np.full(arrays[0].shape, number, np.float32)


def raising(error: BaseException) -> Callable[..., Any]:
    def kernel(*arrays: Any, **attributes: Any) -> Any:
        raise error

    return kernel


class Counter:
    """A kernel that runs the reference, counts how often it is prepared and run, and raises when told so.

    ``result``, where given, changes what it returns.
    """

    def __init__(
        self,
        registry: Registry,
        op: str,
        *,
        backend: str = "toy",
        name: str = "counter",
        result: Callable[[Any], Any] | None = None,
        **facts: Any,
    ) -> None:
        self.prepared = self.run = 0
        self.error: BaseException | None = None
        self.result = result
        registry.kernel(op, backend=backend, name=name, prepare=self.prepare, **facts)

    def prepare(self, call: oy.Call, device: oy.Device) -> Callable[..., Any]:
        self.prepared += 1

        def run(*arrays: Any) -> Any:
            self.run += 1
            if self.error is not None:
                raise self.error
            found = call.reference(*(None if a is None else device.download(a) for a in arrays))
            made = tuple(device.upload(np.asarray(array)) for array in found)
            whole = made if call.is_tuple else made[0]
            return whole if self.result is None else self.result(whole)

        return run

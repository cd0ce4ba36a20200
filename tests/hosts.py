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

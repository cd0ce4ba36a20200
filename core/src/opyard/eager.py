"""Functions on the default registry: what a program calls beside the ops themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from . import runtime
from .device import Device, transfer
from .errors import DeviceError
from .graph import Value
from .plugin import Plugin
from .registry import Registry
from .selection import active_policy

Function = TypeVar("Function", bound=Callable[..., Any])


def default_registry() -> Registry:
    """The registry that the eager functions use here: that of ``using(registry=...)``, else the one with all plugins."""
    return active_policy().registry or runtime.registry()


def devices() -> tuple[Device, ...]:
    """All devices of this machine."""
    return default_registry().devices()


def plugins() -> list[Plugin]:
    """All installed plugins with their states and reasons."""
    return runtime.plugins().report()


def failures() -> Mapping[str, str]:
    """Kernels that raised and are not used again in this process, with the reasons."""
    return default_registry().failures


def refresh() -> None:
    """Discovers plugins anew at the next use, as after installing one in a running program."""
    runtime.reset()


def register(op: Any) -> Any:
    """Registers an op that the program itself defines, so that kernels for it can be listed and pinned by name."""
    return default_registry().op(op)


def kernel(
    op: str | Any, *, backend: str, name: str | None = None, **facts: Any
) -> Callable[[Function], Function]:
    """Registers the decorated function as a kernel, in the simple form; ``facts`` are those of Kernel.

    @kernel("acme.swish", backend="cpu")
    def swish_fast(x): ...
    """

    def declare(function: Function) -> Function:
        target = default_registry()
        if not isinstance(op, str):
            target.op(op)
        target.kernel(op, backend=backend, name=name or function.__name__, load=function, **facts)
        return function

    return declare


def to_device(array: Any, device: str | Device) -> Any:
    """``array`` as a native array of the device; not copied where it lives there already.

    Raises DeviceUnavailable for an unknown device and DeviceError for an array that no device knows.
    """
    registry = default_registry()
    target = registry.device(device) if isinstance(device, str) else device
    source = _owner(array)
    return transfer(array, source, target)


def to_numpy(array: Any) -> np.ndarray[Any, Any]:
    """``array`` of any device as a NumPy array, after all work on it is done."""
    return _owner(array).download(array)


def _owner(array: Any) -> Device:
    owner = default_registry().device_of(array)
    if owner is None:
        what = (
            "a value of a graph; fetch it with a Session"
            if isinstance(array, Value)
            else f"{type(array).__name__}; convert it to a NumPy array first"
        )
        raise DeviceError(f"this is no array of any device here but {what}.")
    return owner

"""Backends and devices: what a driver plugin gives.

A backend needs ``devices()``; a device needs ``upload`` and ``download``. Everything else has a default here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from .errors import DeviceError, SpecError
from .spec import TensorSpec

HOST = "host"
"""Name of the address space of NumPy arrays, and of the processor that runs Python."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a device can do. The numbers are estimates until they are measured; placement computes with them.

    features            names that kernels may require, such as "fp64" or "fp16"
    flops               peak float32 operations per second
    bandwidth           bytes per second of the device's own memory
    launch_seconds      host time to start one kernel
    transfer_bandwidth  bytes per second between this device and the host
    transfer_seconds    fixed time of one copy between this device and the host
    wrap_seconds        time to take over an array of the same address space without a copy
    """

    features: frozenset[str] = frozenset()
    flops: float = 5e10
    bandwidth: float = 1e10
    launch_seconds: float = 1e-6
    transfer_bandwidth: float = 1e10
    transfer_seconds: float = 1e-5
    wrap_seconds: float = 3e-6


class Device(ABC):
    """A device that a backend found.

    name         backend name, colon, number: "opencl:0"
    kind         "cpu", "gpu" or "accelerator"
    memory       name of the address space its arrays live in; equal names need no copy
    array_type   class of its native arrays, which have ``shape`` and ``dtype``
    description  one line for people: vendor, model, driver
    """

    def __init__(
        self,
        name: str,
        *,
        kind: str,
        memory: str,
        array_type: type,
        description: str = "",
        capabilities: Capabilities | None = None,
    ) -> None:
        self.name = name
        self.backend = name.partition(":")[0]
        self.kind = kind
        self.memory = memory
        self.array_type = array_type
        self.description = description
        self.capabilities = capabilities or Capabilities()

    def __repr__(self) -> str:
        return f"<Device {self.name} ({self.kind}): {self.description}>"

    @property
    def processor(self) -> str:
        """What does the work: devices with equal names take turns, others can work at the same time.

        The default is "host" for devices of kind "cpu", whose kernels hold the caller, and the device's own name for others,
        whose kernels run while Python goes on. Override it where that is not so.
        """
        return HOST if self.kind == "cpu" else self.name

    @abstractmethod
    def upload(self, array: np.ndarray[Any, Any]) -> Any:
        """A native array with the contents of a NumPy array; may share its memory where ``memory`` is "host"."""

    @abstractmethod
    def download(self, array: Any) -> np.ndarray[Any, Any]:
        """A NumPy array with the contents of a native array, after all work on it is done."""

    def owns(self, array: Any) -> bool:
        """Whether ``array`` is a native array of this very device. Override it when one class serves several devices."""
        return isinstance(array, self.array_type)

    def reads_arrays_of(self, other: Device) -> bool:
        """Whether arrays of another device with the same ``memory`` and ``array_type`` can be used as they are.

        Override it where arrays are bound to more than an address space, such as an OpenCL context.
        """
        return True

    def overlaps(self, array: Any, other: Any) -> bool:
        """Whether two native arrays lie in the same memory, as a view does; the default knows views of NumPy's arrays alone.

        Override it where kernels give views, so that profiles count their memory once.
        """
        both = isinstance(array, np.ndarray) and isinstance(other, np.ndarray)
        return array is other or (both and np.may_share_memory(array, other))

    def empty(self, spec: TensorSpec) -> Any:
        """A native array of unspecified contents."""
        return self.upload(np.empty(spec.shape, spec.dtype))

    def copy_from(self, array: Any, source: Device) -> Any:
        """A native array with the contents of another device's array. The default goes through the host."""
        return self.upload(source.download(array))

    def on_threads(self, threads: int) -> AbstractContextManager[None]:
        """Entered around what a session does that may use so many threads; ``settings.num_threads`` says that within, too.

        Override it where libraries have a number of threads of their own.
        """
        return nullcontext()

    def by_size(self, least: int, small: Callable[..., Any], large: Callable[..., Any]) -> Callable[..., Any]:
        """A function that calls ``large`` where an array has ``least`` elements or more, else ``small``: eager calls use it."""

        def choose(*arrays: Any) -> Any:
            return (large if any(getattr(a, "size", 0) >= least for a in arrays) else small)(*arrays)

        return choose

    def synchronize(self) -> None:
        """Waits for all work that was started on this device. The default suits devices that work synchronously."""

    def record(self) -> Any:
        """A mark behind all work that was started so far, on the device's own clock; None where it has no such clock.

        Times are taken by one thread while no other starts work on the device.
        """
        return None

    def elapsed(self, begin: Any, end: Any) -> float:
        """Seconds between two marks, as the device's clock says; waits until the second is reached.

        A device whose ``record`` gives marks overrides both.
        """
        raise DeviceError(
            f"{self.name} cannot tell the time between two marks: a device that overrides record() overrides elapsed(begin, end), too."
        )

    def cache_bytes(self) -> int | None:
        """Size of the cache before the device's memory, or None where the driver does not say. CPUs need none: the system tells."""
        return None

    def memory_info(self) -> tuple[int, int] | None:
        """Free and total bytes, or None where the driver does not say."""
        return None


@runtime_checkable
class Backend(Protocol):
    """A plugin's driver."""

    def devices(self) -> Sequence[Device]:
        """The devices of this machine, in a stable order.

        Raises DeviceUnavailable, with a sentence that says what to install, when there are none.
        """


def plain_array(array: Any) -> Any:
    """A NumPy array of any subclass as an ordinary one, without a copy; everything else as it is.

    Subclasses change what operators mean (a matrix has always two dimensions), and kernels expect the ordinary meaning.
    Raises SpecError for a masked array, whose mask no op knows.
    """
    if not isinstance(array, np.ndarray) or type(array) is np.ndarray:
        return array
    if isinstance(array, np.ma.MaskedArray):
        raise SpecError("the mask of a masked array would be ignored; fill it first: x.filled(0).")
    return np.asarray(array)


def shares_arrays(source: Device, target: Device) -> bool:
    """Whether ``target`` can use arrays of ``source`` as they are."""
    if source is target:
        return True
    same = source.memory == target.memory and source.array_type is target.array_type
    return same and target.reads_arrays_of(source) and source.reads_arrays_of(target)


def transfer(array: Any, source: Device, target: Device) -> Any:
    """``array`` of ``source`` as an array of ``target``; no copy where both share an address space and an array type."""
    return array if shares_arrays(source, target) else target.copy_from(array, source)

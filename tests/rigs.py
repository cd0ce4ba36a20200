"""Devices for tests of placement, plans and sessions that are meaner than real ones.

``vector``  host memory, NumPy arrays: writes into given arrays, gives views where NumPy does
``lazy``    host memory, an array type of its own: shares memory with NumPy, computes only when somebody looks
``null``    memory and array type of its own (opyard.testing)
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

import opyard as oy
from hosts import Devices, add_host
from opyard.driver import HOST, Capabilities, Device
from opyard.testing import NullArray, NullDevice, add_null_backend, prepare_null

ARITHMETIC = ("add", "subtract", "multiply", "maximum", "negative", "abs")
VIEWS = ("permute_dims", "flip", "slice", "split", "expand_dims", "squeeze")


class LazyArray:
    """An array over host memory whose contents are right only after its device was synchronized."""

    def __init__(self, contents: np.ndarray[Any, Any]) -> None:
        self.contents = contents
        self.shape = contents.shape
        self.dtype = contents.dtype


class LazyDevice(Device):
    """Queues all work and does it as late as it may."""

    def __init__(self, name: str = "lazy:0") -> None:
        super().__init__(name, kind="cpu", memory=HOST, array_type=LazyArray, capabilities=Capabilities())
        self._queue: list[Callable[[], None]] = []
        self._lock = threading.RLock()

    def upload(self, array: np.ndarray[Any, Any]) -> LazyArray:
        """Shares the memory."""
        return LazyArray(array)

    def download(self, array: Any) -> np.ndarray[Any, Any]:
        """The memory itself, after all work."""
        self.synchronize()
        return np.asarray(array.contents)

    def later(self, work: Callable[[], None]) -> None:
        """Queues work."""
        with self._lock:
            self._queue.append(work)

    def synchronize(self) -> None:
        """Does all the work."""
        with self._lock:
            while self._queue:
                self._queue.pop(0)()


def prepare_vector(call: Any, device: Device) -> Callable[..., Any]:
    """Writes into ``out`` where it is given; overwrites it with rubbish first, as a kernel may."""

    def run(*arrays: Any, out: Any = None) -> Any:
        result = call.reference(*arrays)[0]
        if out is None:
            return result
        assert not any(np.may_share_memory(out, a) for a in arrays if isinstance(a, np.ndarray))
        out.fill(-77)
        np.copyto(out, result)
        return out

    return run


def prepare_inplace(call: Any, device: Device) -> Callable[..., Any]:
    """As ``prepare_vector``, but ``out`` may be one of the arrays."""

    def run(*arrays: Any, out: Any = None) -> Any:
        result = call.reference(*arrays)[0]
        if out is None:
            return result
        assert not any(np.may_share_memory(out, a) for a in arrays if a is not out)
        np.copyto(out, result)
        return out

    return run


def prepare_view(call: Any, device: Device) -> Callable[..., Any]:
    """The reference, which gives views of its inputs."""
    return lambda *arrays: call.reference(*arrays) if call.is_tuple else call.reference(*arrays)[0]


def prepare_lazy(call: Any, device: Any) -> Callable[..., Any]:
    """Queues the reference."""

    def run(*arrays: Any, out: Any = None) -> Any:
        target = device.empty(call.output) if out is None else out
        device.later(
            lambda: np.copyto(target.contents, call.reference(*[a and a.contents for a in arrays])[0])
        )
        return target

    return run


def prepare_lazy_view(call: Any, device: Any) -> Callable[..., Any]:
    """Views of the memory, whose contents may come later."""

    def run(array: Any) -> Any:
        views = tuple(LazyArray(view) for view in call.reference(array.contents))
        return views if call.is_tuple else views[0]

    return run


def prepare_null_out(call: Any, device: Any) -> Callable[..., Any]:
    """Writes into a null array where one is given."""

    def run(*arrays: Any, out: NullArray | None = None) -> Any:
        host = [None if a is None else device.download(a) for a in arrays]
        result = call.reference(*host)[0]
        if out is None:
            return device.upload(result)
        np.copyto(out._contents, result)
        return out

    return run


def rig_registry(
    *,
    null_devices: int = 2,
    inplace: bool = False,
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda prepare: prepare,
) -> oy.Registry:
    """The standard ops on the reference and on all devices of this module. ``wrap`` changes how kernels are prepared.

    With ``inplace`` kernels of arithmetic may be given an input as the array to write into.
    """
    registry = oy.standard_registry()
    add_host(registry, "vector")
    lazy = LazyDevice()
    registry.backend("lazy", load=lambda: Devices(lazy), arrays=(f"{__name__}:LazyArray",))
    add_null_backend(registry, *(NullDevice(f"null:{number}") for number in range(null_devices)))
    for op in ARITHMETIC:
        facts: dict[str, Any] = {"name": "out", "out": True, "inplace": inplace}
        vector = wrap(prepare_inplace if inplace else prepare_vector)
        registry.kernel(op, backend="vector", prepare=vector, **facts)
        registry.kernel(op, backend="lazy", prepare=wrap(prepare_lazy), **facts)
        registry.kernel(op, backend="null", prepare=wrap(prepare_null_out), **facts)
        registry.kernel(op, backend="null", name="null", prepare=wrap(prepare_null))
    for op in VIEWS:
        registry.kernel(op, backend="vector", name="view", prepare=wrap(prepare_view))
        registry.kernel(op, backend="lazy", name="view", prepare=wrap(prepare_lazy_view))
        registry.kernel(op, backend="null", name="null", prepare=wrap(prepare_null))
    for op in ("reshape", "concat"):
        registry.kernel(op, backend="vector", name="view", prepare=wrap(prepare_view))
        registry.kernel(op, backend="lazy", name="out", prepare=wrap(prepare_lazy), out=True)
        registry.kernel(op, backend="null", name="null", prepare=wrap(prepare_null))
    return registry

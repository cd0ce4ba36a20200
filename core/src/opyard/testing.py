"""For tests without hardware: the ``null`` device, which has a memory and an array type of its own and does as it is told.

Also ``check_kernel``, which compares one kernel with the reference on the cases of its op.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .costs import Estimate, Roofline
from .driver import Capabilities, Device
from .errors import DeviceUnavailable, KernelError
from .kernels import Kernel, Work
from .operation import Call
from .registry import Registry
from .spec import TensorSpec


class NullArray:
    """An array of a null device. It is no NumPy array and does not turn into one by itself."""

    def __init__(self, contents: np.ndarray[Any, Any], device: str, memory: str) -> None:
        self._contents = contents
        self.device = device
        self.memory = memory
        self.shape = contents.shape
        self.dtype = contents.dtype

    def __repr__(self) -> str:
        return f"NullArray({TensorSpec.of(self)!r} on {self.device})"


class NullDevice(Device):
    """A device whose memory is its own, unless ``memory`` names that of another; ``log`` records what was asked of it.

    ``clock`` gives seconds and becomes the device's own clock; without it there is none.
    """

    def __init__(
        self,
        name: str,
        *,
        memory: str | None = None,
        capabilities: Capabilities | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(
            name,
            kind="accelerator",
            memory=memory or name,
            array_type=NullArray,
            description="a device for tests",
            capabilities=capabilities,
        )
        self.log: list[str] = []
        self._clock = clock

    def owns(self, array: Any) -> bool:
        """Whether the array lives on this very device."""
        return isinstance(array, NullArray) and array.device == self.name

    def upload(self, array: np.ndarray[Any, Any]) -> NullArray:
        """A copy."""
        self.log.append(f"upload {TensorSpec.of(array)!r}")
        return NullArray(np.array(array), self.name, self.memory)

    def download(self, array: Any) -> np.ndarray[Any, Any]:
        """A copy. Raises TypeError for an array in another memory."""
        if not isinstance(array, NullArray) or array.memory != self.memory:
            raise TypeError(f"{self.name} was given {array!r} to download")
        self.log.append(f"download {TensorSpec.of(array)!r}")
        return np.array(array._contents)

    def record(self) -> float | None:
        """What the clock shows; None without one."""
        return None if self._clock is None else self._clock()

    def elapsed(self, begin: Any, end: Any) -> float:
        """Seconds between two marks."""
        return float(end - begin)


class NullBackend:
    """A backend with the null devices that it is given, or with none and the reason."""

    def __init__(self, *devices: Device, reason: str = "") -> None:
        self._devices = devices
        self._reason = reason

    def devices(self) -> Sequence[Device]:
        """The devices given. Raises DeviceUnavailable with the reason given."""
        if self._reason:
            raise DeviceUnavailable(self._reason)
        return self._devices


def add_null_backend(
    registry: Registry, *devices: NullDevice, ops: Iterable[str] = (), **facts: Any
) -> tuple[NullDevice, ...]:
    """Registers a backend called like the first device, with a kernel for each op that runs its reference there."""
    devices = devices or (NullDevice("null:0"),)
    name = devices[0].backend
    backend = NullBackend(*devices)
    registry.backend(name, load=lambda: backend, arrays=(f"{NullArray.__module__}:{NullArray.__qualname__}",))
    for op in ops:
        registry.kernel(op, backend=name, name="null", prepare=prepare_null, **facts)
    return devices


def prepare_null(call: Call, device: Device) -> Any:
    """Prepares a kernel that runs the reference on null arrays."""

    def run(*arrays: Any) -> Any:
        host = [None if a is None else device.download(a) for a in arrays]
        results = tuple(device.upload(r) for r in call.reference(*host))
        return results if call.is_tuple else results[0]

    return run


class ScriptedCosts:
    """Costs by table: seconds for each "backend/kernel" or "op backend/kernel", and for each pair of devices."""

    def __init__(
        self,
        kernels: Mapping[str, float] | None = None,
        transfers: Mapping[tuple[str, str], float] | None = None,
    ) -> None:
        self.kernels = dict(kernels or {})
        self.transfers = dict(transfers or {})
        self._prior = Roofline()

    def kernel_seconds(self, kernel: Kernel, work: Work, device: Device) -> Estimate:
        """The number scripted for the kernel, else the roofline."""
        for key in (f"{work.title} {kernel.id}", kernel.id):
            if key in self.kernels:
                return Estimate(self.kernels[key], "scripted")
        return self._prior.kernel_seconds(kernel, work, device)

    def transfer_seconds(self, source: Device, target: Device, nbytes: float) -> float:
        """The number scripted for the pair, else the roofline."""
        scripted = self.transfers.get((source.name, target.name))
        return self._prior.transfer_seconds(source, target, nbytes) if scripted is None else scripted


def violation(
    work: Work, arrays: Sequence[Any], results: Sequence[Any], kernel: Kernel | None = None
) -> str | None:
    """None if NumPy arrays are what some work must give for NumPy arrays, within its tolerance, else how they are not.

    ``kernel`` is the one that gave them, if it is one with ``magnitudes`` of its own.
    """
    expected = work.reference(*arrays)
    if len(results) != len(expected):
        return f"there are {len(results)} outputs, the reference has {len(expected)}"
    magnitudes = kernel.magnitudes_of(work, arrays) if kernel else work.magnitudes(*arrays)
    pairs = zip(results, expected, magnitudes, strict=True)
    for number, (found, wanted, magnitude) in enumerate(pairs):
        difference = work.tolerance.violation(np.asarray(found), wanted, magnitude)
        if difference is not None:
            return f"output {number}: {difference}"
    return None


def check_kernel(kernel: Kernel, device: Device, registry: Registry, *, seed: int = 0) -> int:
    """Runs a kernel on every case of its op that it accepts, and compares with the reference.

    Gives the number of cases compared. Raises KernelError naming the case, the place and the difference, and for a device
    of another backend.
    """
    if device.backend != kernel.backend:
        raise KernelError(
            f"kernel {kernel.id} runs on devices of {kernel.backend!r}, not on {device.name!r}; pass registry.device({kernel.backend!r})."
        )
    op, compared = registry.get_op(kernel.op), 0
    for case in op.cases():
        call = op.call(*(draw.spec if draw else None for draw in case.inputs), **case.attributes)
        if kernel.refusal(call, device) is not None:
            continue
        arrays = case.arrays(seed)
        native = [None if a is None else device.upload(a.copy()) for a in arrays]
        result = kernel.bind(call, device)(*native)
        results = result if call.is_tuple else (result,)
        difference = violation(call, arrays, [device.download(found) for found in results], kernel)
        if difference is not None:
            raise KernelError(f"kernel {kernel.id} of {op.name} is wrong on case {case.id}: {difference}.")
        compared += 1
    return compared

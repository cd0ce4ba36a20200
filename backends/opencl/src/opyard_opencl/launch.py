"""Launch: one kernel of a program with its sizes bound, to be started many times and from several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
import pyopencl as cl

from opyard.errors import DeviceError, KernelError
from opyard.operation import Call
from opyard.spec import TensorSpec

from . import direct
from .array import Array
from .device import OpenCLDevice, failure, out_of_memory

Prepare = Callable[..., Callable[..., Any]]

_enqueue = cl.enqueue_nd_range_kernel
_GROUP = 64  # work items of a group on devices other than CPUs


class Launch:
    """A kernel and the values of its last parameters.

    The kernel's first parameters are buffers, given with each call; ``bound`` are those behind them: NumPy scalars,
    Arrays and buffers. ``items`` is the number of work items; a kernel must do nothing for a higher number than
    its sizes call for, because groups are filled up.
    """

    def __init__(
        self,
        device: OpenCLDevice,
        source: str,
        name: str,
        items: int,
        bound: tuple[Any, ...],
        options: tuple[str, ...] = (),
    ) -> None:
        self.device = device
        self.name = name
        self.program = device.build(source, options)
        self.bound = tuple(value.buffer if isinstance(value, Array) else value for value in bound)
        self._tables = tuple(value for value in bound if isinstance(value, Array))  # keeps their memory
        # A group of one: CPU implementations compile a kernel anew for every size of group
        self.local = (1,) if device.shares_memory else (_GROUP,)
        self.size = (items if device.shares_memory else -(-items // _GROUP) * _GROUP,)
        self._local = threading.local()
        self._start: Callable[..., Any] | None = None

    def __call__(self, *arrays: Array) -> None:
        """Starts the kernel on the buffers of ``arrays``."""
        start = self._start
        if start is not None and start(*arrays) is not None:
            return
        device = self.device
        if device.lost:
            device.check()
        try:
            kernel = self._local.kernel
        except AttributeError:
            kernel = self._local.kernel = self._kernel(len(arrays))
            self._weight = device.weight(arrays)
            if start is None:
                self._start = self.starter(len(arrays), self._weight, _refuse)
        try:
            for position, array in enumerate(arrays):
                if array.device is not device:  # some drivers would read whatever the handle points to
                    raise DeviceError(
                        f"{device.name}: kernel {self.name!r} takes arrays of this device, not {type(array).__name__} of {array.device}; opyard.to_device(x, {device.name!r}) copies one."
                    )
                kernel.set_arg(position, array.buffer)
            _enqueue(device.queue, kernel, self.size, self.local)
        except cl.Error as error:
            raise failure(f"{device.name}: starting kernel {self.name!r}", error) from error
        device.started(self._weight, self, arrays)

    def starter(
        self, specs: Sequence[TensorSpec] | int, weight: int, otherwise: Callable[..., Any]
    ) -> Callable[..., Any] | None:
        """The compiled function that starts the kernel, see direct.py; None where there is none."""
        if not direct.available():
            return None
        kernel = self._kernel(specs if isinstance(specs, int) else len(specs))
        sizes = *self.size, *self.local
        return direct.starter(self.device, kernel, *sizes, weight, specs, otherwise, needed=self._tables)

    def _kernel(self, first: int) -> Any:
        # One for each thread: clSetKernelArg is the one call of OpenCL that threads may not share
        try:
            kernel = cl.Kernel(self.program, self.name)
            for position, value in enumerate(self.bound, first):
                kernel.set_arg(position, value)
        except cl.Error as error:
            raise failure(f"{self.device.name}: preparing kernel {self.name!r}", error) from error
        return kernel


def _refuse(*_: Array) -> None:
    """What the compiled function of a launch calls where it cannot start: the launch then starts by the binding."""


def given(arrays: tuple[Array | None, ...]) -> Sequence[Array]:
    """The arrays of the inputs that there are."""
    found: Sequence[Any] = arrays if None not in arrays else [array for array in arrays if array is not None]
    return found


@dataclass(frozen=True, slots=True)
class Single:
    """A kernel of one launch: on the inputs that are given, in their order, and the output."""

    device: OpenCLDevice
    output: TensorSpec
    launch: Launch | None

    def __call__(self, *arrays: Array | None, out: Array | None = None) -> Array:
        """Runs the kernel; without a launch there is nothing to compute."""
        result = self.device.empty(self.output) if out is None else out
        if self.launch is not None:
            self.launch(*given(arrays), result)
        return result

    def compiled(
        self, inputs: Sequence[TensorSpec | None], otherwise: Callable[..., Any]
    ) -> Callable[..., Any]:
        """The same for arrays of these specs and a given ``out`` alone, in one call; ``otherwise`` gets all else."""
        specs = [*(spec for spec in inputs if spec is not None), self.output]
        if self.launch is None or len(specs) <= len(inputs):
            return otherwise
        return self.launch.starter(specs, self.device.weight(specs), otherwise) or otherwise


def exact(prepare: Prepare) -> Prepare:
    """Makes the functions that ``prepare`` gives raise KernelError for arrays of other shapes or dtypes than the call's.

    A kernel reads and writes as much memory as it was prepared for, whatever the arrays have. Preparing raises DeviceError
    where the memory is too small for the arrays.
    """

    @wraps(prepare)
    def prepare_exact(call: Call, device: OpenCLDevice, *constants: Any) -> Callable[..., Any]:
        try:
            run = prepare(call, device, *constants)
        except (
            MemoryError
        ) as error:  # of NumPy, which knows where elements lie, and is asked with arrays of full size
            raise out_of_memory(f"{device.name}: preparing {call}", str(error)) from error
        wanted = tuple(spec and (spec.shape, spec.dtype) for spec in call.inputs)
        result = (call.outputs[0].shape, call.outputs[0].dtype)

        def checked(*arrays: Any, out: Any = None) -> Any:
            found = tuple([None if a is None else (a.shape, a.dtype) for a in arrays])
            if found != wanted and found + (None,) * (len(wanted) - len(found)) != wanted:
                raise _mismatch(call, "inputs are", arrays)
            if out is None:
                return run(*arrays)
            if (out.shape, out.dtype) != result:
                raise _mismatch(call, "out is", (out,))
            return run(*arrays, out=out)

        return run.compiled(call.inputs, checked) if isinstance(run, Single) else checked

    return prepare_exact


def _mismatch(call: Call, what: str, arrays: tuple[Any, ...]) -> KernelError:
    specs = ", ".join("None" if a is None else repr(TensorSpec.of(a)) for a in arrays)
    return KernelError(
        f"this kernel was prepared for {call}, and its {what} {specs or 'missing'}; call the op itself, or resolve it for these arrays."
    )


def partition(device: OpenCLDevice, count: int, grain: int) -> tuple[int, int]:
    """Work items for ``count`` steps, and the steps of each: few long ones on CPUs, one step for each item elsewhere.

    ``grain`` is the least number of steps that is worth an item on a CPU.
    """
    if not device.shares_memory or device.quirks.single_steps:
        return count, 1
    step = max(grain, -(-count // (8 * device.workers)))
    return -(-count // step), step


def table(device: OpenCLDevice, values: Any) -> Array:
    """A small constant array of int64 in device memory."""
    return device.upload(np.array(values, np.int64).reshape(-1) if np.size(values) else np.zeros(1, np.int64))

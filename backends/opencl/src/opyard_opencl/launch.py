"""Launch: one kernel of a program with its sizes bound, to be started many times and from several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import pyopencl as cl

from opyard.errors import KernelError
from opyard.operation import Call
from opyard.spec import TensorSpec

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

    def __call__(self, *arrays: Array, scratch: Any = None) -> None:
        """Starts the kernel on the buffers of ``arrays``, then ``scratch`` if there is one."""
        try:
            kernel = self._local.kernel
        except AttributeError:
            kernel = self._kernel(len(arrays) + (scratch is not None))
        device = self.device
        try:
            position = 0
            for array in arrays:
                kernel.set_arg(position, array.buffer)
                position += 1
            if scratch is not None:
                kernel.set_arg(position, scratch)
            _enqueue(device.queue, kernel, self.size, self.local)
        except cl.Error as error:
            raise failure(f"{device.name}: starting kernel {self.name!r}", error) from error
        device.started(arrays, self)

    def _kernel(self, first: int) -> Any:
        # One for each thread: clSetKernelArg is the one call of OpenCL that threads may not share
        try:
            kernel = cl.Kernel(self.program, self.name)
            for position, value in enumerate(self.bound, first):
                kernel.set_arg(position, value)
        except cl.Error as error:
            raise failure(f"{self.device.name}: preparing kernel {self.name!r}", error) from error
        self._local.kernel = kernel
        return kernel


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

        return checked

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

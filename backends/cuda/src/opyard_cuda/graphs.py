"""CUDA graphs: a function over ops is recorded once, and then replayed by one call of the driver, whatever the number of its kernels.

Source: "CUDA Graphs" in the CUDA C++ Programming Guide; streams that record are CuPy's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import opyard
from opyard.errors import DeviceError, KernelError

from .backend import CUDADevice


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Work of one GPU that was recorded. Call it with arrays like those that it was recorded with.

    inputs   the arrays that the work reads: write into them, then ``launch``
    outputs  the arrays that it leaves its results in, until it runs again
    """

    device: CUDADevice
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    _graph: Any
    _single: bool
    _kept: tuple[Any, ...]  # what owns the memory that the work uses
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, *arrays: Any) -> Any:
        """Copies the arrays in, runs, and gives copies of the results. Raises DeviceError for arrays that do not fit."""
        self._check(arrays)
        with self._lock, self.device.handle:
            for kept, array in zip(self.inputs, arrays, strict=True):
                kept[...] = array
            self._graph.launch()
            results = tuple(output.copy() for output in self.outputs)
        return results[0] if self._single else results

    def launch(self) -> None:
        """Runs on what is in ``inputs``, on the current stream, and does not wait."""
        with self.device.handle:
            self._graph.launch()

    def _check(self, arrays: tuple[Any, ...]) -> None:
        wanted = [_describe(kept) for kept in self.inputs]
        found = [_describe(array) for array in arrays]
        if wanted != found or not all(map(self.device.owns, arrays)):
            raise DeviceError(
                f"this was recorded with arrays {', '.join(wanted)} of {self.device.name}, called with {', '.join(found)}; "
                "record the function again for other shapes, and bring arrays there: opyard.to_device(x, device)."
            )


def record(function: Callable[..., Any], *arrays: Any) -> Recording:
    """A function over ops, recorded for arrays like these, all of one GPU. It is placed there as a whole, and its constants stay there.

    What the function computes must not depend on numbers in arrays, and needs a CUDA kernel for each op. Raises DeviceError
    for arrays elsewhere, and KernelError where some work cannot be recorded.
    """
    device = _device_of(arrays)
    graph = opyard.trace(function, *map(opyard.TensorSpec.of, arrays))
    # a session of its own: nobody else uses, or frees, the buffers of its plans
    session = opyard.Session(graph, devices=[device.name])
    names = tuple(graph.outputs)
    run = session.callable(names, tuple(graph.inputs))
    cuda = device.cupy.cuda
    pool = cuda.MemoryPool()
    with opyard.using(strict=True), device.handle, cuda.using_allocator(pool.malloc):
        inputs = tuple(array.copy() for array in arrays)
        stream = cuda.Stream(non_blocking=True)
        device.synchronize()
        with stream:
            run(*inputs)  # compiles kernels, uploads constants, and fills the pool of this stream
            stream.synchronize()
            with _nothing_staged(device.cupy):
                found, outputs = _captured(stream, lambda: run(*inputs), device)
    strangers = [type(output).__name__ for output in outputs if not device.owns(output)]
    if strangers:
        raise KernelError(
            f"the function gives {strangers[0]} and no array of {device.name}, so it cannot be recorded; see opyard explain."
        )
    return Recording(device, inputs, outputs, found, len(names) == 1, (session, run, pool))


def _captured(stream: Any, run: Callable[[], Any], device: CUDADevice) -> tuple[Any, tuple[Any, ...]]:
    """The CUDA graph of what ``run`` starts, and what it gives."""
    stream.begin_capture()
    try:
        outputs = run()
    except Exception as error:
        try:
            stream.end_capture()  # leaves the recording, which the error has made invalid
        except Exception as ending:
            error.add_note(f"the recording ended with: {ending}")
        raise KernelError(
            f"the function cannot be recorded for {device.name}: {error}. Work that waits for the GPU, or copies from the host, cannot be."
        ) from error
    return stream.end_capture(), tuple(outputs)


@contextmanager
def _nothing_staged(cupy: Any) -> Iterator[None]:
    """Inside, this thread cannot copy from the host: a replay would copy anew from memory that others use by then."""
    thread, pool = threading.get_ident(), cupy.get_default_pinned_memory_pool()

    def allocate(size: int) -> Any:
        if threading.get_ident() == thread:
            raise KernelError(f"a kernel copies {size} bytes from the host in each run")
        return pool.malloc(size)

    cupy.cuda.set_pinned_memory_allocator(allocate)
    try:
        yield
    finally:
        cupy.cuda.set_pinned_memory_allocator(pool.malloc)


def _device_of(arrays: tuple[Any, ...]) -> CUDADevice:
    """The GPU of the arrays."""
    registry = opyard.default_registry()
    owners = {registry.device_of(array) for array in arrays}
    if len(owners) == 1 and isinstance(device := next(iter(owners)), CUDADevice):
        return device
    names = ", ".join(sorted({getattr(owner, "name", "no device") for owner in owners})) or "none"
    raise DeviceError(
        f"record takes arrays of one GPU, found arrays of: {names}; bring them there: opyard.to_device(x, 'cuda:0')."
    )


def _describe(array: Any) -> str:
    return (
        f"{getattr(array, 'dtype', type(array).__name__)}[{', '.join(map(str, getattr(array, 'shape', ())))}]"
    )

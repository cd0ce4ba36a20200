"""OpenCLDevice: one in-order queue, a cache of built programs, and arrays that share memory with NumPy on CPU devices."""

from __future__ import annotations

import ctypes
import math
import os
import threading
import warnings
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyopencl as cl

from opyard.driver import HOST, Capabilities, Device
from opyard.errors import DeviceError, KernelError, OpyardError, SpecError
from opyard.spec import TensorSpec

from .array import Array
from .direct import Flight
from .quirks import Quirks

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector register
_IN_FLIGHT_LIMIT = 1 << 28  # bytes of host memory that may wait for the queue before it is drained
_DLPACK_CPU = 1  # kDLCPU
_IN_FLIGHT_LAUNCHES = 1024  # that may wait, too


class OpenCLDevice(Device):
    """An OpenCL device.

    All threads share one in-order queue, so work happens in the order of the calls and a result may be used as soon as
    the kernel that makes it was started. On CPU devices arrays use host memory (CL_MEM_USE_HOST_PTR): ``upload`` of a
    dense NumPy array and ``download`` copy nothing.

    kind  of device that it is used as: "cpu", "gpu" or "accelerator"; empty: what it says that it is
    """

    def __init__(self, name: str, device: Any, quirks: Quirks, kind: str = "") -> None:
        self.cl_device = device
        self.quirks = quirks
        kind = kind or _kind(device.type)
        self.shares_memory = kind == "cpu"
        super().__init__(
            name,
            kind=kind,
            memory=HOST if self.shares_memory else name,
            array_type=Array,
            description=_description(device),
            capabilities=_capabilities(device, quirks, kind),
        )
        with _failures(f"{name}: opening {device.name.strip()}"):
            self.context = cl.Context([device])
            queue = cl.CommandQueue(self.context, device)
        self._started: list[object] = []
        self._room = _IN_FLIGHT_LIMIT  # of what Python starts; the Flight has as much for compiled functions
        self.flight = Flight(room=_IN_FLIGHT_LIMIT, started=self._started)
        self.lost = ""  # why it cannot be used any more, as a sentence
        self._finishes: list[Any] = []
        self._use(queue)
        _watch_forks(self)
        self.workers = int(device.max_compute_units)
        self.vector_bytes = _vector_bytes(device)
        self._build_lock = threading.Lock()
        self._programs: dict[str, Any] = {}
        self._local = threading.local()
        self._nothing = self._buffer(cl.mem_flags.READ_WRITE, size=_ALIGNMENT)  # stands for every empty array

    # Memory ------------------------------------------------------------------------------------------------------

    def upload(self, array: np.ndarray[Any, Any]) -> Array:
        """An Array with the contents of ``array``.

        On CPU devices a dense array (row-major, aligned) is not copied: the result shares its memory, so later
        changes of either are seen in both. Any other array is copied.
        """
        flags = cl.mem_flags
        host = np.asarray(array, order="C")
        if not host.flags.aligned or not host.dtype.isnative:
            host = host.astype(host.dtype.newbyteorder("="), order="C", copy=True)
        if not host.size:
            return Array(self, self._nothing, host.shape, host.dtype, host if self.shares_memory else None)
        if self.shares_memory:
            access = flags.READ_WRITE if host.flags.writeable else flags.READ_ONLY
            return Array(
                self, self._buffer(access | flags.USE_HOST_PTR, _bytes(host)), host.shape, host.dtype, host
            )
        return Array(
            self, self._buffer(flags.READ_WRITE | flags.COPY_HOST_PTR, _bytes(host)), host.shape, host.dtype
        )

    def download(self, array: Array) -> np.ndarray[Any, Any]:
        """The contents of ``array``, after all work on it is done; on CPU devices its own memory, not a copy."""
        self.check()
        if array.host is not None:
            self.synchronize()
            return array.host
        host = np.empty(array.shape, array.dtype)
        if host.size:
            with _failures(f"{self.name}: downloading {array!r}"):
                cl.enqueue_copy(self.queue, _bytes(host), array.buffer, is_blocking=True)
        return host

    def empty(self, spec: TensorSpec) -> Array:
        """A new Array of unspecified contents."""
        shape = tuple(int(n) for n in spec.shape)
        size = math.prod(shape) * spec.dtype.itemsize
        if not self.shares_memory:
            buffer = self._buffer(cl.mem_flags.READ_WRITE, size=size) if size else self._nothing
            return Array(self, buffer, shape, spec.dtype)
        memory = _aligned(size, self.name)
        host = memory.view(spec.dtype).reshape(shape)
        if not size:
            return Array(self, self._nothing, shape, spec.dtype, host)
        return Array(
            self,
            self._buffer(cl.mem_flags.READ_WRITE | cl.mem_flags.USE_HOST_PTR, memory),
            shape,
            spec.dtype,
            host,
        )

    def scratch(self, nbytes: int) -> Array:
        """At least ``nbytes`` of memory for intermediate results of this thread, as an Array that shows none of it.

        Each call may give the same buffer: the queue runs in order, so the work of one launch is done before the next.
        """
        kept = getattr(self._local, "scratch", None)
        if kept is None or kept.buffer.size < nbytes:
            buffer = self._buffer(cl.mem_flags.READ_WRITE, size=max(nbytes, 1 << 16))
            kept = self._local.scratch = Array(self, buffer, (0,), np.dtype(np.uint8))
        found: Array = kept
        return found

    def owns(self, array: Any) -> bool:
        """Whether ``array`` is an Array of this device."""
        return isinstance(array, Array) and array.device is self

    def reads_arrays_of(self, other: Device) -> bool:
        """Never: buffers belong to the context of their device. Arrays of other devices are wrapped or copied."""
        return False

    def overlaps(self, array: Any, other: Any) -> bool:
        """Whether two Arrays have one buffer."""
        if self.shares_memory and array.host is not None and other.host is not None:
            return bool(np.may_share_memory(array.host, other.host))
        return bool(array.buffer is other.buffer)

    def from_dlpack(self, array: Any) -> Array:
        """An Array over the memory of another library's array, without a copy where both are in host memory.

        Raises SpecError for what hands over no memory, or none of the host.
        """
        kind = getattr(array, "__dlpack_device__", lambda: None)()
        if kind is None or kind[0] != _DLPACK_CPU:
            raise SpecError(
                f"{self.name} takes arrays in host memory by DLPack, not {type(array).__name__}; give it a NumPy array: upload(array)."
            )
        return self.upload(np.from_dlpack(array))

    def part_of(self, buffer: Any, offset: int, part: np.ndarray[Any, Any]) -> Any:
        """A buffer over the bytes of ``buffer`` from ``offset`` on that ``part`` is as large as, and, on CPU devices, lies over.

        Raises DeviceError where the device cannot begin a buffer there.
        """
        if not part.size:
            return self._nothing
        if self.shares_memory:
            access = cl.mem_flags.READ_WRITE if part.flags.writeable else cl.mem_flags.READ_ONLY
            return self._buffer(access | cl.mem_flags.USE_HOST_PTR, _bytes(part))
        step = int(self.cl_device.mem_base_addr_align) // 8  # it gives bits
        if offset % step:
            raise DeviceError(
                f"{self.name} can begin a view at multiples of {step} bytes, not at {offset}; opyard.slice copies the part."
            )
        with _failures(f"{self.name}: making a view"):
            return buffer.get_sub_region(offset, part.nbytes)

    def _buffer(self, flags: Any, host: np.ndarray[Any, Any] | None = None, size: int = 0) -> Any:
        self.check()
        nbytes = size if host is None else host.nbytes
        with _failures(f"{self.name}: allocating {nbytes} bytes"):
            return cl.Buffer(self.context, flags, size=size, hostbuf=host)

    def cache_bytes(self) -> int | None:
        """As the driver says; 0 there means that it does not know."""
        return int(self.cl_device.global_mem_cache_size) or None

    # Work --------------------------------------------------------------------------------------------------------

    def build(self, source: str, options: tuple[str, ...] = ()) -> Any:
        """The program of ``source``, built once. Raises KernelError with the compiler's words when it does not build."""
        self.check()
        obstacle = (
            self.quirks.obstacle()
        )  # asked each time: a kernel of a program is compiled when it is first started
        if obstacle is not None:
            raise DeviceError(f"{self.name} {obstacle}")
        key = "\n".join((*options, source))
        program = self._programs.get(key)
        if program is None:
            with self._build_lock:
                program = self._programs.get(key)
                if program is None:
                    with _failures(f"{self.name}: building a program"), warnings.catch_warnings():
                        if (
                            "PYOPENCL_COMPILER_OUTPUT" not in os.environ
                        ):  # where what compilers say is asked for
                            warnings.simplefilter("ignore", cl.CompilerWarning)
                        flags = ["-w", *self.quirks.options, *options]
                        program = cl.Program(self.context, source).build(options=flags)
                    self._programs[key] = program
        return program

    def weight(self, arrays: Iterable[Array | TensorSpec]) -> int:
        """What a launch on such arrays takes of the room for work that was started; 0 where nothing must be kept for it."""
        if not self.shares_memory:
            return 0  # the driver owns the memory, and keeps it for what is in its queue
        return max(_IN_FLIGHT_LIMIT // _IN_FLIGHT_LAUNCHES, sum(array.nbytes for array in arrays))

    def started(self, weight: int, launch: object, arrays: tuple[Array, ...]) -> None:
        """Keeps the arrays of a launch, and it itself, alive until it is done: their memory may be NumPy's."""
        if weight:
            self._started.append((launch, arrays))  # read after the start, see synchronize
            self._room -= weight
            if self._room < 0 or self.flight.room < weight:
                self.synchronize()

    def synchronize(self) -> None:
        """Waits for all work that was started on this device, by any thread."""
        self.check()
        # First replace the list, then wait: what another thread starts after this line is in the new list. That one has the old
        # one, so that Ctrl-C at any moment frees nothing that a kernel may write to.
        done = self._started
        self._started = self.flight.started = [done]
        self._room = self.flight.room = _IN_FLIGHT_LIMIT
        with _failures(f"{self.name}: waiting for its queue"):
            self.queue.finish()
        done.clear()

    def check(self) -> None:
        """Raises DeviceError in a process that was forked since the device was opened: the driver would wait for ever."""
        if self.lost:
            raise DeviceError(self.lost)

    def forked(self) -> None:
        """Notes that this is a forked process, which has none of the driver's threads."""
        self.lost = (
            f"{self.name} was opened before this process was forked from another, and its driver's threads are there alone; "
            "start processes anew: multiprocessing.set_start_method('spawn')."
        )
        self.flight.room = -1
        for finish in self._finishes:  # at exit there
            finish.detach()

    def _use(self, queue: Any) -> None:
        self.queue, self.flight.queue = queue, queue.int_ptr
        # At exit Python frees the memory of arrays while the workers of a CPU device may still write to it
        self._finishes.append(weakref.finalize(self, queue.finish))

    def record(self) -> Any:
        """An event behind the work so far. The first one replaces the queue by one that keeps times, which starts work more slowly."""
        self.check()
        with _failures(f"{self.name}: marking its queue"):
            keeps_times = cl.command_queue_properties.PROFILING_ENABLE
            if not self.queue.properties & keeps_times:
                self.synchronize()
                self._use(cl.CommandQueue(self.context, self.cl_device, properties=keeps_times))
            mark = cl.enqueue_marker(self.queue)
            self.queue.flush()
        return mark

    def elapsed(self, begin: Any, end: Any) -> float:
        """Seconds on the device between two events."""
        with _failures(f"{self.name}: reading its clock"):
            end.wait()
            return float(end.profile.end - begin.profile.end) * 1e-9  # it gives nanoseconds


_devices: weakref.WeakSet[OpenCLDevice] = weakref.WeakSet()


def _watch_forks(device: OpenCLDevice) -> None:
    if not _devices and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forked)
    _devices.add(device)


def _forked() -> None:
    for device in _devices:
        device.forked()


class _failures:
    """Turns errors of pyopencl inside the block into DeviceError (memory, lost device) or KernelError (programs)."""

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, cl.Error):
            raise failure(self.what, error) from error


def failure(what: str, error: Exception) -> OpyardError:
    """The error of opyard for an error of pyopencl that happened while ``what`` was asked."""
    text = str(error).strip()
    if isinstance(error, cl.MemoryError) or "INVALID_BUFFER_SIZE" in text:  # larger than it ever gives
        return out_of_memory(what, text.splitlines()[0])
    if "BUILD_PROGRAM_FAILURE" in text or "COMPILE_PROGRAM_FAILURE" in text:
        return KernelError(f"{what}: the OpenCL compiler refuses the source:\n{text}")
    return DeviceError(
        f"{what}: the OpenCL driver reports {text}. `opyard doctor` shows platform and driver."
    )


def out_of_memory(what: str, reason: str) -> DeviceError:
    """The error for memory that is too small for ``what``."""
    return DeviceError(f"{what}: out of memory ({reason}). Use smaller batches, or free arrays first.")


def _kind(bits: int) -> str:
    """The kind of device; a simulator may say that it is all of them."""
    if bits & cl.device_type.CPU:
        return "cpu"
    return "gpu" if bits & cl.device_type.GPU else "accelerator"


def _vector_bytes(device: Any) -> int:
    """Size of the vectors of kernels that are written in vectors: those of AVX-512, or of AVX."""
    return 64 if device.native_vector_width_float >= 16 else 32


def _bytes(host: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The memory of a dense array as bytes: dtypes of ml_dtypes are unknown to the buffer protocol."""
    return host.reshape(-1).view(np.uint8)


def _aligned(size: int, name: str) -> np.ndarray[Any, Any]:
    try:
        raw = np.empty(size + _ALIGNMENT, np.uint8)
    except (MemoryError, ValueError) as error:  # ValueError: more than an address can say
        raise out_of_memory(f"{name}: allocating {size} bytes", str(error)) from None
    first = ctypes.c_ubyte.from_buffer(raw.data)  # raw.ctypes takes three times as long
    start = -ctypes.addressof(first) % _ALIGNMENT
    return raw[start : start + size]


def _description(device: Any) -> str:
    platform = device.platform
    version = platform.version.partition("  ")[0].strip()  # what follows two spaces is how it was built
    names = (device.vendor.strip(), device.name.strip(), "on", platform.name.strip(), version)
    return f"{' '.join(names)}, driver {device.driver_version.strip()}"


def _capabilities(device: Any, quirks: Quirks, kind: str) -> Capabilities:
    """Estimates from what the driver tells: operations per clock and bandwidth are typical of the kind of device."""
    extensions = device.extensions.split()
    features = {name for name in ("fp64", "fp16") if f"cl_khr_{name}" in extensions}
    hertz = max(float(device.max_clock_frequency), 1000.0) * 1e6
    per_clock = 8.0 if kind == "cpu" else 128.0
    shared = kind == "cpu"
    return Capabilities(
        features=frozenset(features),
        flops=device.max_compute_units * hertz * per_clock,
        bandwidth=1.5e10 if shared else 3e11,
        launch_seconds=quirks.launch_seconds,
        transfer_bandwidth=1e10,
        transfer_seconds=quirks.wait_seconds,
        wrap_seconds=quirks.wait_seconds,
    )

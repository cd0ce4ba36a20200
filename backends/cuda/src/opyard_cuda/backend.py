"""CUDA devices. Their arrays are CuPy arrays in memory from CuPy's current allocator, which is a pool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.errors import DeviceError, DeviceUnavailable
from opyard.spec import TensorSpec

from . import cublaslt
from .capabilities import estimate
from .probe import compiler_reason, probe, version_text

_DLPACK_CUDA = (2, 13)
"""Device types of DLPack whose memory a CUDA device can read: CUDA, and memory that CUDA manages."""


_LEAST_PINNED, _MOST_PINNED = 1 << 16, 1 << 28
"""Bytes of results that come in pinned memory: small ones gain nothing, and of large ones too much would be pinned."""


class CUDADevice(Device):
    """One GPU. Work goes to CuPy's current stream of the device; ``cupy`` is the module, ``number`` CUDA's of the GPU."""

    def __init__(
        self, number: int, cupy: Any, driver_version: int = 0, libraries: frozenset[str] = frozenset()
    ) -> None:
        self.cupy = cupy
        self.number = number
        attributes: Mapping[str, int] = self.handle.attributes
        properties = cupy.cuda.runtime.getDeviceProperties(number)
        name = properties["name"].decode() if isinstance(properties["name"], bytes) else properties["name"]
        memory = properties["totalGlobalMem"] / 1e9
        lacks = (
            ""
            if "cublas" in libraries
            else f"; no cuBLAS, so no products: install cupy-cuda{driver_version // 1000}x[ctk]"
        )
        super().__init__(
            f"cuda:{number}",
            kind="gpu",
            memory=f"cuda:{number}",
            array_type=cupy.ndarray,
            description=f"{name}, {memory:.0f} GB, CUDA {version_text(driver_version)}, CuPy {cupy.__version__}{lacks}",
            capabilities=estimate(self.handle.compute_capability, attributes, libraries),
        )

    @property
    def handle(self) -> Any:
        """A new ``cupy.cuda.Device``: inside ``with`` it is the current one."""
        # not kept: such an object remembers the device to go back to, and threads would share that
        return self.cupy.cuda.Device(self.number)

    def upload(self, array: np.ndarray[Any, Any]) -> Any:
        """A CuPy array with the contents of a NumPy array, staged through pinned memory; it does not wait for the copy.

        Raises DeviceError for a dtype that CuPy does not have.
        """
        with self.handle:
            try:
                return self.cupy.asarray(array)
            except (TypeError, ValueError) as error:
                raise DeviceError(
                    f"{self.name} cannot hold {array.dtype.name}[{', '.join(map(str, array.shape))}]: {error}; cast it first: cast(x, dtype='float32')."
                ) from error

    def download(self, array: Any) -> np.ndarray[Any, Any]:
        """A NumPy array with the contents of a CuPy array, after the work on the current stream is done.

        Of some size, it lies in pinned memory from CuPy's pool, which the GPU writes to without a copy by the driver.
        """
        with self.handle:
            found: np.ndarray[Any, Any]
            if not _LEAST_PINNED <= array.nbytes <= _MOST_PINNED:
                found = self.cupy.asnumpy(array)
                return found
            memory = self.cupy.cuda.alloc_pinned_memory(array.nbytes)
            found = np.ndarray(array.shape, array.dtype, memory)
            array.get(out=found)
            return found

    def owns(self, array: Any) -> bool:
        """Whether ``array`` is a CuPy array in this GPU's memory."""
        return isinstance(array, self.array_type) and bool(array.device.id == self.number)  # type: ignore[attr-defined]

    def empty(self, spec: TensorSpec) -> Any:
        """A CuPy array of unspecified contents."""
        with self.handle:
            return self.cupy.empty(spec.shape, spec.dtype)

    def copy_from(self, array: Any, source: Device) -> Any:
        """A CuPy array of this GPU with the contents of another device's array.

        CUDA memory of any library, handed over by DLPack, comes from GPU to GPU; all else goes through the host.
        """
        if not isinstance(array, self.array_type):
            if _dlpack_type(array) not in _DLPACK_CUDA:
                return super().copy_from(array, source)
            array = self.cupy.from_dlpack(array)
        return self._copy(array)

    def from_dlpack(self, array: Any) -> Any:
        """``array`` of any library as a CuPy array of this GPU: its own memory where it lies here, else a copy."""
        kind = _dlpack_type(array)
        if kind is None:
            raise DeviceError(
                f"{type(array).__name__} does not hand over its memory (it has no __dlpack__); give {self.name} a NumPy array: upload(array)."
            )
        if kind not in _DLPACK_CUDA:
            return self.upload(np.from_dlpack(array))
        with self.handle:
            found = self.cupy.from_dlpack(array)
        return found if self.owns(found) else self._copy(found)

    def _copy(self, array: Any) -> Any:
        """A copy on this GPU of a CuPy array anywhere; the streams of both GPUs wait for each other."""
        if self.owns(array):
            with self.handle:
                return array.copy()
        with array.device:
            written = self.cupy.cuda.Event(disable_timing=True)
            written.record()
        with self.handle:
            self.cupy.cuda.get_current_stream().wait_event(written)
            result = array.copy()  # onto the current device, by CuPy's rule
            read = self.cupy.cuda.Event(disable_timing=True)
            read.record()
        with array.device:  # what frees or overwrites the source is ordered behind the copy
            self.cupy.cuda.get_current_stream().wait_event(read)
        return result

    def synchronize(self) -> None:
        """Waits for all work on all streams of this GPU."""
        self.handle.synchronize()

    def memory_info(self) -> tuple[int, int]:
        """Free and total bytes; what the pool holds and nobody uses counts as free."""
        pool = self._pool()
        with self.handle:
            pooled = pool.free_bytes() if pool else 0
        free, total = self.handle.mem_info
        return free + pooled, total

    def _pool(self) -> Any:
        """The pool behind CuPy's current allocator, a MemoryPool or a MemoryAsyncPool; None where a program set another function."""
        owner = getattr(self.cupy.cuda.get_allocator(), "__self__", None)
        return owner if hasattr(owner, "free_bytes") else None

    def cache_bytes(self) -> int | None:
        """Size of the L2 cache, which all cores share."""
        return self.handle.attributes.get("L2CacheSize") or None

    def release_memory(self) -> None:
        """Gives what the pool holds and nobody uses back to the driver, for other processes."""
        if pool := self._pool():
            with self.handle:
                pool.free_all_blocks()

    @contextmanager
    def stream(self) -> Iterator[Any]:
        """A new stream that is current inside ``with``. It begins behind the work so far; later work waits for it."""
        cuda = self.cupy.cuda
        with self.handle:
            outer, inner = cuda.get_current_stream(), cuda.Stream(non_blocking=True)
            inner.wait_event(outer.record())
            try:
                with inner:
                    yield inner
            finally:
                outer.wait_event(inner.record())

    def overlaps(self, array: Any, other: Any) -> bool:
        """Whether two arrays of CuPy may share memory."""
        return bool(self.cupy.may_share_memory(array, other))

    def record(self) -> Any:
        """A CUDA event behind the work on the current stream."""
        with self.handle:
            mark = self.cupy.cuda.Event()
            mark.record()
            return mark

    def elapsed(self, begin: Any, end: Any) -> float:
        """Seconds on the GPU between two events."""
        with self.handle:
            end.synchronize()
            return float(self.cupy.cuda.get_elapsed_time(begin, end)) / 1e3  # it gives milliseconds


class CUDABackend:
    """The driver of NVIDIA GPUs."""

    def devices(self) -> Sequence[Device]:
        """All GPUs that the driver shows. Raises DeviceUnavailable, saying what to install, when there are none."""
        found = probe()
        if not found.ok:
            raise DeviceUnavailable(found.reason)
        cupy = import_cupy()
        libraries = library_features()
        return tuple(
            CUDADevice(number, cupy, found.driver_version, libraries) for number in range(found.device_count)
        )


def import_cupy() -> Any:
    """CuPy with a working compiler. Raises DeviceUnavailable with what to install."""
    try:
        import cupy
        from cupy_backends.cuda.libs import nvrtc
    except Exception as error:
        raise DeviceUnavailable(
            f"CuPy is installed but cannot be imported ({_first_line(error)}); `python -m cupy --version` may say more; reinstall it."
        ) from error
    try:
        nvrtc.getVersion()
    except Exception as error:
        major = cupy.cuda.runtime.runtimeGetVersion() // 1000
        raise DeviceUnavailable(
            f"CuPy finds no CUDA compiler ({_first_line(error)});{compiler_reason(major)} install the parts of the toolkit that it needs: `pip install 'cupy-cuda{major}x[ctk]'`."
        ) from error
    return cupy


def library_features() -> frozenset[str]:
    """Features for the CUDA libraries that can be loaded here: "cublas" and "cublaslt"."""
    try:
        from cupy_backends.cuda.libs import cublas  # noqa: F401
    except ImportError:
        return frozenset()
    try:
        cublaslt.library()
    except OSError:
        return frozenset({"cublas"})
    return frozenset({"cublas", "cublaslt"})


def _dlpack_type(array: Any) -> int | None:
    """The device type that DLPack gives ``array``, or None if it has none."""
    device = getattr(array, "__dlpack_device__", None)
    return None if device is None else int(device()[0])


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

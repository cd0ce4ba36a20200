"""The CPU as a device: NumPy arrays in host memory."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from opyard.driver import HOST, Capabilities, Device
from opyard.settings import num_threads, winograd
from opyard.spec import TensorSpec
from opyard_cpu.allocation import keep_freed_memory
from opyard_cpu.blas_threads import let_idle_threads_sleep, limit_blas_threads
from opyard_cpu.threads import few_threads

_IMPLIED = {"X86_V3": ("AVX", "AVX2", "F16C", "FMA3"), "X86_V4": ("AVX512F", "AVX512_SKX")}
"""Instruction sets that NumPy names as one level of the x86-64 architecture."""

_FLOPS_PER_CYCLE = (("avx512f", 64.0), ("avx2", 32.0), ("asimd", 32.0))
"""float32 operations of one core in a cycle, by its widest instruction set: two fused multiply-adds on whole registers."""

_CLOCK = 2.5e9
"""Cycles per second, where the system does not say."""

_CLOCK_LIMIT = Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")

_THREAD_BANDWIDTH = 1.5e10
"""Bytes per second of main memory that one more thread adds, until the memory is saturated."""

_MEMORY_BANDWIDTH = 2e11


class CPU(Device):
    """The processor. Its arrays are NumPy arrays, so upload and download hand them on: the memory is shared."""

    def __init__(self) -> None:
        threads = num_threads()
        blas = limit_blas_threads(threads)
        features = processor_features()
        super().__init__(
            "cpu:0",
            kind="cpu",
            memory=HOST,
            array_type=np.ndarray,
            description=f"{processor_model()}, {threads} thread{'s' if threads > 1 else ''}, {blas}",
            capabilities=Capabilities(
                features=features | ({"winograd"} if winograd() else set()),
                flops=threads * _clock() * _flops_per_cycle(features),
                bandwidth=min(threads * _THREAD_BANDWIDTH, _MEMORY_BANDWIDTH),
                launch_seconds=1e-6,
                transfer_bandwidth=_MEMORY_BANDWIDTH,
                transfer_seconds=0.0,
                wrap_seconds=0.0,
            ),
        )

    def owns(self, array: Any) -> bool:
        """NumPy arrays, and the scalars that NumPy's functions give for arrays of rank 0."""
        return isinstance(array, (np.ndarray, np.generic))

    def on_threads(self, threads: int) -> AbstractContextManager[None]:
        """Limits BLAS meanwhile, in the whole process, and oneDNN in the current thread."""
        return few_threads(threads)

    def empty(self, spec: TensorSpec) -> np.ndarray[Any, Any]:
        """An array that begins at a cache line: what goes past the caches has to be whole lines, and wide registers lie in one."""
        from .onednn.addresses import images_maker

        return images_maker(tuple(map(int, spec.shape)), spec.dtype)()

    def by_size(self, least: int, small: Callable[..., Any], large: Callable[..., Any]) -> Callable[..., Any]:
        """By a compiled function, where there are any: it takes some nanoseconds."""
        from .jit import machine, sized

        found = None if machine.missing() else sized.by_size(least, small, large)
        return found or super().by_size(least, small, large)

    def upload(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """``array`` itself, without a copy: later writes to it are seen by whoever holds the result."""
        return array

    def download(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """``array`` itself, without a copy: kernels here have finished when they return."""
        return array


class CPUBackend:
    """The driver of the processor. Opening it limits the threads of BLAS in the whole process (see limit_blas_threads).

    It also lets the idle ones of them sleep (see let_idle_threads_sleep), and the C library keep the memory of freed arrays
    (see keep_freed_memory).
    """

    def __init__(self) -> None:
        keep_freed_memory()
        self._devices = (CPU(),)
        let_idle_threads_sleep()

    def devices(self) -> tuple[Device, ...]:
        """The one device ``cpu:0``."""
        return self._devices

    def notes(self) -> tuple[str, ...]:
        """What there is to say of libraries that make kernels faster: where they are found, or how to install them."""
        from .jit import machine
        from .onednn.library import library, missing

        reason = missing()
        return (
            reason or f"oneDNN is used, up to {library().instruction_set()}: {library().path}",
            machine.missing() or f"LLVM compiles loops for {machine.host().name}",
        )


def processor_features() -> frozenset[str]:
    """The instruction sets that NumPy detected, in lower case, such as "avx2" or "asimd"; and "fp64"."""
    found: Iterable[str] = ()
    configuration: Any = np.show_config(mode="dicts")
    simd = configuration.get("SIMD Extensions", {})
    found = (*simd.get("baseline", ()), *simd.get("found", ()))
    implied = (name for level in found for name in _IMPLIED.get(level, ()))
    return frozenset(name.lower() for name in (*found, *implied)) | {"fp64"}


def processor_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as the system knows it."""
    match = re.search(r"^model name\s*:\s*(.+)$", _read(cpuinfo), re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def _clock(limit: Path = _CLOCK_LIMIT, cpuinfo: Path = Path("/proc/cpuinfo")) -> float:
    """Cycles per second at most, which is the same in every process, so that every process makes the same plan.

    Where nobody sets the clock, as on virtual machines, it is that of the time stamp counter, of which Linux notes the double for
    each processor of x86 when it starts. "cpu MHz" beside it moves with the load.
    """
    if kilohertz := re.match(r"\d+", _read(limit)):
        return float(kilohertz[0]) * 1e3
    doubles = re.findall(r"^bogomips\t+: ([\d.]+)", _read(cpuinfo), re.MULTILINE)
    return max(map(float, doubles)) * 1e6 / 2 if doubles else _CLOCK


def _flops_per_cycle(features: frozenset[str]) -> float:
    return next((flops for feature, flops in _FLOPS_PER_CYCLE if feature in features), 16.0)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

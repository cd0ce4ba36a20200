"""CUDA C++ on the CPU, for tests: unmodified kernels, each thread a fibre, compiled by g++.

A launch runs under a schedule, which decides who goes on at each barrier, and every access to memory is checked: see
``runtime.cpp``. What it does not see: instructions written in PTX, weak ordering of memory, speed.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from opyard.errors import DeviceUnavailable, KernelError

from ..sources import CudaSource

SCHEDULES = ("lockstep", "reversed", "random", "ahead")
"""Who goes on next: all threads in turn; the same from the last one; any one, interrupted between accesses to memory; and one
warp, and in it one lane, as far as it can go."""

_FOLDER = Path(__file__).parent
_FLAGS = ("-std=c++17", "-shared", "-fPIC", "-w", "-ffp-contract=off", "-fno-strict-aliasing")
_CHECKED = ("-O1", "-fsanitize=thread,bounds-strict,alignment,integer-divide-by-zero", "-c")
_EDGES = ("__ehdr_start", "_end", "__bss_start")
"""What the linker calls the begin and the end of a library, and the begin of what is static and not initialized."""

_GAP = 4096
"""Bytes between two buffers that belong to neither."""

_lock = threading.Lock()  # a process has one set of fibres


def compiler() -> str:
    """g++. Raises DeviceUnavailable where there is none."""
    found = shutil.which("g++")
    if found is None:
        raise DeviceUnavailable("CUDA kernels run on the CPU with g++, which was not found; install it.")
    return found


@dataclass(frozen=True, slots=True)
class Schedule:
    """An order of threads: one of SCHEDULES, and the seed of what is drawn in it."""

    name: str = "lockstep"
    seed: int = 1


class _Entry(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("call", ctypes.c_void_p),
        ("parameters", ctypes.POINTER(ctypes.c_int * 2)),
        ("count", ctypes.c_int),
    )


class _Buffer(ctypes.Structure):
    _fields_ = (("begin", ctypes.c_void_p), ("size", ctypes.c_longlong), ("writable", ctypes.c_int))


class Library:
    """Sources to be compiled together, into ``folder``, when one of their kernels is first launched.

    ``schedule`` is that of launches to come.
    """

    def __init__(self, folder: Path, schedule: Schedule = Schedule()) -> None:
        self.folder = folder
        self.schedule = schedule
        self._pending: dict[CudaSource, None] = {}
        self._entries: dict[tuple[str, str], tuple[_Entry, Any]] = {}
        self._builds = 0

    def add(self, source: CudaSource) -> None:
        """Another source, for the next time that something is compiled."""
        if source.entries and (source.text, source.entries[0]) not in self._entries:
            self._pending[source] = None

    def raw_module(self, code: str, options: tuple[str, ...] = (), name_expressions: Any = ()) -> Any:
        """Stands in for ``cupy.RawModule``; options for NVRTC say nothing here."""
        source = CudaSource("raw", code, tuple(name_expressions))
        self.add(source)
        return Module(self, source)

    def launch(
        self,
        source: CudaSource,
        entry: str,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Any,
        shared: int,
    ) -> None:
        """Runs a kernel. Raises KernelError for one that does what it must not, and for arguments that do not fit it."""
        if self._pending:
            self._build()
        found, image = self._entries[source.text, entry]
        kinds = [tuple(found.parameters[i]) for i in range(found.count)]
        if len(kinds) != len(arguments):
            raise KernelError(
                f"CUDA kernel {entry!r} has {len(kinds)} parameters; it is launched with {len(arguments)} arguments."
            )
        buffers = _Buffers()
        values = [
            buffers.value(number, kind, argument, entry)
            for number, (kind, argument) in enumerate(zip(kinds, arguments, strict=True))
        ]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        sizes = [*grid, *(1,) * (3 - len(grid)), *block, *(1,) * (3 - len(block))]
        message = ctypes.create_string_buffer(1200)
        with _lock:
            failed = _runtime().opyard_launch(
                ctypes.byref(found),
                ctypes.byref(image),
                pointers,
                *buffers.described(),
                (ctypes.c_uint * 6)(*map(int, sizes)),
                shared,
                SCHEDULES.index(self.schedule.name),
                self.schedule.seed,
                message,
                len(message),
            )
        if failed:
            raise KernelError(
                f"CUDA kernel {entry!r} {message.value.decode()}, schedule {self.schedule.name}."
            )
        buffers.copy_back()

    def _build(self) -> None:
        sources, self._pending = list(self._pending), {}
        _runtime()
        self._builds += 1
        name = f"kernels{self._builds}"
        (self.folder / f"{name}.cpp").write_text(program(sources))
        _run([compiler(), *_FLAGS, *_CHECKED, f"-I{_FOLDER}", f"{name}.cpp", "-o", f"{name}.o"], self.folder)
        # without start files nothing static is there but shared memory
        link = ["-shared", "-nostartfiles", f"{name}.o", "-o", f"{name}.so"]
        _run([compiler(), *link], self.folder)
        built = ctypes.CDLL(str(self.folder / f"{name}.so"))
        for number, source in enumerate(sources):
            table = (_Entry * len(source.entries)).in_dll(built, f"opyard_entries_{number}")
            for position, entry in enumerate(source.entries):
                image = (ctypes.c_void_p * 4).in_dll(built, "opyard_image")
                self._entries[source.text, entry] = table[position], image


@dataclass(frozen=True, slots=True)
class Module:
    """Stands in for ``cupy.RawModule``."""

    library: Library
    source: CudaSource

    def get_function(self, name: str) -> Any:
        """A function of grid, block, arguments and bytes of dynamic shared memory, as CuPy's kernels are."""

        def run(grid: Sequence[int], block: Sequence[int], args: Any, *, shared_mem: int = 0) -> None:
            self.library.launch(self.source, name, grid, block, args, shared_mem)

        return run


class _Buffers:
    """Copies of the arrays of a launch, with gaps between them."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = {}
        self._writable: dict[int, bool] = {}

    def value(self, number: int, kind: tuple[int, int], argument: Any, entry: str) -> Any:
        """What the parameter points to or is, as a C value."""
        size, pointer = kind
        if not isinstance(argument, np.ndarray):
            scalar = np.asarray(argument)
            if scalar.itemsize != size or (pointer and scalar != 0):
                raise KernelError(
                    f"CUDA kernel {entry!r} has {size} bytes for argument {number}, which is {scalar.dtype.name} {scalar}."
                )
            return (ctypes.c_char * size).from_buffer_copy(scalar.tobytes())
        if not pointer or not argument.flags.c_contiguous:
            raise KernelError(
                f"CUDA kernel {entry!r} takes {'a pointer' if pointer else 'a number'} as argument {number}; "
                f"it is given an array of strides {argument.strides} and shape {argument.shape}."
            )
        key = argument.ctypes.data
        copied = self._copies.setdefault(key, (argument, _with_gaps(argument)))[1]
        self._writable[key] = self._writable.get(key, False) or pointer == 1
        return ctypes.c_void_p(copied.ctypes.data)

    def described(self) -> tuple[Any, int]:
        """The buffers as the runtime takes them."""
        rows = [
            _Buffer(copied.ctypes.data, copied.nbytes, self._writable[key])
            for key, (_, copied) in self._copies.items()
        ]
        return (_Buffer * len(rows))(*rows), len(rows)

    def copy_back(self) -> None:
        """What was written, into the arrays."""
        for key, (array, copied) in self._copies.items():
            if self._writable[key]:
                array[...] = copied


def _with_gaps(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy that is aligned as a view of memory from CUDA would be: memory itself begins at a multiple of 256 bytes."""
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    offset = (array.ctypes.data - root.ctypes.data) % 256
    room = np.empty(array.nbytes + 2 * _GAP + 512, np.uint8)
    start = _GAP + (-(room.ctypes.data + _GAP)) % 256 + offset
    copied: np.ndarray[Any, Any] = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copied[...] = array
    return copied


def program(sources: Sequence[CudaSource]) -> str:
    """C++ of several sources, each in a namespace of its own, with a table of the kernels of each."""
    parts = [
        '#include "cuda.h"',
        *(f'extern char {name} __attribute__((visibility("hidden")));' for name in _EDGES),
    ]
    tables = []
    for number, source in enumerate(sources):
        text = re.sub(r"^\s*#include <cuda_\w+\.h>", "", source.text, flags=re.MULTILINE)
        text = re.sub(r'extern "C"', "", text)
        text = re.sub(
            r"extern\s+__shared__\s+([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;",
            r"\1* const \2 = (\1*)emulation::dynamic_shared();",
            text,
        )
        rows = ", ".join(
            f'{{"{entry}", &emulation::Kernel<&{entry}>::call, emulation::Kernel<&{entry}>::parameters, emulation::Kernel<&{entry}>::count}}'
            for entry in source.entries
        )
        space = f"source_{number}"
        parts.append(f'namespace {{ namespace {space} {{\n#line 1 "{source.name}.cu"\n{text}\n')
        parts.append(f"constexpr emulation::Entry entries[] = {{{rows}}};\n}} }}")
        tables.append(
            f"emulation::Entry opyard_entries_{number}[{len(source.entries)}] = {{{_copied(space, source)}}};"
        )
    image = "const void* opyard_image[4] = {&__ehdr_start, &_end, &__bss_start, &_end};"
    return "\n".join([*parts, 'extern "C" {', *tables, image, "}"])


def _copied(space: str, source: CudaSource) -> str:
    return ", ".join(f"{space}::entries[{position}]" for position in range(len(source.entries)))


@lru_cache(maxsize=1)
def _runtime() -> ctypes.CDLL:
    """What runs the fibres, compiled and loaded: all libraries of a process share it, as their kernels look for it by name."""
    with TemporaryDirectory() as folder:
        _run([compiler(), "-O2", *_FLAGS, str(_FOLDER / "runtime.cpp"), "-o", "runtime.so"], Path(folder))
        return ctypes.CDLL(str(Path(folder, "runtime.so")), mode=ctypes.RTLD_GLOBAL)


def _run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        raise KernelError(f"a CUDA source does not compile for the CPU: {(errors or ['no message'])[0]}")

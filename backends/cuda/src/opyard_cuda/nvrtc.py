"""CUDA's compiler NVRTC as a library of pip, through ctypes: it needs neither a GPU nor a driver nor a toolkit.

Source of functions and options: NVRTC documentation. CuPy compiles with the same library, but only for a GPU that is there.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from opyard.errors import DeviceUnavailable, KernelError

from .sources import OPTIONS, CudaSource

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
"""The GPUs that all sources are compiled for: Ampere, Hopper and Blackwell of data centres."""

_HEADERS = "--use-bundled-headers"
"""The option that gives the headers inside the library; those of CUDA 13.0 and before do not know it."""

PACKAGE = "nvidia-cuda-nvrtc"
_FOLDERS = ("cu13/lib", "cu13/bin/x86_64", "cuda_nvrtc/lib", "cuda_nvrtc/bin")
_PATTERNS = ("libnvrtc.so.1*", "nvrtc64_1?0_0.dll")
"""Where NVIDIA's wheels for CUDA 13 and 12 have the library, in the namespace package ``nvidia``."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a kernel takes of the GPU: registers of a thread, bytes of shared memory of a block, bytes spilled and of stack of a thread."""

    registers: int
    shared: int
    spilled: int
    stack: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """A source as machine code for one architecture, and what each kernel in it takes, by entry."""

    cubin: bytes
    usage: dict[str, Usage]


def library_file() -> Path:
    """NVRTC among the installed wheels. Raises DeviceUnavailable, with what to type, where there is none."""
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        for folder in _FOLDERS:
            for pattern in _PATTERNS:
                if found := sorted(Path(root, folder).glob(pattern)):
                    return found[0]
    raise DeviceUnavailable(
        f"NVIDIA's compiler NVRTC is not among the installed packages; `pip install {PACKAGE}` brings it (60 MB)."
    )


@lru_cache(maxsize=1)
def library() -> Any:
    """NVRTC, loaded."""
    return ctypes.CDLL(str(library_file()))


def version() -> str:
    """The version of NVRTC, such as "13.5"."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def compile_source(source: CudaSource, architecture: str, headers: Path) -> Compiled:
    """Machine code for an architecture such as "sm_90". Raises KernelError with the compiler's messages, and DeviceUnavailable for an old NVRTC.

    ``headers`` is the folder that CUDA's headers, which NVRTC has inside, are unpacked into, once: 26 MB.
    """
    nvrtc, program = library(), ctypes.c_void_p()
    options = [
        f"--gpu-architecture={architecture}",
        "--ptxas-options=-v",
        f"{_HEADERS}={headers}",
        *OPTIONS,
        *source.options,
    ]
    arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source.text.encode(), f"{source.name}.cu".encode(), 0, None, None
    )
    try:
        for entry in source.entries:
            nvrtc.nvrtcAddNameExpression(program, entry.encode())
        result = nvrtc.nvrtcCompileProgram(program, len(options), arguments)
        log = _bytes(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
        if result and _HEADERS in _first_error(log):
            raise DeviceUnavailable(
                f"NVRTC {version()} is without CUDA's headers; `pip install --upgrade {PACKAGE}` brings one that has them inside."
            )
        if result:
            raise KernelError(
                f"CUDA source {source.name!r} does not compile for {architecture}: {_first_error(log)}"
            )
        found = dict(_usages(log))
        lowered = {entry: _lowered(program, entry) for entry in source.entries}
        return Compiled(_bytes(program, "CUBIN"), {entry: found[name] for entry, name in lowered.items()})
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _bytes(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    contents = ctypes.create_string_buffer(size.value)
    getattr(library(), f"nvrtcGet{what}")(program, contents)
    return contents.raw


def _lowered(program: ctypes.c_void_p, entry: str) -> str:
    """The name of an entry in the machine code."""
    name = ctypes.c_char_p()
    library().nvrtcGetLoweredName(program, entry.encode(), ctypes.byref(name))
    return (name.value or b"").decode()


_ENTRY = re.compile(r"Compiling entry function '([^']+)'")
_SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


def _usages(log: str) -> Iterator[tuple[str, Usage]]:
    """What ptxas says of each kernel, by its name in the machine code."""
    for part in re.split(r"(?=Compiling entry function)", log):
        entry, used, spill = _ENTRY.search(part), _USED.search(part), _SPILL.search(part)
        if entry and used and spill:
            shared = _SHARED.search(part)
            stack, stores, loads = map(int, spill.groups())
            yield (
                entry[1],
                Usage(int(used[1]), int(shared[1]) if shared else 0, max(stores, loads), stack),
            )


def _first_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[0] if lines else "no message")

"""The shared library of oneDNN: found in its wheel, loaded on first use, with as many threads as opyard may use.

The wheel brings oneDNN with GNU OpenMP, which keeps a pool of threads for each thread that calls it. Three things keep
this pool from disturbing others:

* It has as many threads as ``opyard.settings.num_threads`` says when a kernel is prepared or first used in a thread.
* Idle threads sleep soon. By itself GNU OpenMP lets them spin for milliseconds, which takes the processor from the threads
  of BLAS. How long they spin is read when it is loaded; what the user set in the environment stays as it is.
* The pool is given up before the process is forked: a child has none of its threads, and would wait for them forever.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from ctypes import c_void_p
from functools import cache
from typing import Any

from opyard.errors import KernelError
from opyard.settings import num_threads

from . import api
from .addresses import addresses_are_right

DISTRIBUTION = "onednn-cpu-gomp"
FILE = "libdnnl.so.3"
OPENMP = "libgomp.so.1"
INSTALL = "pip install 'opyard-cpu[onednn]'"

SPINS = "1000"
"""How often an idle thread looks for work before it sleeps: some 25 microseconds, longer than the pause between two kernels of
a plan. Measured on two busy processors: by default a product of 96x96 takes 2.4 ms instead of 40 microseconds."""

LITTLE = 1e6
"""Operations, about 10 microseconds of them, below which waking another thread takes longer than it saves."""

WAKE_SECONDS = 1e-5
"""What a call on several threads takes for the others to come, which sleep while kernels on other threads work: an estimate between
what it takes where they look for work and where their processors do other work, some 60 microseconds."""

NARROW = ("sse41", "avx")
"""Instruction sets for which oneDNN's kernels are slower than BLAS, and lose NaN."""

Function = Callable[..., Any]


class _Alone(threading.local):
    """Whether what the current thread makes is for one thread."""

    is_set = False


class Library:
    """oneDNN's functions by their names without "dnnl_", one engine for the processor and one stream.

    ``held`` are the same functions called with the interpreter lock held, which is quicker for those that do little.
    """

    def __init__(self, path: str) -> None:
        with _settings():
            self._released: Any = ctypes.CDLL(path)
            self._held: Any = ctypes.PyDLL(path)
            self.openmp: Any = ctypes.CDLL(OPENMP)
        self.path = path
        self.functions = {name: self._function(self._released, name) for name in api.SIGNATURES}
        self.held = {name: self._function(self._held, name) for name in api.SIGNATURES}
        for name, (types, result) in api.OTHER_RESULTS.items():
            function = getattr(self._held, f"dnnl_{name}")
            function.argtypes, function.restype = types, result
            self.held[name] = function
        self.execute: Function = self._released["dnnl_primitive_execute"]
        """``primitive_execute`` without types to convert to, which takes a quarter of the time of a tiny primitive."""
        self._pause = self.openmp.omp_pause_resource_all
        self._most = max(
            1, int(self.openmp.omp_get_thread_limit())
        )  # a primitive made for more would wait for them forever
        self._alone = _Alone()
        self.use_threads()
        self.engine = self.make("engine_create", api.CPU, 0)
        self.stream = self.make("stream_create", self.engine, api.IN_ORDER)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._give_up_threads)

    @staticmethod
    def _function(loaded: Any, name: str) -> Function:
        function: Any = getattr(loaded, f"dnnl_{name}")
        function.argtypes, function.restype = api.SIGNATURES[name], ctypes.c_int
        return function  # type: ignore[no-any-return]

    def _give_up_threads(self) -> None:
        self._pause(2)  # omp_pause_hard, OpenMP 5.0

    def use_threads(self) -> None:
        """Lets oneDNN use as many threads as opyard may, when it is called by the current thread."""
        self.openmp.omp_set_num_threads(self.threads)

    @contextmanager
    def on_one_thread(self) -> Iterator[None]:
        """Within, primitives are made by the current thread for one thread: for kernels that are in several threads themselves."""
        before, self._alone.is_set = self._alone.is_set, True
        self.use_threads()
        try:
            yield
        finally:
            self._alone.is_set = before
            self.use_threads()

    def threads_for(self, operations: float) -> AbstractContextManager[None]:
        """Within, primitives are made for so many operations: on one thread where another one does not pay."""
        return self.on_one_thread() if operations < LITTLE else nullcontext()

    @property
    def threads(self) -> int:
        """How many threads what the current thread makes is for."""
        return 1 if self._alone.is_set else min(num_threads(), self._most)

    def make(self, function: str, *arguments: Any) -> c_void_p:
        """The handle that a function makes. Raises KernelError with the reason where it fails."""
        made = c_void_p()
        status = self.functions[function](ctypes.byref(made), *arguments)
        if status:
            raise KernelError(f"oneDNN's {function} failed: {describe_status(status)}")
        return made

    def instruction_set(self) -> str:
        """The widest instruction set that oneDNN uses here, such as "avx512_core"."""
        name: bytes = self.held["cpu_isa2str"](self.held["get_effective_cpu_isa"]())
        return name.decode().removeprefix("cpu_isa_")


def waking_seconds(operations: float) -> float:
    """Estimated seconds until other threads take part in a primitive of so many operations, where they do."""
    return WAKE_SECONDS if operations >= LITTLE and num_threads() > 1 else 0.0


def describe_status(status: int) -> str:
    """A status of the library in words."""
    return api.STATUS[status] if 0 <= status < len(api.STATUS) else f"status {status}"


@contextmanager
def _settings() -> Iterator[None]:
    """The environment that GNU OpenMP reads when it is loaded; what is set already stays."""
    wanted = {"OMP_NUM_THREADS": str(num_threads())}
    if "OMP_WAIT_POLICY" not in os.environ:
        wanted["GOMP_SPINCOUNT"] = SPINS
    new = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]


_lock = threading.Lock()


def library() -> Library:
    """The library, loaded once. Raises KernelError where it is missing or cannot be loaded."""
    with _lock:
        found = _load()
    if isinstance(found, str):
        raise KernelError(found)
    return found


def missing() -> str | None:
    """Why oneDNN cannot be used here, with what to do about it; None where it can."""
    with _lock:
        found = _load()
    return found if isinstance(found, str) else None


def follow_threads() -> None:
    """Lets oneDNN, where it is loaded, use as many threads as opyard may now, when it is called by the current thread."""
    found = _load() if _load.cache_info().currsize else None
    if isinstance(found, Library):
        found.use_threads()


@cache
def _load() -> Library | str:
    path = find()
    if path is None:
        return f"oneDNN is not installed; type: {INSTALL} (wheels exist for Linux on x86-64)"
    if not addresses_are_right():
        return "oneDNN cannot be called: arrays of this NumPy are laid out otherwise than its C API says"
    try:
        found = Library(path)
    except (OSError, AttributeError) as error:
        return f"oneDNN could not be loaded: {error}; it needs GNU OpenMP 9 or later, on Debian: apt install libgomp1"
    if (name := found.instruction_set()) in NARROW:
        return f"oneDNN is used on processors with AVX2 or more, and finds {name} here"
    return found


def find() -> str | None:
    """The path of the library in the wheel that is installed, or None."""
    from importlib.metadata import PackageNotFoundError, files

    try:
        listed = files(DISTRIBUTION) or []
    except PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in listed if file.name == FILE), None)

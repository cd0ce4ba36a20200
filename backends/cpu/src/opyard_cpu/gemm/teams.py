"""Compiled functions on several threads, which divide the work as they come: nobody waits for a thread that has not begun.

The work is cut into at most 32 chunks. The caller publishes it and begins; threads that are awake, or wake meanwhile, take chunks,
too, each first those of its own share, so that it finds again in its cache what it read the last time. In the end the caller waits
for chunks that were begun. With OpenMP, where each thread has its part, a product of 50 microseconds waits for all threads: on
busy processors for a time slice, on idle virtual ones for as long as it takes to wake one.

``in_parts`` of opyard_cpu.threads begins with Python in each thread, which takes longer than the smallest products. Those are called
by a built-in function (see jit/launch.py).
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ..jit.launch import KERNEL, Array, address, aligned, built_in
from ..jit.machine import Module, compiler
from .team_source import CLOSED, LEADER, PLACES, WORKER

_TABLE = ctypes.c_void_p * 4
"""What the leader is told: the pool, the function, its table, and how many threads may work."""


class _Pool:
    """Threads of the process that wait for work, and the words by which it is handed to them. One work at a time has helpers."""

    def __init__(self) -> None:
        self.memory: Array = aligned(8 * max(PLACES.values()) + 64).view(np.int64)
        self.memory[:] = 0
        libc = ctypes.CDLL(None)
        for name in ("syscall", "sched_yield"):
            self.memory[PLACES[name]] = ctypes.cast(getattr(libc, name), ctypes.c_void_p).value
        self._create: Any = libc.pthread_create
        self._lock = threading.Lock()
        self._begin_anew()
        self._leader, self._worker = map(compiler().function, (LEADER, WORKER))
        self.kernel = KERNEL(self._leader.address)
        # threads use them as long as the process lives, also while Python ends
        ctypes.pythonapi.Py_IncRef(ctypes.py_object((self, compiler())))
        os.register_at_fork(after_in_child=self._begin_anew)

    @property
    def leader(self) -> Module:
        """The function that publishes work and takes part in it."""
        return self._leader

    def _begin_anew(self) -> None:
        """A forked process has none of the threads, and nothing runs in it."""
        self._lock = threading.Lock()
        self._given: list[Array] = []
        for name in ("done", "sleepers", "busy"):
            self.memory[PLACES[name]] = 0
        self.memory[PLACES["state"]] = CLOSED

    def grow(self, helpers: int) -> None:
        """Starts threads until there are so many. Where the system refuses, there are fewer."""
        with self._lock:
            while len(self._given) < helpers:
                given = np.array([address(self.memory), len(self._given) + 1], np.int64)
                handle = ctypes.c_ulong()
                worker, data = ctypes.c_void_p(self._worker.address), ctypes.c_void_p(address(given))
                if self._create(ctypes.byref(handle), None, worker, data):
                    return
                self._given.append(given)


@cache
def _pool() -> _Pool:
    return _Pool()


def _table(module: Module, threads: int, sizes: int | None) -> Any:
    return _TABLE(address(_pool().memory), module.address, sizes, threads)


def on_threads(module: Module, count: int, threads: int) -> Callable[[Any, Any], None]:
    """``run(data, table)`` that calls the function ``kernel(data, table, begin, end)`` on parts of ``range(count)`` on so many threads."""
    threads = min(threads, count)
    if threads < 2:
        kernel = KERNEL(module.address)
        return lambda data, table: kernel(data, table, 0, count)
    pool = _pool()
    pool.grow(threads - 1)
    lead = pool.kernel

    def run(data: Any, table: Any) -> None:
        sizes = None if table is None else ctypes.addressof(table)
        lead(data, _table(module, threads, sizes), 0, count)

    return run


def held(
    module: Module,
    arrays: int,
    count: int,
    threads: int,
    scratch_bytes: int,
    otherwise: Callable[..., Any],
) -> Callable[..., Any]:
    """The same as a function of so many arrays, which holds the interpreter's lock: for what takes little. See ``built_in``."""
    threads = min(threads, count)
    if threads < 2:
        return built_in(module, arrays, np.empty(0, np.int64), count, scratch_bytes, otherwise)
    pool = _pool()
    pool.grow(threads - 1)
    table: Array = np.frombuffer(_table(module, threads, None), np.int64)
    return built_in(pool.leader, arrays, table, count, scratch_bytes, otherwise, needed=module)

"""Threads of the process that divide compiled work as they come: nobody waits for a thread that has not begun.

Work is cut into at most 32 chunks. The caller publishes it and begins; threads that are awake, or wake meanwhile, take chunks,
too, each first those of its own share, so that it finds again in its cache what it read the last time. In the end the caller waits
for chunks that were begun. With OpenMP, where each thread has its part, a product of 50 microseconds waits for all threads: on
busy processors for a time slice, on idle virtual ones for as long as it takes to wake one.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import threading
from functools import cache
from typing import Any

import numpy as np

from .launch import KERNEL, Array, address, aligned
from .machine import Module, compiler
from .pool_source import CHUNKS, CLOSED, LEADER, PLACES, WORKER


@cache
def missing() -> str | None:
    """Why there are no such threads here; None where there are."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "threads are shared by system calls of Linux on x86-64"
    return None


class Pool:
    """Threads that wait for work, and the words by which it is handed to them. One work at a time has helpers.

    leader  the function that publishes work and takes part in it, as LEADER says
    """

    def __init__(self) -> None:
        self.memory: Array = aligned(8 * max(PLACES.values()) + 64).view(np.int64)
        self.memory[:] = 0
        self.address = address(self.memory)
        libc = ctypes.CDLL(None)
        for name in ("syscall", "sched_yield"):
            self.memory[PLACES[name]] = ctypes.cast(getattr(libc, name), ctypes.c_void_p).value
        self._create: Any = libc.pthread_create
        self._begin_anew()
        self.leader, self._worker = map(compiler().function, (LEADER, WORKER))
        self.lead = KERNEL(self.leader.address)
        # threads use them as long as the process lives, also while Python ends
        ctypes.pythonapi.Py_IncRef(ctypes.py_object((self, compiler())))
        os.register_at_fork(after_in_child=self._begin_anew)

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
                given = np.array([self.address, len(self._given) + 1], np.int64)
                handle = ctypes.c_ulong()
                worker, data = ctypes.c_void_p(self._worker.address), ctypes.c_void_p(address(given))
                if self._create(ctypes.byref(handle), None, worker, data):
                    return
                self._given.append(given)

    def words(self, module: Module, threads: int, chunks: int = CHUNKS) -> list[int]:
        """What the leader is told: the pool, the function, the address of its table, how many threads may work, and the most chunks."""
        self.grow(threads - 1)
        return [self.address, module.address, 0, threads, min(chunks, CHUNKS)]


@cache
def pool() -> Pool:
    """The threads of this process."""
    return Pool()

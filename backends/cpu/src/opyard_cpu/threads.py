"""Kernels on several threads: each takes a part of the images, with BLAS on one thread meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from opyard.settings import num_threads

LEAST_WORK = 1e7
"""Operations, about 100 microseconds of them, below which another thread does not pay."""

_lock = threading.Lock()
_running = 0
_limits: list[int] = []


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_begin_anew)
    return ThreadPoolExecutor(workers, thread_name_prefix="opyard_cpu")


def _begin_anew() -> None:
    """A forked process has none of the threads, and nothing runs in it."""
    global _lock, _running
    _pool.cache_clear()
    _lock, _running = threading.Lock(), 0


@cache
def _libraries() -> list[Any]:
    """The BLAS libraries of this process."""
    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


def in_parts(function: Callable[[int, int], None], count: int, work: float) -> None:
    """Calls ``function(first, last)`` on parts of ``range(count)``, as many as there are threads, and waits for all.

    With little ``work``, in operations, it is called once, with everything.
    """
    threads = 1 if work < LEAST_WORK else min(num_threads(), count)
    if threads < 2:
        function(0, count)
        return
    ends = [count * number // threads for number in range(threads + 1)]
    _enter()
    try:
        pool = _pool(num_threads() - 1)
        others = [pool.submit(_quietly, function, *pair) for pair in pairwise(ends[1:])]
        try:
            function(ends[0], ends[1])
        finally:
            for other in others:
                other.result()
    finally:
        _leave()


def _quietly(function: Callable[[int, int], None], first: int, last: int) -> None:
    """NaN and infinity are values, and whether NumPy warns of them is set for each thread."""
    with np.errstate(all="ignore"):
        function(first, last)


def _enter() -> None:
    """Lets BLAS use one thread, unless somebody did so already."""
    global _running
    with _lock:
        _running += 1
        if _running == 1:
            _limits[:] = [library.get_num_threads() for library in _libraries()]
            for library in _libraries():
                library.set_num_threads(1)


def _leave() -> None:
    global _running
    with _lock:
        _running -= 1
        if _running == 0:
            for library, threads in zip(_libraries(), _limits, strict=True):
                library.set_num_threads(threads)

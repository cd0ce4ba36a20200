"""Kernels on several threads: each takes a part of the images, with BLAS on one thread meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from opyard.settings import limit_threads, num_threads

LEAST_WORK = 1e7
"""Operations, about 100 microseconds of them, below which another thread does not pay."""

_lock = threading.Lock()
_limits: list[int] = []
"""What is in force for BLAS: the least of these, and in ``_own`` the numbers of threads that the libraries had before."""

_own: list[int] = []


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_begin_anew)
    return ThreadPoolExecutor(workers, thread_name_prefix="opyard_cpu")


def _begin_anew() -> None:
    """A forked process has none of the threads, and nothing runs in it."""
    global _lock
    _pool.cache_clear()
    _lock = threading.Lock()
    _limits.clear()


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
    _enter(1)
    try:
        pool = _pool(num_threads() - 1)
        others = [pool.submit(_quietly, function, *pair) for pair in pairwise(ends[1:])]
        try:
            with limit_threads(1):
                function(ends[0], ends[1])
        finally:
            for other in others:
                other.result()
    finally:
        _leave(1)


@contextmanager
def few_threads(threads: int) -> Iterator[None]:
    """Within, BLAS uses at most so many threads in the whole process, and oneDNN where the current thread calls it."""
    from .onednn.library import follow_threads

    with limit_threads(threads):
        most = num_threads()
        follow_threads()
    _enter(most)
    try:
        yield
    finally:
        _leave(most)
        follow_threads()


def _quietly(function: Callable[[int, int], None], first: int, last: int) -> None:
    """NaN and infinity are values, and whether NumPy warns of them is set for each thread, as is how many threads it may use."""
    with limit_threads(1), np.errstate(all="ignore"):
        function(first, last)


def _enter(most: int) -> None:
    """Lets BLAS use no more threads, until ``_leave``."""
    with _lock:
        if not _limits:
            _own[:] = [library.get_num_threads() for library in _libraries()]
        _change(lambda: _limits.append(most))


def _leave(most: int) -> None:
    with _lock:
        _change(lambda: _limits.remove(most))


def _change(change: Callable[[], None]) -> None:
    """Changes the limits, and BLAS where another one is in force then."""
    before = min(_limits, default=0)
    change()
    limit = min(_limits, default=0)
    if limit != before:
        for library, own in zip(_libraries(), _own, strict=True):
            library.set_num_threads(min(limit, own) if limit else own)

"""Products on several threads, see opyard_cpu.jit.pool; small ones are called by a built-in function, see opyard_cpu.jit.launch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from ..jit.launch import KERNEL, built_in
from ..jit.machine import Module
from ..jit.pool import pool
from ..jit.pool_source import CHUNKS


def on_threads(module: Module, count: int, threads: int, chunks: int = CHUNKS) -> Callable[[Any, Any], None]:
    """``run(data, table)`` that calls the function ``kernel(data, table, begin, end)`` on parts of ``range(count)``, of which there are so
    many at most, on so many threads."""
    threads = min(threads, count)
    if threads < 2:
        kernel = KERNEL(module.address)
        return lambda data, table: kernel(data, table, 0, count)
    start, function, _, *sizes = pool().words(module, threads, chunks)
    lead, kind = pool().lead, ctypes.c_int64 * 5

    def run(data: Any, table: Any) -> None:
        place = 0 if table is None else ctypes.addressof(table)
        lead(data, kind(start, function, place, *sizes), 0, count)

    return run


def held(
    module: Module,
    arrays: int,
    count: int,
    threads: int,
    chunks: int,
    scratch_bytes: int,
    otherwise: Callable[..., Any],
) -> Callable[..., Any]:
    """The same as a function of so many arrays, which holds the interpreter's lock: for what takes little. See ``built_in``."""
    threads = min(threads, count)
    if threads < 2:
        return built_in(module, arrays, np.empty(0, np.int64), count, scratch_bytes, otherwise)
    table = np.array(pool().words(module, threads, chunks), np.int64)
    return built_in(pool().leader, arrays, table, count, scratch_bytes, otherwise, needed=module)

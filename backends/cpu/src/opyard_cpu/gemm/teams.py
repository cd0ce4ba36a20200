"""Products on all threads of GNU OpenMP, see opyard_cpu.jit.teams."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from ..jit.launch import KERNEL
from ..jit.machine import Module
from ..jit.teams import Shared, part
from ..onednn.library import library


def on_threads(module: Module, count: int, threads: int) -> Callable[[Any, Any], None]:
    """``run(data, table)`` that calls the function ``kernel(data, table, begin, end)`` on parts of ``range(count)``, one for each thread."""
    kernel, threads = KERNEL(module.address), min(threads, count)
    if threads < 2:
        return lambda data, table: kernel(data, table, 0, count)
    parallel, function = library().parallel, part().address
    _, _, _, *sizes = words = Shared(module, 0, 0, count, 1, count).words()
    kind = ctypes.c_int64 * len(words)

    def run(data: Any, table: Any) -> None:
        place = 0 if table is None else ctypes.addressof(table)
        parallel(function, kind(module.address, place, ctypes.addressof(data), *sizes), threads)

    return run

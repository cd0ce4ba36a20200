"""Products on several threads, see opyard_cpu.jit.teams; small ones are called by a built-in function, see opyard_cpu.jit.launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..jit.launch import built_in
from ..jit.machine import Module
from ..jit.pool import pool
from ..jit.teams import on_threads

__all__ = ["held", "on_threads"]


def held(
    module: Module,
    arrays: int,
    count: int,
    threads: int,
    scratch_bytes: int,
    otherwise: Callable[..., Any],
) -> Callable[..., Any]:
    """``on_threads`` as a function of so many arrays, which holds the interpreter's lock: for what takes little. See ``built_in``."""
    threads = min(threads, count)
    if threads < 2:
        return built_in(module, arrays, np.empty(0, np.int64), count, scratch_bytes, otherwise)
    table = np.array(pool().words(module, 0, threads), np.int64)
    return built_in(pool().leader, arrays, table, count, scratch_bytes, otherwise, needed=module)

"""Compiled functions on all threads of GNU OpenMP, the ones that oneDNN works with: they are awake when its kernels run before.

``in_parts`` of opyard_cpu.threads begins with Python in each thread, which takes longer than the smallest products. Those are called
by a built-in function (see jit/launch.py), which makes the team itself.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ..jit.launch import KERNEL, Array, built_in, loads
from ..jit.machine import Module, compiler
from ..onednn.library import library

_SOURCE = """
define void @kernel(ptr %words) nounwind {
  %at.data = getelementptr i64, ptr %words, i64 1
  %at.table = getelementptr i64, ptr %words, i64 2
  %at.count = getelementptr i64, ptr %words, i64 3
  %at.number = getelementptr i64, ptr %words, i64 4
  %at.threads = getelementptr i64, ptr %words, i64 5
  %run = load ptr, ptr %words
  %data = load ptr, ptr %at.data
  %table = load ptr, ptr %at.table
  %count = load i64, ptr %at.count
  %number = load ptr, ptr %at.number
  %threads = load ptr, ptr %at.threads
  %me = call i32 %number()
  %all = call i32 %threads()
  %first = zext i32 %me to i64
  %last = add i64 %first, 1
  %parts = zext i32 %all to i64
  %from = mul i64 %first, %count
  %to = mul i64 %last, %count
  %begin = udiv i64 %from, %parts
  %end = udiv i64 %to, %parts
  call void %run(ptr %data, ptr %table, i64 %begin, i64 %end)
  ret void
}
"""


_TEAM = {"parallel": "ptr", "part": "ptr", "run": "i64", "number": "i64", "team": "i64", "threads": "i32"}

_STORES = "\n".join(
    f"  %to.{name} = getelementptr i64, ptr %words, i64 {place}\n  store {kind} %{name}, ptr %to.{name}"
    for place, (name, kind) in enumerate(
        {"run": "i64", "data": "ptr", "none": "i64", "end": "i64", "number": "i64", "team": "i64"}.items()
    )
)

_TEAM_SOURCE = f"""
define void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end) nounwind {{
{loads("%table", _TEAM)}
  %none = add i64 0, 0
  %words = alloca [6 x i64]
{_STORES}
  call void %parallel(ptr %part, ptr %words, i32 %threads, i32 0)
  ret void
}}
"""
"""Makes the six words of a part, and lets a team of threads run it."""


@cache
def _part() -> Module:
    """The function of a thread: ``kernel(data, table, begin, end)`` on its share of ``count``, as six words say."""
    return compiler().function(_SOURCE)


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
    found, part, team = library(), _part(), compiler().function(_TEAM_SOURCE)
    words = [found.parallel_address, part.address, module.address, found.number, found.team, threads]
    table: Array = np.array(words, np.int64)
    return built_in(team, arrays, table, count, scratch_bytes, otherwise, needed=(module, part))


def on_threads(module: Module, count: int, threads: int) -> Callable[[Any, Any], None]:
    """``run(data, table)`` that calls the function ``kernel(data, table, begin, end)`` on parts of ``range(count)``, one for each thread."""
    kernel, threads = KERNEL(module.address), min(threads, count)
    if threads < 2:
        return lambda data, table: kernel(data, table, 0, count)
    found = library()
    parallel, number, team = found.parallel, found.number, found.team
    part, words = _part().address, ctypes.c_void_p * 6

    def run(data: Any, table: Any) -> None:
        sizes = None if table is None else ctypes.addressof(table)
        given = words(module.address, ctypes.addressof(data), sizes, count, number, team)
        parallel(part, given, threads)

    return run

"""Compiled functions on several threads of the pool: loops without the interpreter's lock, products, and small ones of these with it.

``in_parts`` of opyard_cpu.threads begins with Python in each thread, which takes some hundred microseconds more.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from .launch import KERNEL, built_in, loads
from .machine import Module, compiler
from .pool import pool
from .pool_source import CHUNKS
from .unlocked import lock_functions

_PART = {"run": "ptr", "table": "ptr", "arrays": "i64", "bytes": "i64", "unit": "i64", "end": "i64"}
"""Words of the function of a chunk: ``kernel(data, table, begin, end)`` and its table; data are so many arrays and scratch memory of so
many bytes, and units of so many elements end at the last one."""

_PART_SOURCE = f"""
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
define void @kernel(ptr %data, ptr %words, i64 %from.unit, i64 %to.unit) nounwind {{
{loads("%words", _PART)}
  %begin = mul i64 %from.unit, %unit
  %to.number = mul i64 %to.unit, %unit
  %is.last = icmp ugt i64 %to.number, %end
  %stop = select i1 %is.last, i64 %end, i64 %to.number
  %scratch = alloca i8, i64 %bytes, align 64
  %more = add i64 %arrays, 1
  %own = alloca ptr, i64 %more
  %nbytes = shl i64 %arrays, 3
  call void @llvm.memcpy.p0.p0.i64(ptr %own, ptr %data, i64 %nbytes, i1 false)
  %place = getelementptr ptr, ptr %own, i64 %arrays
  store ptr %scratch, ptr %place
  %none = icmp eq i64 %bytes, 0
  %given = select i1 %none, ptr %data, ptr %own
  call void %run(ptr %given, ptr %table, i64 %begin, i64 %stop)
  ret void
}}
"""

_LEAD = ("pool", "part", "words", "threads", "chunks")
"""Words of the leader of the pool."""

_TEAM = {"save": "ptr", "restore": "ptr", "lead": "ptr", "count": "i64"}
"""Words before those: functions of Python, the leader, and the number of units. Behind them are the words of a chunk."""

_TEAM_SOURCE = f"""
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
define void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end) nounwind {{
{loads("%table", _TEAM)}
  %given = getelementptr i64, ptr %table, i64 {len(_TEAM)}
  %leading = alloca i64, i64 {len(_LEAD) + len(_PART)}
  call void @llvm.memcpy.p0.p0.i64(ptr %leading, ptr %given, i64 {8 * (len(_LEAD) + len(_PART))}, i1 false)
  %words = getelementptr i64, ptr %leading, i64 {len(_LEAD)}
  %at.words = getelementptr ptr, ptr %leading, i64 {_LEAD.index("words")}
  store ptr %words, ptr %at.words
  %own = getelementptr i64, ptr %given, i64 {len(_LEAD) + len(_PART)}
  %at.own = getelementptr ptr, ptr %words, i64 {list(_PART).index("table")}
  store ptr %own, ptr %at.own
  %state = call ptr %save()
  call void %lead(ptr %data, ptr %leading, i64 0, i64 %count)
  call void %restore(ptr %state)
  ret void
}}
"""
"""Calls another kernel on the threads of the pool, without the interpreter's lock."""


@dataclass(frozen=True, slots=True)
class Shared:
    """A kernel that is divided into ``count`` units up to ``end``; where it has scratch memory, that is behind so many arrays."""

    module: Module
    arrays: int
    scratch_bytes: int
    count: int
    unit: int
    end: int


@cache
def _part() -> Module:
    return compiler().function(_PART_SOURCE)


def team(kernel: Shared, threads: int) -> tuple[Module, list[int]]:
    """A kernel that runs another one on so many threads, and what is in front of the table of that one."""
    words = pool().words(_part(), min(threads, kernel.count))
    before = [*lock_functions(), pool().leader.address, kernel.count]
    sizes = [kernel.arrays, kernel.scratch_bytes, kernel.unit, kernel.end]
    return compiler().function(_TEAM_SOURCE), [*before, *words, kernel.module.address, 0, *sizes]


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
    """``on_threads`` as a function of so many arrays, which holds the interpreter's lock: for what takes little. See ``built_in``."""
    threads = min(threads, count)
    if threads < 2:
        return built_in(module, arrays, np.empty(0, np.int64), count, scratch_bytes, otherwise)
    table = np.array(pool().words(module, threads, chunks), np.int64)
    return built_in(pool().leader, arrays, table, count, scratch_bytes, otherwise, needed=module)

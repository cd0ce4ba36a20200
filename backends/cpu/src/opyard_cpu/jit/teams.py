"""Compiled functions on all threads of GNU OpenMP, the ones that oneDNN works with: they are awake when its kernels run before.

``in_parts`` of opyard_cpu.threads begins with Python in each thread, which takes some hundred microseconds more.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..onednn.library import library
from .launch import KERNEL, loads
from .machine import Module, compiler
from .unlocked import lock_functions

_PART = {
    "run": "ptr",
    "table": "ptr",
    "data": "ptr",
    "arrays": "i64",
    "bytes": "i64",
    "count": "i64",
    "unit": "i64",
    "end": "i64",
    "number": "ptr",
    "threads": "ptr",
}
"""Words of the function of a thread: ``kernel(data, table, begin, end)``, its arguments, of which data are so many arrays and
scratch memory of so many bytes, in how many units up to the end it is divided, and two functions of OpenMP."""

_PART_SOURCE = f"""
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
define void @kernel(ptr %words) nounwind {{
{loads("%words", _PART)}
  %me = call i32 %number()
  %all = call i32 %threads()
  %first = zext i32 %me to i64
  %last = add i64 %first, 1
  %parts = zext i32 %all to i64
  %from = mul i64 %first, %count
  %to = mul i64 %last, %count
  %from.unit = udiv i64 %from, %parts
  %to.unit = udiv i64 %to, %parts
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

_TEAM = {"save": "ptr", "restore": "ptr", "parallel": "ptr", "part": "ptr", "size": "i64"}
"""Words before those of the function of a thread: functions of Python and of OpenMP, that function, and the number of threads."""

_TEAM_SOURCE = f"""
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
define void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end) nounwind {{
{loads("%table", _TEAM)}
  %given = getelementptr i64, ptr %table, i64 {len(_TEAM)}
  %words = alloca i64, i64 {len(_PART)}
  call void @llvm.memcpy.p0.p0.i64(ptr %words, ptr %given, i64 {8 * len(_PART)}, i1 false)
  %own = getelementptr i64, ptr %given, i64 {len(_PART)}
  %at.own = getelementptr ptr, ptr %words, i64 {list(_PART).index("table")}
  store ptr %own, ptr %at.own
  %at.data = getelementptr ptr, ptr %words, i64 {list(_PART).index("data")}
  store ptr %data, ptr %at.data
  %threads = trunc i64 %size to i32
  %state = call ptr %save()
  call void %parallel(ptr %part, ptr %words, i32 %threads, i32 0)
  call void %restore(ptr %state)
  ret void
}}
"""
"""Calls another kernel on a team of threads, without the interpreter's lock."""


@dataclass(frozen=True, slots=True)
class Shared:
    """A kernel that is divided into ``count`` units up to ``end``; where it has scratch memory, that is behind so many arrays."""

    module: Module
    arrays: int
    scratch_bytes: int
    count: int
    unit: int
    end: int

    def words(self, table: int = 0, data: int = 0) -> list[int]:
        """What the function of a thread reads."""
        found = library()
        sizes = (self.arrays, self.scratch_bytes, self.count, self.unit, self.end)
        return [self.module.address, table, data, *sizes, found.number, found.team]


@cache
def part() -> Module:
    """The function of a thread, of the address of the words of a shared kernel."""
    return compiler().function(_PART_SOURCE)


def team(kernel: Shared, threads: int) -> tuple[Module, list[int]]:
    """A kernel that runs another one on so many threads, and what is in front of the table of that one."""
    words = [library().parallel_address, part().address, min(threads, kernel.count), *kernel.words()]
    return compiler().function(_TEAM_SOURCE), [*lock_functions(), *words]


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

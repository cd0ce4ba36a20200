"""Compiled functions on all threads of GNU OpenMP, the ones that oneDNN works with: they are awake when its kernels run before.

``in_parts`` of opyard_cpu.threads begins with Python in each thread, which takes longer than the smallest products.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from ..jit.launch import KERNEL
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


@cache
def _part() -> Module:
    """The function of a thread: ``kernel(data, table, begin, end)`` on its share of ``count``, as six words say."""
    return compiler().function(_SOURCE)


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

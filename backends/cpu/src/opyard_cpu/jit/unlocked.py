"""Compiled functions that run without the interpreter's lock, when they are called by a built-in function."""

from __future__ import annotations

import ctypes

from .machine import Module

_WORDS = ("save", "restore", "run", "count", "bytes")

_LOADS = "\n".join(
    f"  %at.{name} = getelementptr i64, ptr %table, i64 {place}\n  %{name} = load i64, ptr %at.{name}"
    for place, name in enumerate(_WORDS)
)

UNLOCKED = f"""
define void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end) nounwind {{
{_LOADS}
  %scratch = alloca i8, i64 %bytes, align 64
  %place = getelementptr ptr, ptr %data, i64 %count
  store ptr %scratch, ptr %place
  %own = getelementptr i64, ptr %table, i64 {len(_WORDS)}
  %release = inttoptr i64 %save to ptr
  %take = inttoptr i64 %restore to ptr
  %function = inttoptr i64 %run to ptr
  %state = call ptr %release()
  call void %function(ptr %data, ptr %own, i64 %begin, i64 %end)
  call void %take(ptr %state)
  ret void
}}
"""
"""Calls another kernel without the lock. Several threads may do so at once, so each has scratch memory on its stack."""


def lock_functions() -> list[int]:
    """The addresses of the functions of Python that give the lock up, and take it again."""
    names = ("PyEval_SaveThread", "PyEval_RestoreThread")
    return [ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0 for name in names]


def unlocking(module: Module, arrays: int, scratch_bytes: int) -> list[int]:
    """What is in front of the table of a kernel of so many arrays."""
    return [*lock_functions(), module.address, arrays, scratch_bytes]

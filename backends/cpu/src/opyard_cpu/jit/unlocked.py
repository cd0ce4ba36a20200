"""Compiled functions that run without the interpreter's lock, when they are called by a built-in function."""

from __future__ import annotations

import ctypes

from .launch import loads
from .machine import Module

_WORDS = {"save": "ptr", "restore": "ptr", "run": "ptr", "count": "i64", "bytes": "i64"}

UNLOCKED = f"""
define void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end) nounwind {{
{loads("%table", _WORDS)}
  %scratch = alloca i8, i64 %bytes, align 64
  %place = getelementptr ptr, ptr %data, i64 %count
  store ptr %scratch, ptr %place
  %own = getelementptr i64, ptr %table, i64 {len(_WORDS)}
  %state = call ptr %save()
  call void %run(ptr %data, ptr %own, i64 %begin, i64 %end)
  call void %restore(ptr %state)
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

"""Calls of primitives by a compiled built-in function of Python, for those that take so little that a call by ctypes would show.

The function reads the addresses of arrays from the objects themselves (see jit/launch.py), stores them into the memories, and
executes: 0.1 microseconds beside oneDNN's own. It holds the interpreter's lock, so that all threads share its memories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import addressof, c_void_p, cast
from functools import cache
from typing import Any

import numpy as np

from ..jit.launch import built_in, loads
from ..jit.machine import Module, compiler, missing
from .addresses import Array, address, dense
from .execution import Execution, Scratch, arguments_of
from .library import library
from .primitives import Primitive

Call = Callable[..., Any]
"""A function of arrays for the roles of a primitive, the last of which it writes and gives back."""

HELD = 1e7
"""Operations, about 100 microseconds of them, up to which the interpreter's lock is held; Python itself keeps it for 5 milliseconds."""

_HEAD = {
    "set": "ptr",
    "execute": "ptr",
    "primitive": "ptr",
    "stream": "ptr",
    "count": "i64",
    "arguments": "ptr",
    "threads": "ptr",
    "use": "ptr",
    "wanted": "i64",
}
"""Words before the memories: functions of oneDNN and of OpenMP, and what they are called with."""

_SOURCE = f"""
define i64 @kernel(ptr %data, ptr %table, i64 %begin, i64 %end) nounwind {{
entry:
{loads("%table", _HEAD)}
  %memories = getelementptr i64, ptr %table, i64 {len(_HEAD)}
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %j, %loop ]
  %m = getelementptr ptr, ptr %memories, i64 %i
  %memory = load ptr, ptr %m
  %d = getelementptr ptr, ptr %data, i64 %i
  %address = load ptr, ptr %d
  %set.status = call i32 %set(ptr %memory, ptr %address)
  %j = add i64 %i, 1
  %again = icmp ult i64 %j, %end
  br i1 %again, label %loop, label %go
go:
  %n = trunc i64 %count to i32
  %w = trunc i64 %wanted to i32
  %before = call i32 %threads()
  call void %use(i32 %w)
  %status = call i32 %execute(ptr %primitive, ptr %stream, i32 %n, ptr %arguments)
  call void %use(i32 %before)
  %result = zext i32 %status to i64
  ret i64 %result
}}
"""


@cache
def _module() -> Module:
    return compiler().function(_SOURCE)


@cache
def _scratch() -> Scratch:
    """Memory that primitives use while they run, shared by all calls that hold the lock."""
    return Scratch()


def on_dense(primitive: Primitive, roles: Sequence[str], operations: float) -> Call:
    """A primitive of so many operations as a function of arrays, which are copied where they are not dense."""
    execution = Execution(primitive, roles)

    def released(*arrays: Array) -> Array:
        given = [*map(dense, arrays[:-1]), arrays[-1]]
        execution.run(*map(address, given))
        return arrays[-1]

    return released if operations > HELD or missing() else _held(primitive, roles, released)


def _held(primitive: Primitive, roles: Sequence[str], otherwise: Call) -> Call:
    found, scratch = library(), _scratch().of(primitive.scratchpad.nbytes)
    memories, arguments = arguments_of(primitive, roles, scratch)
    functions = [
        found.held["memory_set_data_handle"],
        *(found.execute, found.openmp.omp_get_max_threads, found.openmp.omp_set_num_threads),
    ]
    put, execute, threads, use = (cast(function, c_void_p).value for function in functions)
    words = [
        *(put, execute, primitive.handle.value, found.stream.value, len(memories), addressof(arguments)),
        *(threads, use, primitive.threads, *(memory.handle.value for memory in memories[: len(roles)])),
    ]
    table = np.array(words, np.int64)
    return built_in(
        _module(),
        len(roles),
        table,
        len(roles),
        0,
        otherwise,
        may_fail=True,
        needed=(primitive, memories, arguments, scratch),
    )

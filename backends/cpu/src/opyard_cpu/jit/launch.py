"""Calling compiled functions: by a built-in function of Python for small arrays, on all threads for large ones.

The built-in function is compiled, too. It reads the addresses of arrays from the objects themselves (``PyArrayObject_fields`` of
NumPy's C API), so a call costs some tens of nanoseconds; whatever it does not know, such as arrays that are not dense, it hands
to a function in Python. It holds the interpreter's lock, the other one releases it.
"""

from __future__ import annotations

import ctypes
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from .machine import Module, compiler

Array = np.ndarray[Any, Any]

KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
"""``kernel(data, table, begin, end)``, see nest.py."""

_FAST, _KEYWORDS = 0x80, 0x02
DENSE = 0x0001 | 0x0100
"""Flags of NumPy: C order, and aligned."""

_HEAD = {
    "count": "i64",
    "kind": "ptr",
    "run": "ptr",
    "other": "ptr",
    "end": "i64",
    "scratch": "ptr",
    "keep": "ptr",
    "call": "ptr",
}
"""Words before the table of the kernel: number and type of arrays, kernel, fallback, end, scratch, and two functions of Python."""


def loads(words: str, head: Mapping[str, str]) -> str:
    """Instructions that read the words of a head, each of a name and a type, from the address ``words``."""
    return "\n".join(
        f"  %at.{name} = getelementptr i64, ptr {words}, i64 {place}\n  %{name} = load {kind}, ptr %at.{name}"
        for place, (name, kind) in enumerate(head.items())
    )


_CALLS = {
    False: """
  call void %run(ptr %data, ptr %table, i64 0, i64 %end)
  br label %done
""",
    True: """
  %status = call i64 %run(ptr %data, ptr %table, i64 0, i64 %end)
  %fine = icmp eq i64 %status, 0
  br i1 %fine, label %done, label %fallback
""",
}
"""How the kernel is called: one that gives nothing, and one that may fail."""

_SOURCE = f"""
define ptr @kernel(ptr %self, ptr %arguments, i64 %given, ptr %names) nounwind {{
entry:
  %place = getelementptr i8, ptr %self, i64 16
  %words = load ptr, ptr %place
{loads("%words", _HEAD)}
  %table = getelementptr i64, ptr %words, i64 {len(_HEAD)}
  %named = icmp ne ptr %names, null
  %one = zext i1 %named to i64
  %positional = and i64 %given, 9223372036854775807
  %total = add i64 %positional, %one
  %right = icmp eq i64 %total, %count
  br i1 %right, label %prepare, label %fallback
prepare:
  %more = add i64 %count, 1
  %data = alloca ptr, i64 %more
  br label %loop
loop:
  %i = phi i64 [ 0, %prepare ], [ %j, %next ]
  %a = getelementptr ptr, ptr %arguments, i64 %i
  %object = load ptr, ptr %a
  %p8 = getelementptr i8, ptr %object, i64 8
  %type = load ptr, ptr %p8
  %same = icmp eq ptr %type, %kind
  br i1 %same, label %array, label %fallback
array:
  %p64 = getelementptr i8, ptr %object, i64 64
  %flags = load i32, ptr %p64
  %both = and i32 %flags, {DENSE}
  %dense = icmp eq i32 %both, {DENSE}
  br i1 %dense, label %next, label %fallback
next:
  %p16 = getelementptr i8, ptr %object, i64 16
  %address = load ptr, ptr %p16
  %d = getelementptr ptr, ptr %data, i64 %i
  store ptr %address, ptr %d
  %j = add i64 %i, 1
  %again = icmp ult i64 %j, %count
  br i1 %again, label %loop, label %go
go:
  %ds = getelementptr ptr, ptr %data, i64 %count
  store ptr %scratch, ptr %ds
CALL
done:
  call void %keep(ptr %object)
  ret ptr %object
fallback:
  %result = call ptr %call(ptr %other, ptr %arguments, i64 %given, ptr %names)
  ret ptr %result
}}
"""


class _Definition(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


def source(may_fail: bool) -> str:
    """The built-in function for kernels that give nothing, or those that may fail."""
    return _SOURCE.replace("CALL", _CALLS[may_fail].strip("\n"))


@cache
def _entry(text: str) -> tuple[_Definition, Module, Any] | None:
    """The definition of a built-in function; None where objects of Python are laid out in another way."""
    if sysconfig.get_config_var("Py_GIL_DISABLED") or not _layout_is_known():
        return None
    module = compiler().function(text)
    definition = _Definition(b"compiled", module.address, _FAST | _KEYWORDS, None)
    # functions read both as long as one of them lives, also while it is collected: they stay for good
    ctypes.pythonapi.Py_IncRef(ctypes.py_object((definition, module)))
    new = ctypes.pythonapi.PyCFunction_NewEx
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
    return definition, module, new


def _layout_is_known() -> bool:
    """Whether address, type, sizes and flags of an array are where they are expected."""
    array = np.arange(3.0)
    words = (ctypes.c_int64 * 9).from_address(id(array))
    rank, flags = (words[place] & 0xFFFFFFFF for place in (3, 8))
    known = words[1] == id(np.ndarray) and words[2] == address(array) and flags == int(array.flags.num)
    return known and rank == 1 and ctypes.c_int64.from_address(words[4]).value == 3


def address(array: Array) -> int:
    """Where the first element of an array is."""
    found: int = array.__array_interface__["data"][0]
    return found


def aligned(nbytes: int) -> Array:
    """Memory that begins with a line of the caches: vectors that lie on two of them take twice as long."""
    room = np.empty(nbytes + 64, np.uint8)
    skipped = -address(room) % 64
    return room[skipped : skipped + nbytes]


def built_in(
    module: Module,
    arrays: int,
    table: Array,
    end: int,
    scratch_bytes: int,
    fallback: Callable[..., Any],
    *,
    may_fail: bool = False,
    needed: object = None,
) -> Callable[..., Any]:
    """A function of so many dense arrays, the outputs last, of which one may be named ``out``; it gives the last one back.

    Anything else is handed to ``fallback``, which also is what there is where Python's objects are not known. ``may_fail``: the
    kernel gives a number, and where that is not zero, ``fallback`` is called as well. ``needed`` is kept alive for the kernel.
    """
    scratch = aligned(scratch_bytes)
    functions = map(function_of_python, ("Py_IncRef", "PyObject_Vectorcall"))
    head = [arrays, id(np.ndarray), module.address, id(fallback), end, address(scratch), *functions]
    found = built_in_of(source(may_fail), [*head, *table], (module, fallback, scratch, needed))
    return fallback if found is None else found


def function_of_python(name: str) -> int:
    """The address of a function of Python's C API."""
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


def built_in_of(text: str, words: Sequence[int], needed: tuple[Any, ...]) -> Callable[..., Any] | None:
    """The built-in function of a text, with its words, which keep alive what is ``needed``; None where objects of Python are unknown.

    The text is of ``kernel(self, arguments, given, names)``, and the words are the data of the array ``self``.
    """
    entry = _entry(text)
    if entry is None:
        return None
    definition, _, new = entry
    holder = _Words((len(words),), np.int64)
    holder[...] = words
    holder.needed = needed
    found: Callable[..., Any] = new(ctypes.addressof(definition), holder, None)
    return found


class _Words(np.ndarray[Any, Any]):
    """Words that keep alive what their numbers point to."""

    needed: tuple[Any, ...]

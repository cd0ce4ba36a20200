"""Starting a kernel by one compiled built-in function of Python, made by llvmlite where that is installed.

The function reads the handles of buffers from the arrays themselves, sets them as the kernel's arguments and puts the kernel into the
queue, which takes a third of what the same calls by pyopencl take. It holds the interpreter's lock all the while, as
pyopencl does, so that threads share the kernel. What it does not expect it hands to a function in Python.
"""

from __future__ import annotations

import ctypes
import sys
import sysconfig
import threading
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from opyard.spec import TensorSpec

from .array import Array

if TYPE_CHECKING:
    from .device import OpenCLDevice

_FAST, _KEYWORDS = 0x80, 0x02  # METH_FASTCALL, METH_KEYWORDS
_SLOTS = ("device", "dtype", "handle", "shape")  # of an Array
_lock = threading.Lock()

_HEAD = {
    "count": "i64",
    "kind": "ptr",
    "device": "ptr",
    "flight": "ptr",
    "kernel": "ptr",
    "items": "i64",
    "group": "i64",
    "weight": "i64",
    "out": "ptr",
    "other": "ptr",
}
"""Words before the shapes and dtypes: number and type of arrays, their device and its Flight, kernel, work items and those of a group,
what one start weighs, the name of the last array if it has one, and the function for everything else."""

_LOADS = "\n".join(
    f"  %at.{name} = getelementptr i64, ptr %words, i64 {place}\n  %{name} = load {kind}, ptr %at.{name}"
    for place, (name, kind) in enumerate(_HEAD.items())
)

_SOURCE = f"""
declare i32 @clSetKernelArg(ptr, i32, i64, ptr)
declare i32 @clEnqueueNDRangeKernel(ptr, ptr, i32, ptr, ptr, ptr, i32, ptr, ptr)
declare ptr @PyLong_AsVoidPtr(ptr)
declare i32 @PyList_Append(ptr, ptr)
declare i64 @PyTuple_Size(ptr)
declare ptr @PyTuple_GetItem(ptr, i64)
declare i32 @PyObject_RichCompareBool(ptr, ptr, i32)
declare ptr @PyObject_Vectorcall(ptr, ptr, i64, ptr)
declare void @Py_IncRef(ptr)

define i32 @differs(ptr %found, ptr %wanted) nounwind {{
entry:
  %any = icmp eq ptr %wanted, null
  %same = icmp eq ptr %found, %wanted
  %fine = or i1 %any, %same
  br i1 %fine, label %equal, label %compare
compare:
  %answer = call i32 @PyObject_RichCompareBool(ptr %found, ptr %wanted, i32 3)
  ret i32 %answer
equal:
  ret i32 0
}}

define ptr @start(ptr %self, ptr %arguments, i64 %given, ptr %names) nounwind {{
entry:
  %place = getelementptr i8, ptr %self, i64 16
  %words = load ptr, ptr %place
{_LOADS}
  %table = getelementptr i64, ptr %words, i64 {len(_HEAD)}
  %queue = load ptr, ptr %flight
  %at.room = getelementptr i64, ptr %flight, i64 1
  %room = load i64, ptr %at.room
  %at.started = getelementptr i64, ptr %flight, i64 2
  %started = load ptr, ptr %at.started
  %left = sub i64 %room, %weight
  %keeps = icmp ne i64 %weight, 0
  %value = alloca ptr
  %full = icmp slt i64 %left, 0
  br i1 %full, label %fallback, label %look
look:
  %unnamed = icmp eq ptr %names, null
  br i1 %unnamed, label %positional, label %keywords
positional:
  %nameless = icmp eq ptr %out, null
  %all = icmp eq i64 %given, %count
  %right = and i1 %nameless, %all
  br i1 %right, label %loop, label %fallback
keywords:
  %named = call i64 @PyTuple_Size(ptr %names)
  %total = add i64 %given, %named
  %enough = icmp eq i64 %total, %count
  %one = icmp eq i64 %named, 1
  %both = and i1 %enough, %one
  br i1 %both, label %name, label %fallback
name:
  %word = call ptr @PyTuple_GetItem(ptr %names, i64 0)
  %known = icmp eq ptr %word, %out
  br i1 %known, label %loop, label %fallback
loop:
  %i = phi i64 [ 0, %positional ], [ 0, %name ], [ %j, %next ]
  %a = getelementptr ptr, ptr %arguments, i64 %i
  %array = load ptr, ptr %a
  %at.type = getelementptr i64, ptr %array, i64 1
  %type = load ptr, ptr %at.type
  %ours = icmp eq ptr %type, %kind
  br i1 %ours, label %place.of, label %fallback
place.of:
  %at.owner = getelementptr i8, ptr %array, i64 DEVICE
  %owner = load ptr, ptr %at.owner
  %here = icmp eq ptr %owner, %device
  br i1 %here, label %shape.of, label %fallback
shape.of:
  %at.shape = getelementptr i8, ptr %array, i64 SHAPE
  %shape = load ptr, ptr %at.shape
  %row = getelementptr [2 x ptr], ptr %table, i64 %i
  %shape.wanted = load ptr, ptr %row
  %shape.differs = call i32 @differs(ptr %shape, ptr %shape.wanted)
  switch i32 %shape.differs, label %fallback [ i32 0, label %dtype.of
                                               i32 -1, label %failed ]
dtype.of:
  %at.dtype = getelementptr i8, ptr %array, i64 DTYPE
  %dtype = load ptr, ptr %at.dtype
  %column = getelementptr ptr, ptr %row, i64 1
  %dtype.wanted = load ptr, ptr %column
  %dtype.differs = call i32 @differs(ptr %dtype, ptr %dtype.wanted)
  switch i32 %dtype.differs, label %fallback [ i32 0, label %set
                                               i32 -1, label %failed ]
set:
  %at.handle = getelementptr i8, ptr %array, i64 HANDLE
  %number = load ptr, ptr %at.handle
  %handle = call ptr @PyLong_AsVoidPtr(ptr %number)
  store ptr %handle, ptr %value
  %position = trunc i64 %i to i32
  %set.status = call i32 @clSetKernelArg(ptr %kernel, i32 %position, i64 8, ptr %value)
  %is.set = icmp eq i32 %set.status, 0
  br i1 %is.set, label %keep, label %fallback
keep:
  br i1 %keeps, label %append, label %next
append:
  %kept = call i32 @PyList_Append(ptr %started, ptr %array)
  %lost = icmp ne i32 %kept, 0
  br i1 %lost, label %failed, label %next
next:
  %j = add i64 %i, 1
  %again = icmp ult i64 %j, %count
  br i1 %again, label %loop, label %self.keep
self.keep:
  br i1 %keeps, label %self.append, label %enqueue
self.append:
  %self.kept = call i32 @PyList_Append(ptr %started, ptr %self)
  %self.lost = icmp ne i32 %self.kept, 0
  br i1 %self.lost, label %failed, label %enqueue
enqueue:
  %status = call i32 @clEnqueueNDRangeKernel(ptr %queue, ptr %kernel, i32 1, ptr null, ptr %at.items, ptr %at.group, i32 0, ptr null, ptr null)
  %is.started = icmp eq i32 %status, 0
  br i1 %is.started, label %done, label %fallback
done:
  store i64 %left, ptr %at.room
  call void @Py_IncRef(ptr %array)
  ret ptr %array
failed:
  ret ptr null
fallback:
  %result = call ptr @PyObject_Vectorcall(ptr %other, ptr %arguments, i64 %given, ptr %names)
  ret ptr %result
}}
"""


class Flight(ctypes.Structure):
    """What is on its way on a device.

    queue    its handle
    room     bytes that may be started before the queue is waited for
    started  a list of what must live until the queue is done
    """

    _fields_ = (("queue", ctypes.c_void_p), ("room", ctypes.c_int64), ("started", ctypes.py_object))


class _Definition(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


class _Words(np.ndarray[Any, Any]):
    """Words that keep alive what their numbers point to."""

    needed: tuple[object, ...]


def starter(
    device: OpenCLDevice,
    kernel: Any,
    items: int,
    group: int,
    weight: int,
    specs: Sequence[TensorSpec] | int,
    otherwise: Callable[..., Any],
    needed: object,
) -> Callable[..., Any]:
    """A function of Arrays that starts ``kernel`` on them and gives the last one back, see `available`.

    ``specs`` is the number of arrays, or what they must be, in which case the last one is named ``out``. ``weight`` is what a
    start takes of the Flight's room; with 0 nothing is kept alive. All else, and errors, are left to ``otherwise``. What is
    ``needed`` lives as long as the function, and until the kernel is done.
    """
    wanted = [] if isinstance(specs, int) else [part for spec in specs for part in (spec.shape, spec.dtype)]
    count, name = (specs, 0) if isinstance(specs, int) else (len(specs), id(_OUT))
    make = _maker()
    assert make is not None and count
    head = [count, id(Array), id(device), ctypes.addressof(device.flight), kernel.int_ptr]
    head += [items, group, weight, name, id(otherwise)]
    table = list(map(id, wanted)) or [0] * 2 * count
    words = _Words((len(head) + len(table),), np.uint64)
    words[:] = [*head, *table]
    words.needed = (device, device.flight, kernel, wanted, otherwise, needed)
    found: Callable[..., Any] = make(words)
    return found


_OUT = sys.intern("out")  # the very object that calls have


@cache
def _offsets() -> dict[str, int] | None:
    """Where an Array has its attributes, in bytes; None where objects of Python are laid out in another way."""
    array = object.__new__(Array)
    marks = {name: object() for name in _SLOTS}
    for name, mark in marks.items():
        setattr(array, name, mark)
    words = list((ctypes.c_size_t * (Array.__basicsize__ // 8)).from_address(id(array)))
    numbers = np.zeros(1, np.uint64)
    data = (ctypes.c_size_t * 3).from_address(id(numbers))[2]
    known = words[1] == id(Array) and data == numbers.__array_interface__["data"][0]
    if not known or any(words.count(id(mark)) != 1 for mark in marks.values()):
        return None
    return {name: 8 * words.index(id(mark)) for name, mark in marks.items()}


def available() -> bool:
    """Whether such functions can be made here: needs llvmlite, and Python's objects laid out as is expected."""
    return _maker() is not None


def _maker() -> Callable[[_Words], Callable[..., Any]] | None:
    """What makes a built-in function of words."""
    with _lock:
        return _compiled()


@cache
def _compiled() -> Callable[[_Words], Callable[..., Any]] | None:
    free = sysconfig.get_config_var("Py_GIL_DISABLED")
    if free or sys.implementation.name != "cpython" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    offsets, driver = _offsets(), _driver()
    if offsets is None or driver is None or find_spec("llvmlite") is None:
        return None
    from llvmlite import binding

    source = _SOURCE
    for slot, offset in offsets.items():
        source = source.replace(slot.upper(), str(offset))
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    module = binding.parse_assembly(source)
    module.verify()
    for function in module.functions:
        if function.is_declaration:
            library = driver if function.name.startswith("cl") else ctypes.pythonapi
            address = ctypes.cast(getattr(library, function.name), ctypes.c_void_p).value
            binding.add_symbol(function.name, address)
    machine = binding.Target.from_default_triple().create_target_machine(jit=True)
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    definition = _Definition(b"start", engine.get_function_address("start"), _FAST | _KEYWORDS, None)
    # functions read both as long as one of them lives, also while it is collected: they stay for good
    ctypes.pythonapi.Py_IncRef(ctypes.py_object((definition, engine)))
    new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)(
        ("PyCFunction_NewEx", ctypes.pythonapi)
    )
    return lambda words: new(ctypes.addressof(definition), words, None)


def _driver() -> Any:
    """The library that pyopencl calls OpenCL by; None where its functions cannot be found through the binding."""
    import pyopencl

    library = ctypes.CDLL(pyopencl._cl.__file__)
    return library if hasattr(library, "clEnqueueNDRangeKernel") else None

"""Blocks of tiles on the threads of the pool: transformed, multiplied by oneDNN, transformed back, in one compiled function.

A thread that takes blocks takes a place first: memory for the points and the products of one block, and arguments for oneDNN that
name it. There are as many places as threads, so one is always free. Two threads of Python began some hundred microseconds late,
which is a quarter of a convolution of 56x56 pixels and 64 channels.

Where there are few tiles and many weights, each thread would read all weights for its own tiles. There the threads divide the tiles
for the transforms alone, and the 36 points for the products: three steps one after the other.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from ctypes import addressof, c_int64, c_void_p, cast
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ..jit.launch import loads
from ..jit.machine import Module, compiler
from ..jit.teams import on_threads
from ..onednn.addresses import Array, address, aligned
from ..onednn.execution import arguments_of, fail
from ..onednn.library import library
from ..onednn.plain import room, room_for
from ..onednn.primitives import Primitive
from .transforms import INPUTS, OUTPUTS, POINTS

ROLES = ("src", "weights", "dst")

_DATA = {
    "x": "ptr",
    "weights": "ptr",
    "bias": "ptr",
    "residual": "ptr",
    "output": "ptr",
    "checks": "ptr",
    "room": "ptr",
}
"""Words of a run: arrays, a line of numbers for each place, and memory for all places."""

_TABLE = {
    "enter": "ptr",
    "leave": "ptr",
    "sizes.in": "ptr",
    "sizes.out": "ptr",
    "zeros": "ptr",
    "tiles": "i64",
    "block": "i64",
    "products.offset": "i64",
    "spare.offset": "i64",
    "place.bytes": "i64",
    "set": "ptr",
    "execute": "ptr",
    "threads": "ptr",
    "use": "ptr",
    "primitive": "ptr",
    "stream": "ptr",
    "arguments.count": "i64",
    "failed": "ptr",
    "taken": "ptr",
    "places": "i64",
}
"""Words that stay: both transforms with their sizes, how tiles and places are cut, oneDNN's functions, where a status goes, and which
places are taken."""

_PLACE = {"src": "ptr", "weights.memory": "ptr", "dst": "ptr", "arguments": "ptr"}
"""Words behind those for each place: what oneDNN is given."""

LINE = 64
"""Bytes of a cache line, and of the numbers that show whether all results of a place are finite."""


def _stores(table: str, names: Sequence[str], known: dict[str, str]) -> str:
    """Instructions that fill a table of addresses."""
    return "\n".join(
        f"  %{table}.{n} = getelementptr ptr, ptr %{table}, i64 {n}\n  store ptr {known[name]}, ptr %{table}.{n}"
        for n, name in enumerate(names)
    )


_SOURCE = f"""
define void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end) nounwind {{
entry:
{loads("%data", _DATA)}
{loads("%table", _TABLE)}
  %given.places = getelementptr i64, ptr %table, i64 {len(_TABLE)}
  %entering = alloca [{len(INPUTS)} x ptr]
  %leaving = alloca [{len(OUTPUTS)} x ptr]
  br label %take
take:
  %place = phi i64 [ 0, %entry ], [ %other, %take ]
  %following = add i64 %place, 1
  %over = icmp eq i64 %following, %places
  %other = select i1 %over, i64 0, i64 %following
  %flag = getelementptr i64, ptr %taken, i64 %place
  %before = atomicrmw xchg ptr %flag, i64 1 acquire
  %free = icmp eq i64 %before, 0
  br i1 %free, label %go, label %take
go:
  %behind = mul i64 %place, %place.bytes
  %points = getelementptr i8, ptr %room, i64 %behind
  %products = getelementptr i8, ptr %points, i64 %products.offset
  %spare = getelementptr i8, ptr %points, i64 %spare.offset
  %line = mul i64 %place, {LINE}
  %check = getelementptr i8, ptr %checks, i64 %line
  %words.before = mul i64 %place, {len(_PLACE)}
  %words = getelementptr i64, ptr %given.places, i64 %words.before
{loads("%words", _PLACE)}
{_stores("entering", INPUTS, {"x": "%x", "zeros": "%zeros", "points": "%points"})}
{
    _stores(
        "leaving",
        OUTPUTS,
        {
            "points": "%products",
            **{name: f"%{name}" for name in ("bias", "residual", "output", "spare", "zeros", "check")},
        },
    )
}
  %set.src = call i32 %set(ptr %src, ptr %points)
  %set.weights = call i32 %set(ptr %weights.memory, ptr %weights)
  %set.dst = call i32 %set(ptr %dst, ptr %products)
  %n = trunc i64 %arguments.count to i32
  %had = call i32 %threads()
  call void %use(i32 1)
  br label %loop
loop:
  %b = phi i64 [ %begin, %go ], [ %next, %loop ]
  %first = mul i64 %b, %block
  %to = add i64 %first, %block
  %short = icmp ult i64 %tiles, %to
  %last = select i1 %short, i64 %tiles, i64 %to
  call void %enter(ptr %entering, ptr %sizes.in, i64 %first, i64 %last)
  %status = call i32 %execute(ptr %primitive, ptr %stream, i32 %n, ptr %arguments)
  %wide = zext i32 %status to i64
  %others = atomicrmw or ptr %failed, i64 %wide monotonic
  call void %leave(ptr %leaving, ptr %sizes.out, i64 %first, i64 %last)
  %next = add i64 %b, 1
  %more = icmp ult i64 %next, %end
  br i1 %more, label %loop, label %done
done:
  call void %use(i32 %had)
  store atomic i64 0, ptr %flag release, align 8
  ret void
}}
"""


@cache
def _module() -> Module:
    return compiler().function(_SOURCE)


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """What is done with each block: compiled transforms with their sizes, and products of ``block`` tiles on one thread.

    points, products, spare  bytes of the transformed inputs of a block, of what comes out, and of pixels beyond the image
    zeros                    an address with as many as there are channels
    """

    enter: Module
    leave: Module
    sizes_in: Array
    sizes_out: Array
    product: Primitive
    tiles: int
    block: int
    points: int
    products: int
    spare: int
    zeros: Array

    @property
    def place_bytes(self) -> int:
        """What a thread needs."""
        return room_for(self.points) + room_for(self.products) + room_for(self.spare)


def _functions() -> list[int]:
    """The addresses of what sets the address of a memory, executes, tells the number of threads of OpenMP, and sets it."""
    found = library()
    functions: list[Any] = [
        *(found.held["memory_set_data_handle"], found.execute),
        *(found.openmp.omp_get_max_threads, found.openmp.omp_set_num_threads),
    ]
    return [cast(function, c_void_p).value or 0 for function in functions]


def _arguments(product: Primitive, kept: list[Any]) -> tuple[list[int], int]:
    """Memories and arguments of one execution at a time, and how many oneDNN gets. ``kept`` must live as long."""
    scratch = aligned(product.scratchpad.nbytes)
    memories, arguments = arguments_of(product, ROLES, scratch)
    kept.append((scratch, memories, arguments))
    handles = [memory.handle.value or 0 for memory in memories[: len(ROLES)]]
    return [*handles, addressof(arguments)], len(memories)


class Blocks(threading.local):
    """The call of the steps on all blocks, made anew for each thread of Python."""

    def __init__(self, steps: Steps, threads: int) -> None:
        library().use_threads()
        self._steps = steps
        count = -(-steps.tiles // steps.block)
        self._places = max(1, min(threads, count))
        self._kept: list[Any] = []
        self._failed, self._taken = np.zeros(1, np.int64), np.zeros(self._places, np.int64)
        words = self._words()
        self._table = (c_int64 * len(words))(*words)
        self._data = c_void_p * len(_DATA)
        self._start = on_threads(_module(), count, threads)

    def _words(self) -> list[int]:
        steps, stream = self._steps, library().stream.value or 0
        places = [_arguments(steps.product, self._kept) for _ in range(self._places)]
        points, products = room_for(steps.points), room_for(steps.products)
        return [
            *(steps.enter.address, steps.leave.address, address(steps.sizes_in), address(steps.sizes_out)),
            *(address(steps.zeros), steps.tiles, steps.block, points, points + products, steps.place_bytes),
            *(*_functions(), steps.product.handle.value or 0, stream, places[0][1]),
            *(address(self._failed), address(self._taken), self._places),
            *(word for words, _ in places for word in words),
        ]

    def run(self, x: int, weights: int, bias: int, residual: int, output: int) -> bool:
        """Computes the output, all given by address; whether all of it is finite. Raises KernelError where oneDNN fails."""
        checks = np.zeros(self._places * LINE // 4, np.float32)
        base = room().of(self._places * self._steps.place_bytes)
        self._start(self._data(x, weights, bias, residual, output, address(checks), base), self._table)
        if status := int(self._failed[0]):
            self._failed[0] = 0
            fail(self._steps.product, status)
        return bool(np.isfinite(checks).all())


_ENTERING = {"enter": "ptr", "sizes": "ptr", "bytes": "i64"}
"""Words of the first step: the transform, its sizes, and the bytes of a tile in each plane."""

_LEAVING = {"leave": "ptr", "sizes": "ptr", "bytes": "i64", "spare.bytes": "i64"}

_FIRST = f"""
define void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end) nounwind {{
{loads("%data", dict.fromkeys(INPUTS, "ptr"))}
{loads("%table", _ENTERING)}
  %behind = mul i64 %begin, %bytes
  %own = getelementptr i8, ptr %points, i64 %behind
  %given = alloca [{len(INPUTS)} x ptr]
{_stores("given", INPUTS, {"x": "%x", "zeros": "%zeros", "points": "%own"})}
  call void %enter(ptr %given, ptr %sizes, i64 %begin, i64 %end)
  ret void
}}
"""
"""The first step on some tiles; ``enter`` counts from the first one that it is given."""

_LAST = f"""
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
define void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end) nounwind {{
{loads("%data", dict.fromkeys(OUTPUTS, "ptr"))}
{loads("%table", _LEAVING)}
  %behind = mul i64 %begin, %bytes
  %own = getelementptr i8, ptr %points, i64 %behind
  %none = alloca i8, i64 %spare.bytes, align {LINE}
  %finite = alloca i8, i64 {LINE}, align {LINE}
  call void @llvm.memset.p0.i64(ptr %finite, i8 0, i64 {LINE}, i1 false)
  %given = alloca [{len(OUTPUTS)} x ptr]
{
    _stores(
        "given",
        OUTPUTS,
        {
            "points": "%own",
            "spare": "%none",
            "check": "%finite",
            **{name: f"%{name}" for name in ("bias", "residual", "output", "zeros")},
        },
    )
}
  call void %leave(ptr %given, ptr %sizes, i64 %begin, i64 %end)
  %numbers = load <16 x float>, ptr %finite, align {LINE}
  %same = fcmp ord <16 x float> %numbers, zeroinitializer
  %bits = bitcast <16 x i1> %same to i16
  %all = icmp eq i16 %bits, -1
  %bad = xor i1 %all, true
  %word = zext i1 %bad to i64
  %others = atomicrmw or ptr %check, i64 %word monotonic
  ret void
}}
"""
"""The last step on some tiles. What lies beyond the image goes to the stack; the word ``check`` is 1 where a number was not finite."""

_PRODUCTS = {
    "set": "ptr",
    "execute": "ptr",
    "threads": "ptr",
    "use": "ptr",
    "primitive": "ptr",
    "stream": "ptr",
    "arguments.count": "i64",
    "failed": "ptr",
}
"""Words of the step between: oneDNN's functions and where a status goes."""

_GROUP = {"src": "ptr", "weights": "ptr", "dst": "ptr", "arguments": "ptr"}
"""Words behind those for each group of points."""

_MIDDLE = f"""
define void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end) nounwind {{
entry:
{loads("%data", {"x": "ptr", "x.bytes": "i64", "w": "ptr", "w.bytes": "i64", "y": "ptr", "y.bytes": "i64"})}
{loads("%table", _PRODUCTS)}
  %groups = getelementptr i64, ptr %table, i64 {len(_PRODUCTS)}
  %n = trunc i64 %arguments.count to i32
  %had = call i32 %threads()
  call void %use(i32 1)
  br label %loop
loop:
  %g = phi i64 [ %begin, %entry ], [ %next, %loop ]
  %before = mul i64 %g, {len(_GROUP)}
  %words = getelementptr i64, ptr %groups, i64 %before
{loads("%words", _GROUP)}
  %x.behind = mul i64 %g, %x.bytes
  %x.own = getelementptr i8, ptr %x, i64 %x.behind
  %w.behind = mul i64 %g, %w.bytes
  %w.own = getelementptr i8, ptr %w, i64 %w.behind
  %y.behind = mul i64 %g, %y.bytes
  %y.own = getelementptr i8, ptr %y, i64 %y.behind
  %set.src = call i32 %set(ptr %src, ptr %x.own)
  %set.weights = call i32 %set(ptr %weights, ptr %w.own)
  %set.dst = call i32 %set(ptr %dst, ptr %y.own)
  %status = call i32 %execute(ptr %primitive, ptr %stream, i32 %n, ptr %arguments)
  %wide = zext i32 %status to i64
  %others = atomicrmw or ptr %failed, i64 %wide monotonic
  %next = add i64 %g, 1
  %more = icmp ult i64 %next, %end
  br i1 %more, label %loop, label %done
done:
  call void %use(i32 %had)
  ret void
}}
"""


@cache
def _step(source: str) -> Module:
    return compiler().function(source)


GROUPS = POINTS // 3
"""Groups of points: three products each, so that a thread that is late is late by little."""


class Phases(threading.local):
    """The call of the steps one after the other, all tiles at once; the product of the steps is that of a group of points."""

    def __init__(self, steps: Steps, threads: int) -> None:
        library().use_threads()
        self._steps = steps
        self._kept: list[Any] = []
        self._failed = np.zeros(1, np.int64)
        groups = [_arguments(steps.product, self._kept) for _ in range(GROUPS)]
        channels, outputs = int(steps.sizes_in[2]), int(steps.sizes_out[2])
        stream = library().stream.value or 0
        self._entering = _table(steps.enter.address, address(steps.sizes_in), 4 * channels)
        self._leaving = _table(
            steps.leave.address, address(steps.sizes_out), 4 * outputs, room_for(steps.spare)
        )
        self._products = _table(
            *(*_functions(), steps.product.handle.value or 0, stream, groups[0][1], address(self._failed)),
            *(word for words, _ in groups for word in words),
        )
        self._enter = on_threads(_step(_FIRST), steps.tiles, threads)
        self._multiply = on_threads(_step(_MIDDLE), GROUPS, threads)
        self._leave = on_threads(_step(_LAST), steps.tiles, threads)

    def run(self, x: int, weights: int, bias: int, residual: int, output: int) -> bool:
        """Computes the output, all given by address; whether all of it is finite. Raises KernelError where oneDNN fails."""
        steps = self._steps
        points = room().of(steps.place_bytes)
        products, zeros, check = points + room_for(steps.points), address(steps.zeros), np.zeros(1, np.int64)
        x_bytes, y_bytes = steps.points // GROUPS, steps.products // GROUPS
        w_bytes = steps.product.memories["weights"].nbytes
        self._enter((c_void_p * len(INPUTS))(x, zeros, points), self._entering)
        self._multiply(_table(points, x_bytes, weights, w_bytes, products, y_bytes), self._products)
        if status := int(self._failed[0]):
            self._failed[0] = 0
            fail(steps.product, status)
        words = products, bias, residual, output, 0, zeros, address(check)
        self._leave((c_void_p * len(OUTPUTS))(*words), self._leaving)
        return not check[0]


def _table(*words: int) -> Any:
    return (c_int64 * len(words))(*words)

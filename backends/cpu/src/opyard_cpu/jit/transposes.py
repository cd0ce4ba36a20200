"""Copies of arrays whose axes lie in another order, by square tiles that are transposed in registers.

NumPy copies one element after the other where both arrays are not read and written in runs. Here a tile has as many rows as a vector
has lanes: it is read by columns of the result, exchanged in steps as in a butterfly, and written by rows. The last tile of a row
or a column overlaps the one before.
Source: H. S. Warren, "Hacker's Delight", 2012, 7-3, the transpose of a matrix of bits; here lanes are bits.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from opyard.settings import num_threads

from .launch import address, loads
from .machine import compiler, host, missing
from .pool import missing as no_teams
from .teams import on_threads

Array = np.ndarray[Any, Any]

TILES = 8
"""Tiles that are written after each other along a row."""

SIZES = (1, 2, 4)
"""Bytes of elements; of 8 bytes NumPy is as fast, but where lines of the caches are a power of two apart."""

LEAST = 1 << 16
"""Elements; with fewer NumPy is as fast."""

THREAD_BYTES = 1 << 18
"""Of an array, from which on another thread pays."""

_HEAD = dict.fromkeys(("rows", "columns", "from", "to", "blocks"), "i64")
"""Words: rows and columns of the result, bytes between columns in the source and between rows in the result, and blocks of columns.
Behind are, for each outer axis, its size, and the bytes from one element to the next in both arrays."""


def lanes_of(size: int) -> int:
    """Rows and columns of a tile of elements of so many bytes."""
    return host().vector_bytes // max(size, 4)


def source(size: int, outer: int) -> str:
    """The text for elements of so many bytes, with so many outer axes."""
    width = host().vector_bytes * 8
    attributes = f'nounwind "prefer-vector-width"="{width}" "min-legal-vector-width"="{width}"'
    lanes = lanes_of(size)
    return f"""
declare i64 @llvm.umin.i64(i64, i64)
{_tile(size, lanes, attributes)}
define void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end) {attributes} {{
entry:
{loads("%table", _HEAD)}
  %source = load ptr, ptr %data
  %at.target = getelementptr ptr, ptr %data, i64 1
  %target = load ptr, ptr %at.target
  %last.row = sub i64 %rows, {lanes}
  %last.column = sub i64 %columns, {lanes}
  %any = icmp ult i64 %begin, %end
  br i1 %any, label %units, label %done
units:
  %unit = phi i64 [ %begin, %entry ], [ %unit.next, %unit.end ]
  %block = urem i64 %unit, %blocks
  %left.0 = udiv i64 %unit, %blocks
{_outer(outer)}
  %first = mul i64 %block, {TILES * lanes}
  %full = add i64 %first, {TILES * lanes}
  %stop = call i64 @llvm.umin.i64(i64 %full, i64 %columns)
  br label %row
row:
  %r = phi i64 [ 0, %units ], [ %r.next, %row.end ]
  %rr = call i64 @llvm.umin.i64(i64 %r, i64 %last.row)
  %rr.from = mul i64 %rr, {size}
  %rr.to = mul i64 %rr, %to
  %row.from = getelementptr i8, ptr %from.{outer}, i64 %rr.from
  %row.to = getelementptr i8, ptr %to.{outer}, i64 %rr.to
  br label %column
column:
  %c = phi i64 [ %first, %row ], [ %c.next, %column ]
  %cc = call i64 @llvm.umin.i64(i64 %c, i64 %last.column)
  %cc.from = mul i64 %cc, %from
  %cc.to = mul i64 %cc, {size}
  %tile.from = getelementptr i8, ptr %row.from, i64 %cc.from
  %tile.to = getelementptr i8, ptr %row.to, i64 %cc.to
  call void @tile(ptr %tile.from, ptr %tile.to, i64 %from, i64 %to)
  %c.next = add i64 %c, {lanes}
  %c.more = icmp ult i64 %c.next, %stop
  br i1 %c.more, label %column, label %row.end
row.end:
  %r.next = add i64 %r, {lanes}
  %r.more = icmp ult i64 %r.next, %rows
  br i1 %r.more, label %row, label %unit.end
unit.end:
  %unit.next = add i64 %unit, 1
  %more = icmp ult i64 %unit.next, %end
  br i1 %more, label %units, label %done
done:
  ret void
}}
"""


def _outer(outer: int) -> str:
    """Where the matrix of a unit lies in both arrays, by the numbers that are left over along the outer axes, the last one first."""
    lines = ["%from.0 = getelementptr i8, ptr %source, i64 0", "%to.0 = getelementptr i8, ptr %target, i64 0"]
    for axis in range(outer):
        for place, name in enumerate(("size", "in", "out")):
            word = len(_HEAD) + 3 * axis + place
            lines.append(f"%at.{name}.{axis} = getelementptr i64, ptr %table, i64 {word}")
            lines.append(f"%{name}.{axis} = load i64, ptr %at.{name}.{axis}")
        lines.append(f"%place.{axis} = urem i64 %left.{axis}, %size.{axis}")
        lines.append(f"%left.{axis + 1} = udiv i64 %left.{axis}, %size.{axis}")
        for side, step in (("from", "in"), ("to", "out")):
            lines.append(f"%{side}.bytes.{axis} = mul i64 %place.{axis}, %{step}.{axis}")
            moved = f"getelementptr i8, ptr %{side}.{axis}, i64 %{side}.bytes.{axis}"
            lines.append(f"%{side}.{axis + 1} = {moved}")
    return "\n".join(f"  {line}" for line in lines)


def _tile(size: int, lanes: int, attributes: str) -> str:
    """The function of a tile."""
    kind, numbers = f"<{lanes} x i{8 * size}>", range(lanes)
    lines: list[str] = []
    for side, between in (("source", "from"), ("target", "to")):
        for i in numbers:
            lines.append(f"%{side}.bytes{i} = mul i64 %{between}, {i}")
            lines.append(f"%{side}{i} = getelementptr i8, ptr %{side}, i64 %{side}.bytes{i}")
    lines += [f"%v{i} = load {kind}, ptr %source{i}, align {size}" for i in numbers]
    vectors = [f"%v{i}" for i in numbers]
    for step in (1 << bit for bit in range(lanes.bit_length() - 1)):
        lower = [lanes + lane - step if lane & step else lane for lane in numbers]
        upper = [lanes + lane if lane & step else lane + step for lane in numbers]
        pairs = [(i, i + step) for i in numbers if not i & step]
        old = list(vectors)
        for pair in pairs:
            for i, pick in zip(pair, (lower, upper), strict=True):
                vectors[i] = f"%v{i}.{step}"
                given = ", ".join(f"{kind} {old[j]}" for j in pair)
                places = ", ".join(f"i32 {lane}" for lane in pick)
                lines.append(f"{vectors[i]} = shufflevector {given}, <{lanes} x i32> <{places}>")
    lines += [f"store {kind} {vectors[i]}, ptr %target{i}, align {size}" for i in numbers]
    head = f"define internal void @tile(ptr %source, ptr %target, i64 %from, i64 %to) {attributes} {{"
    return "\n".join([head, *(f"  {line}" for line in lines), "  ret void", "}"])


@lru_cache(maxsize=256)
def _matrices(shape: tuple[int, ...], strides: tuple[int, ...], size: int) -> tuple[list[int], ...] | None:
    """The head of the table, and the words of each outer axis; None for what is not matrices that lie by columns."""
    axes: list[list[int]] = []
    step = size
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n > 1 and axes and stride == axes[-1][0] * axes[-1][1]:
            axes[-1][0] *= n
        elif n > 1:
            axes.append([n, stride, step])
        step *= n
    by_columns = [place for place, (_, stride, _) in enumerate(axes) if stride == size]
    if len(by_columns) != 1 or by_columns == [0] or any(stride <= 0 for _, stride, _ in axes):
        return None
    rows, _, to = axes.pop(by_columns[0])
    columns, between, _ = axes[0]
    lanes = lanes_of(size)
    if min(rows, columns) < lanes:
        return None
    return [rows, columns, between, to, -(-columns // (TILES * lanes))], *axes[1:]


@lru_cache(maxsize=256)
def _copy(
    shape: tuple[int, ...], strides: tuple[int, ...], size: int, threads: int
) -> Callable[[Any], None] | None:
    """A function of the addresses of an array and of its copy."""
    found = _matrices(shape, strides, size)
    if found is None:
        return None
    head, *axes = found
    words = [word for words in found for word in words]
    table = (ctypes.c_int64 * len(words))(*words)
    module = compiler().function(source(size, len(axes)))
    run = on_threads(module, head[-1] * math.prod(axis[0] for axis in axes), threads)
    return lambda data: run(data, table)


def dense_copy(array: Any) -> Array:
    """An array whose elements lie in C order; what is no array, or lies so already, as NumPy does it."""
    if not isinstance(array, np.ndarray) or array.flags.c_contiguous or not array.flags.aligned:
        return np.require(array, requirements=("C", "A"))
    copy = None
    if array.size >= LEAST and array.itemsize in SIZES and not missing():
        several = array.nbytes >= THREAD_BYTES and not no_teams()
        copy = _copy(array.shape, array.strides, array.itemsize, num_threads() if several else 1)
    if copy is None:
        return array.copy()
    result = np.empty(array.shape, array.dtype)
    copy((ctypes.c_int64 * 2)(address(array), address(result)))
    return result

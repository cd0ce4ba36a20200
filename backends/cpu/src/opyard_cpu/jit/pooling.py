"""Maxima of windows on channels-last images as one loop in machine code: each element is read as often as windows have it.

The function is ``kernel(data, table, begin, end)``, as those of nest.py, and works on rows of windows. ``table`` has numbers, and
for each window along each of the two axes where its first element is, and how many it has within the image. So padding, strides
and dilations need no code of their own, and one text does for all sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from opyard.settings import num_threads

from ..taps import Range
from .code import literal
from .compiled import as_dense, pointers
from .launch import KERNEL, address, built_in
from .machine import Processor, compiler, host
from .pool import missing as no_teams
from .teams import Shared, team
from .unlocked import UNLOCKED, unlocking

Array = np.ndarray[Any, Any]

UNROLLED = 4
"""Vectors that are worked on at once."""

OPERATIONS = 3
"""Of each element of a window, in units of those of products."""

HELD = 2e6
"""Operations up to which one thread does all, and holds the interpreter's lock."""

_HEAD = ("rows", "columns", "image", "down", "right", "channels")
"""Words: windows along both axes, bytes of an image, bytes from one element of a window to the next, bytes of the channels."""


_LOADS = "\n".join(
    f"  %at.{name} = getelementptr i64, ptr %table, i64 {place}\n  %{name} = load i64, ptr %at.{name}"
    for place, name in enumerate(_HEAD)
)

_ROWS = f"""
define void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end) nounwind ATTRIBUTES {{
entry:
{_LOADS}
  %x = load ptr, ptr %data
  %at.y = getelementptr ptr, ptr %data, i64 1
  %y = load ptr, ptr %at.y
  %vertical = getelementptr i64, ptr %table, i64 {len(_HEAD)}
  %words = shl i64 %rows, 1
  %horizontal = getelementptr i64, ptr %vertical, i64 %words
  %wides = and i64 %channels, WIDE
  %wholes = and i64 %channels, WHOLE
  %any = icmp ult i64 %begin, %end
  br i1 %any, label %row.loop, label %done
row.loop:
  %row = phi i64 [ %begin, %entry ], [ %row.next, %row.end ]
  %n = udiv i64 %row, %rows
  %i = urem i64 %row, %rows
  %n.bytes = mul i64 %n, %image
  %i2 = shl i64 %i, 1
  %i.place = getelementptr i64, ptr %vertical, i64 %i2
  %i.first = load i64, ptr %i.place
  %i.more = getelementptr i64, ptr %i.place, i64 1
  %i.count = load i64, ptr %i.more
  %i.bytes = add i64 %n.bytes, %i.first
  %in = getelementptr i8, ptr %x, i64 %i.bytes
  %line = mul i64 %columns, %channels
  %out.bytes = mul i64 %row, %line
  %out = getelementptr i8, ptr %y, i64 %out.bytes
  br label %column.loop
column.loop:
  %j = phi i64 [ 0, %row.loop ], [ %j.next, %column.loop ]
  %j2 = shl i64 %j, 1
  %j.place = getelementptr i64, ptr %horizontal, i64 %j2
  %j.first = load i64, ptr %j.place
  %j.more = getelementptr i64, ptr %j.place, i64 1
  %j.count = load i64, ptr %j.more
  %from = getelementptr i8, ptr %in, i64 %j.first
  %to.bytes = mul i64 %j, %channels
  %to = getelementptr i8, ptr %out, i64 %to.bytes
  %none.i = icmp eq i64 %i.count, 0
  %none.j = icmp eq i64 %j.count, 0
  %none = or i1 %none.i, %none.j
  %count = select i1 %none, i64 0, i64 %i.count
  call void @wide(ptr %from, ptr %to, i64 0, i64 %wides, i64 %count, i64 %j.count, i64 %down, i64 %right)
  call void @whole(ptr %from, ptr %to, i64 %wides, i64 %wholes, i64 %count, i64 %j.count, i64 %down, i64 %right)
  call void @one(ptr %from, ptr %to, i64 %wholes, i64 %channels, i64 %count, i64 %j.count, i64 %down, i64 %right)
  %j.next = add i64 %j, 1
  %j.again = icmp ult i64 %j.next, %columns
  br i1 %j.again, label %column.loop, label %row.end
row.end:
  %row.next = add i64 %row, 1
  %row.again = icmp ult i64 %row.next, %end
  br i1 %row.again, label %row.loop, label %done
done:
  ret void
}}
"""


def source(target: Processor) -> str:
    """The text for a processor: channels several vectors at a time, then one vector, then one number."""
    lanes, width = target.vector_bytes // 4, target.vector_bytes * 8
    attributes = f'"prefer-vector-width"="{width}" "min-legal-vector-width"="{width}"'
    parts = {"wide": lanes * UNROLLED, "whole": lanes, "one": 1}
    rows = _ROWS.replace("WIDE", str(-4 * lanes * UNROLLED)).replace("WHOLE", str(-4 * lanes))
    functions = (_channels(name, size, attributes) for name, size in parts.items())
    return "".join(functions) + rows.replace("ATTRIBUTES", attributes)


def _channels(name: str, lanes: int, attributes: str) -> str:
    """A function for the channels of a window from ``begin`` to ``end``, in bytes, so many at once: their maxima, and NaN where there is one."""
    kind, truth = ("float", "i1") if lanes == 1 else (f"<{lanes} x float>", f"<{lanes} x i1>")
    least = literal(-np.inf, "float32")
    start = least if lanes == 1 else f"splat (float {least})"
    return f"""
define internal void @{name}(ptr %from, ptr %to, i64 %begin, i64 %end, i64 %lines, i64 %elements, i64 %down, i64 %right) nounwind {attributes} {{
entry:
  br label %head
head:
  %c = phi i64 [ %begin, %entry ], [ %c.next, %store ]
  %c.more = icmp ult i64 %c, %end
  br i1 %c.more, label %window, label %done
window:
  %first = getelementptr i8, ptr %from, i64 %c
  br label %line
line:
  %a = phi i64 [ 0, %window ], [ %a.next, %line.end ]
  %start = phi ptr [ %first, %window ], [ %start.next, %line.end ]
  %above = phi {kind} [ {start}, %window ], [ %best, %line.end ]
  %a.more = icmp ult i64 %a, %lines
  br i1 %a.more, label %element, label %store
element:
  %b = phi i64 [ 0, %line ], [ %b.next, %element ]
  %place = phi ptr [ %start, %line ], [ %place.next, %element ]
  %before = phi {kind} [ %above, %line ], [ %best, %element ]
  %new = load {kind}, ptr %place, align 4
  %is.greater = fcmp ogt {kind} %new, %before
  %greater = select {truth} %is.greater, {kind} %new, {kind} %before
  %is.nan = fcmp uno {kind} %new, %new
  %best = select {truth} %is.nan, {kind} %new, {kind} %greater
  %b.next = add i64 %b, 1
  %place.next = getelementptr i8, ptr %place, i64 %right
  %b.more = icmp ult i64 %b.next, %elements
  br i1 %b.more, label %element, label %line.end
line.end:
  %a.next = add i64 %a, 1
  %start.next = getelementptr i8, ptr %start, i64 %down
  br label %line
store:
  %target = getelementptr i8, ptr %to, i64 %c
  store {kind} %above, ptr %target, align 4
  %c.next = add i64 %c, {4 * lanes}
  br label %head
done:
  ret void
}}
"""


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows along one axis: where the first element of each is, and how many each has in the image. ``step`` is between elements."""

    first: tuple[int, ...]
    count: tuple[int, ...]
    step: int


def windows_of(taps: list[Range], windows: int) -> Windows:
    """The windows along an axis from the ranges of its taps."""
    places: list[list[int]] = [[] for _ in range(windows)]
    for tap in taps:
        reached = range(tap.input.start, tap.input.stop, tap.input.step or 1)
        for window, place in zip(range(tap.output.start, tap.output.stop), reached, strict=True):
            places[window].append(place)
    steps = {second - first for found in places for first, second in pairwise(found)}
    return Windows(
        tuple(found[0] if found else 0 for found in places), tuple(map(len, places)), max(steps, default=0)
    )


def max_pool(
    batch: int, sizes: tuple[int, int], channels: int, down: Windows, right: Windows
) -> Callable[..., Any]:
    """A function of dense images ``[batch, *sizes, channels]`` of float32 and a dense array for the maxima, which it gives back."""
    module, rows = compiler().function(source(host())), len(down.first)
    pixel = 4 * channels
    line = sizes[1] * pixel
    words = [rows, len(right.first), sizes[0] * line, down.step * line, right.step * pixel, pixel]
    for windows, step in ((down, line), (right, pixel)):
        for first, count in zip(windows.first, windows.count, strict=True):
            words += [first * step, count]
    table, count = np.array(words, np.int64), batch * rows
    operations = float(OPERATIONS * batch * channels * sum(down.count) * sum(right.count))
    called, head = module, list[int]()
    if operations > HELD and (threads := num_threads()) > 1 and not no_teams():
        called, head = team(Shared(module, 2, 0, count, 1, count), threads)
    elif operations > HELD:
        called, head = compiler().function(UNLOCKED), unlocking(module, 2, 0)
    kernel = KERNEL(module.address)

    def run(x: Array, out: Array) -> Array:
        x = as_dense(x)
        kernel(pointers(2)(address(x), address(out)), address(table), 0, count)
        return out

    return built_in(called, 2, np.array([*head, *words], np.int64), count, 0, run)

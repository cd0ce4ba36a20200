"""Joining the channels of channels-last images, pixel by pixel, by threads that take rows of pixels as they come.

The result is written once, from its beginning to its end: three quarters of the time of one copy by oneDNN for each image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import c_int64, c_void_p
from functools import cache

from opyard.settings import num_threads

from ..jit.launch import loads
from ..jit.machine import Module, compiler
from ..jit.teams import on_threads

THREAD_BYTES = 1 << 18
"""What a thread has to write at least, some 20 microseconds."""

_SOURCE = f"""
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

define void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end) nounwind {{
entry:
{loads("%table", {"count": "i64", "pitch": "i64"})}
  %widths = getelementptr i64, ptr %table, i64 2
  %d = getelementptr ptr, ptr %data, i64 %count
  %whole = load ptr, ptr %d
  br label %pixel
pixel:
  %p = phi i64 [ %begin, %entry ], [ %q, %next ]
  %o = mul i64 %p, %pitch
  %first = getelementptr i8, ptr %whole, i64 %o
  br label %part
part:
  %i = phi i64 [ 0, %pixel ], [ %j, %part ]
  %to = phi ptr [ %first, %pixel ], [ %behind, %part ]
  %w = getelementptr i64, ptr %widths, i64 %i
  %width = load i64, ptr %w
  %a = getelementptr ptr, ptr %data, i64 %i
  %image = load ptr, ptr %a
  %b = mul i64 %p, %width
  %from = getelementptr i8, ptr %image, i64 %b
  call void @llvm.memcpy.p0.p0.i64(ptr align 4 %to, ptr align 4 %from, i64 %width, i1 false)
  %behind = getelementptr i8, ptr %to, i64 %width
  %j = add i64 %i, 1
  %again = icmp ult i64 %j, %count
  br i1 %again, label %part, label %next
next:
  %q = add i64 %p, 1
  %more = icmp ult i64 %q, %end
  br i1 %more, label %pixel, label %done
done:
  ret void
}}
"""


@cache
def _module() -> Module:
    return compiler().function(_SOURCE)


def joining(pixels: int, channels: Sequence[int]) -> Callable[..., None]:
    """``run(*addresses)`` of float32 images with so many pixels and channels, and of the result."""
    pitch = 4 * sum(channels)
    table = (c_int64 * (len(channels) + 2))(len(channels), pitch, *(4 * count for count in channels))
    threads = max(1, min(num_threads(), pixels * pitch // THREAD_BYTES))
    copy, words = on_threads(_module(), pixels, threads), c_void_p * (len(channels) + 1)
    return lambda *addresses: copy(words(*addresses), table)

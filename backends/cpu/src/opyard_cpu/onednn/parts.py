"""Convolutions cut into rows of the result, which the threads of the pool take as they come; each row is computed on one thread.

By itself oneDNN gives each thread of OpenMP its part, and waits for the last one: of processors that are virtual, or have other work, one
is always late. See jit/pool.py. On one thread the parts take as long as the whole, if the weights, which each of them reads, stay in the
caches or are few beside the products.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from ctypes import addressof, c_int64, c_void_p, cast
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from ..geometry import Geometry
from ..jit import pool
from ..jit.launch import loads
from ..jit.machine import Module, compiler, missing
from ..jit.teams import on_threads
from .addresses import Array, address, aligned, dense
from .execution import arguments_of, fail
from .library import library
from .primitives import Primitive

PARTS = 4
"""For each thread: the last thread is late by one part at most."""

FLOPS = 2e11
"""Of one thread, to compare the time of a part with that of reading its weights."""

WEIGHTS_BANDWIDTH = 3e10
"""What a thread reads of weights that its nearest caches do not hold, measured: 9 MB once more took 0.3 milliseconds."""

NEAR_BYTES = 1 << 20
"""Weights that they hold."""

MOST_SHARE = 0.03
"""What reading weights more than once may take of the time."""

SCRATCH_BYTES = 1 << 16
"""Of a part at most: primitives that want more bring their inputs into another layout, for all parts anew."""


@dataclass(frozen=True, slots=True)
class Part:
    """A convolution that makes some rows of some images of another one, and where its input and its result begin, in numbers."""

    geometry: Geometry
    source: int
    result: int


def cut(g: Geometry, threads: int) -> list[Part]:
    """The parts of a convolution; one or none where cutting it does not pay."""
    count = PARTS * threads
    if g.batch >= count:
        return [_images(g, *ends) for ends in _ends(g.batch, count)]
    rows = min(g.counts[0], -(-count // g.batch), _most_cuts(g))
    if g.batch * rows < threads:
        return []
    return [_rows(_images(g, n, n + 1), *ends) for n in range(g.batch) for ends in _ends(g.counts[0], rows)]


def _most_cuts(g: Geometry) -> int:
    """How often an image may be cut, for each of its parts reads all weights."""
    nbytes = 4 * g.depth * g.outputs
    if nbytes <= NEAR_BYTES:
        return max(g.counts)
    return 1 + int(MOST_SHARE * (g.work / g.batch / FLOPS) / (nbytes / WEIGHTS_BANDWIDTH))


def _ends(count: int, parts: int) -> list[tuple[int, int]]:
    """Ranges of nearly equal length."""
    ends = [count * part // parts for part in range(parts + 1)]
    return list(pairwise(ends))


def _images(g: Geometry, first: int, last: int) -> Part:
    pixels = [_product(sizes) for sizes in (g.sizes, g.counts)]
    return Part(replace(g, batch=last - first), first * pixels[0] * g.channels, first * pixels[1] * g.outputs)


def _rows(part: Part, first: int, last: int) -> Part:
    """Some rows of each image; of the rows that they see those in front of the image and behind it are padding."""
    g = part.geometry
    begin = first * g.strides[0] - g.pairs[0][0]
    end = (last - 1) * g.strides[0] + (g.kernel[0] - 1) * g.dilations[0] + 1 - g.pairs[0][0]
    inside = max(begin, 0), max(begin, 0, min(end, g.sizes[0]))
    sizes, counts = (inside[1] - inside[0], *g.sizes[1:]), (last - first, *g.counts[1:])
    pairs = ((inside[0] - begin, end - inside[1]), *g.pairs[1:])
    return Part(
        replace(g, sizes=sizes, counts=counts, pairs=pairs),
        part.source + inside[0] * _product(g.sizes[1:]) * g.channels,
        part.result + first * _product(g.counts[1:]) * g.outputs,
    )


def _product(sizes: Sequence[int]) -> int:
    return int(np.prod(sizes, dtype=np.int64))


_HEAD = {
    "set": "ptr",
    "execute": "ptr",
    "threads": "ptr",
    "use": "ptr",
    "stream": "ptr",
    "roles": "i64",
    "failed": "ptr",
}
"""Words before the parts: functions of oneDNN and of OpenMP, how many addresses there are, and where a status goes."""

_PART = {"primitive": "ptr", "count": "i64", "arguments": "ptr"}
"""Words of a part; behind them are for each address a memory, and how many bytes behind it the part begins."""

_SOURCE = f"""
define void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end) nounwind {{
entry:
{loads("%table", _HEAD)}
  %parts = getelementptr i64, ptr %table, i64 {len(_HEAD)}
  %pairs = shl i64 %roles, 1
  %length = add i64 %pairs, {len(_PART)}
  %before = call i32 %threads()
  call void %use(i32 1)
  br label %part
part:
  %p = phi i64 [ %begin, %entry ], [ %q, %go ]
  %offset = mul i64 %p, %length
  %words = getelementptr i64, ptr %parts, i64 %offset
{loads("%words", _PART)}
  %memories = getelementptr i64, ptr %words, i64 {len(_PART)}
  br label %loop
loop:
  %i = phi i64 [ 0, %part ], [ %j, %loop ]
  %twice = shl i64 %i, 1
  %m = getelementptr ptr, ptr %memories, i64 %twice
  %memory = load ptr, ptr %m
  %o = getelementptr ptr, ptr %m, i64 1
  %bytes = load i64, ptr %o
  %d = getelementptr ptr, ptr %data, i64 %i
  %whole = load ptr, ptr %d
  %address = getelementptr i8, ptr %whole, i64 %bytes
  %set.status = call i32 %set(ptr %memory, ptr %address)
  %j = add i64 %i, 1
  %again = icmp ult i64 %j, %roles
  br i1 %again, label %loop, label %go
go:
  %n = trunc i64 %count to i32
  %status = call i32 %execute(ptr %primitive, ptr %stream, i32 %n, ptr %arguments)
  %wide = zext i32 %status to i64
  %others = atomicrmw or ptr %failed, i64 %wide monotonic
  %q = add i64 %p, 1
  %more = icmp ult i64 %q, %end
  br i1 %more, label %part, label %done
done:
  call void %use(i32 %before)
  ret void
}}
"""
"""Runs parts, each with memories of its own."""


@cache
def _module() -> Module:
    return compiler().function(_SOURCE)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part with its primitive, and for each role how many bytes behind the whole its memory begins."""

    primitive: Primitive
    offsets: tuple[int, ...]


def pieces(
    g: Geometry, roles: Sequence[str], images: Sequence[str], describe: Callable[[Geometry], Primitive | str]
) -> list[Piece]:
    """What ``describe`` makes of the parts of a convolution for one thread each; empty where it is better done at once.

    ``images`` are the roles that lie as the result does.
    """
    threads = library().threads
    if threads < 2 or missing() or pool.missing():
        return []
    found: list[Piece] = []
    for part in cut(g, threads):
        with library().on_one_thread():
            primitive = describe(part.geometry)
        if isinstance(primitive, str) or primitive.scratchpad.nbytes > SCRATCH_BYTES:
            return []
        begins = {"src": 4 * part.source, **dict.fromkeys(images, 4 * part.result)}
        found.append(Piece(primitive, tuple(begins.get(role, 0) for role in roles)))
    weights = {piece.primitive.memories["weights"].number for piece in found}
    return found if len(weights) == 1 else []


class Parts(threading.local):
    """The call of pieces, made anew for each thread: ``run`` takes one array for each role, writes the last one, and gives it back."""

    def __init__(self, found: Sequence[Piece], roles: Sequence[str]) -> None:
        library().use_threads()
        self._kept: list[Any] = []
        self._failed = np.zeros(1, np.int64)
        words, self._primitive = self._words(found, roles), found[0].primitive
        self._table = (c_int64 * len(words))(*words)
        self._data = c_void_p * len(roles)
        self._start = on_threads(_module(), len(found), library().threads)

    def _words(self, found: Sequence[Piece], roles: Sequence[str]) -> list[int]:
        functions: list[Any] = [
            *(library().held["memory_set_data_handle"], library().execute),
            *(library().openmp.omp_get_max_threads, library().openmp.omp_set_num_threads),
        ]
        places = [cast(function, c_void_p).value or 0 for function in functions]
        words = [*places, library().stream.value or 0, len(roles), address(self._failed)]
        for piece in found:
            scratch = aligned(piece.primitive.scratchpad.nbytes)
            memories, arguments = arguments_of(piece.primitive, roles, scratch)
            self._kept.append((piece, scratch, memories, arguments))
            words += [piece.primitive.handle.value or 0, len(memories), addressof(arguments)]
            for memory, offset in zip(memories[: len(roles)], piece.offsets, strict=True):
                words += [memory.handle.value, offset]
        return words

    def run(self, *arrays: Array) -> Array:
        """Runs all of them. Raises KernelError where oneDNN fails."""
        given = [*map(dense, arrays[:-1]), arrays[-1]]  # kept by this name until all is done
        self._start(self._data(*map(address, given)), self._table)
        if status := int(self._failed[0]):
            self._failed[0] = 0
            fail(self._primitive, status)
        return arrays[-1]

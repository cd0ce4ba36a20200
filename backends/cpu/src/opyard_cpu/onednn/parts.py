"""Convolutions cut into parts, which the threads of the pool take as they come; each part is computed on one thread.

By itself oneDNN gives each thread of OpenMP its share, and waits for the last one: of processors that are virtual, or have other work, one
is always late. See jit/pool.py.

A part has some images, or some rows of one. It reads all weights; where these are many beside the products, a part has some channels of the
result instead, of all images. oneDNN is quick at dense results only, so such a part makes one of its own, which is copied to where it
belongs while it is in the cache. On one thread all parts take 1 or 2 % longer than the whole (measured with oneDNN 3.2).
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
from .execution import arguments_of, fail, reordered
from .library import library
from .memory import Descriptor
from .plain import room_for
from .primitives import Primitive

PARTS = 4
"""For each thread, at most: the last thread is late by one part."""

LEAST_WORK = 4e7
"""Operations of a part, some 200 microseconds of them, where each thread has one: a part takes 4 microseconds beside its work."""

FLOPS = 2e11
"""Of one thread, to compare the time of a part with that of reading its weights."""

WEIGHTS_BANDWIDTH = 3e10
"""What a thread reads of weights that its nearest caches do not hold, measured: 9 MB once more took 0.3 milliseconds."""

NEAR_BYTES = 1 << 20
"""Weights that they hold, and results of a part that wait there to be copied."""

MOST_SHARE = 0.02
"""What reading weights more than once may take of the time."""

CHANNELS = 64
"""A part has a multiple of so many channels, four registers of AVX-512, or none is made."""

SCRATCH_BYTES = 1 << 16
"""Of a part at most: primitives that want more bring their inputs into another layout, for all parts anew."""


@dataclass(frozen=True, slots=True)
class Part:
    """A convolution that makes a part of the result of another one: where its input and its result begin, in numbers, and its channels."""

    geometry: Geometry
    source: int = 0
    result: int = 0
    channel: int = 0


def cut(g: Geometry, threads: int) -> list[Part]:
    """The parts of a convolution; none where cutting it does not pay."""
    if threads < 2:
        return []
    count = threads * max(1, min(PARTS, int(g.work / LEAST_WORK / threads)))
    if g.batch >= count:
        return [_images(g, *ends) for ends in _ends(g.batch, count)]
    rows = min(g.counts[0], -(-count // g.batch), _most_cuts(g))
    if g.batch * rows < 2 * threads:  # so few have to be as many for each thread
        rows = rows * g.batch // threads * threads // g.batch
        if not rows or g.batch * rows % threads:
            return _channels(g, count, threads)
    return [_rows(_images(g, n, n + 1), *ends) for n in range(g.batch) for ends in _ends(g.counts[0], rows)]


def _weights_bytes(g: Geometry) -> int:
    return 4 * g.depth * g.outputs


def _most_cuts(g: Geometry) -> int:
    """How often an image may be cut, for each of its parts reads all weights."""
    nbytes = _weights_bytes(g)
    if nbytes <= NEAR_BYTES:
        return max(g.counts)
    return 1 + int(MOST_SHARE * (g.work / g.batch / FLOPS) / (nbytes / WEIGHTS_BANDWIDTH))


def _channels(g: Geometry, most: int, threads: int) -> list[Part]:
    """Parts with so many channels each, of all images; none where they would be too few or too large."""
    units = g.outputs // CHANNELS
    counts = [n for n in range(threads, min(most, units) + 1, threads) if units % n == 0]
    is_product = g.is_pointwise and set(g.strides) == {1}  # which parts of its rows take as long as the whole
    if not counts or is_product or g.groups > 1 or g.outputs % CHANNELS or _weights_bytes(g) <= NEAR_BYTES:
        return []
    width = g.outputs // counts[-1]
    if 4 * g.batch * g.area * width > NEAR_BYTES:
        return []
    return [Part(replace(g, outputs=width), 0, first, first) for first in range(0, g.outputs, width)]


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

_PART = {
    "primitive": "ptr",
    "count": "i64",
    "arguments": "ptr",
    "rows": "i64",
    "width": "i64",
    "pitch": "i64",
}
"""Words of a part. Where it makes some channels, so many rows of so many bytes lie so far from each other in the whole."""

_ROLE = {"memory": "ptr", "bytes": "i64", "own": "ptr"}
"""Words behind those for each address: a memory, how many bytes behind the whole the part begins, and where its own rows are, or null."""

_SOURCE = f"""
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

define internal void @copy(ptr %to, i64 %to.pitch, ptr %from, i64 %from.pitch, i64 %rows, i64 %width) nounwind {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %j, %loop ]
  %a = mul i64 %i, %to.pitch
  %to.row = getelementptr i8, ptr %to, i64 %a
  %b = mul i64 %i, %from.pitch
  %from.row = getelementptr i8, ptr %from, i64 %b
  call void @llvm.memcpy.p0.p0.i64(ptr align 4 %to.row, ptr align 4 %from.row, i64 %width, i1 false)
  %j = add i64 %i, 1
  %again = icmp ult i64 %j, %rows
  br i1 %again, label %loop, label %done
done:
  ret void
}}

define void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end) nounwind {{
entry:
{loads("%table", _HEAD)}
  %parts = getelementptr i64, ptr %table, i64 {len(_HEAD)}
  %all = mul i64 %roles, {len(_ROLE)}
  %length = add i64 %all, {len(_PART)}
  %last = sub i64 %roles, 1
  %before = call i32 %threads()
  call void %use(i32 1)
  br label %part
part:
  %p = phi i64 [ %begin, %entry ], [ %q, %following ]
  %offset = mul i64 %p, %length
  %words = getelementptr i64, ptr %parts, i64 %offset
{loads("%words", _PART)}
  %given = getelementptr i64, ptr %words, i64 {len(_PART)}
  br label %loop
loop:
  %i = phi i64 [ 0, %part ], [ %j, %put ]
  %distance = mul i64 %i, {len(_ROLE)}
  %role = getelementptr i64, ptr %given, i64 %distance
{loads("%role", _ROLE)}
  %d = getelementptr ptr, ptr %data, i64 %i
  %whole = load ptr, ptr %d
  %there = getelementptr i8, ptr %whole, i64 %bytes
  %is.there = icmp eq ptr %own, null
  %address = select i1 %is.there, ptr %there, ptr %own
  %is.last = icmp eq i64 %i, %last
  %stays = or i1 %is.there, %is.last
  br i1 %stays, label %put, label %fetch
fetch:
  call void @copy(ptr %own, i64 %width, ptr %there, i64 %pitch, i64 %rows, i64 %width)
  br label %put
put:
  %set.status = call i32 %set(ptr %memory, ptr %address)
  %j = add i64 %i, 1
  %again = icmp ult i64 %j, %roles
  br i1 %again, label %loop, label %go
go:
  %n = trunc i64 %count to i32
  %status = call i32 %execute(ptr %primitive, ptr %stream, i32 %n, ptr %arguments)
  %wide = zext i32 %status to i64
  %others = atomicrmw or ptr %failed, i64 %wide monotonic
  br i1 %is.there, label %following, label %bring
bring:
  call void @copy(ptr %there, i64 %pitch, ptr %own, i64 %width, i64 %rows, i64 %width)
  br label %following
following:
  %q = add i64 %p, 1
  %more = icmp ult i64 %q, %end
  br i1 %more, label %part, label %done
done:
  call void %use(i32 %before)
  ret void
}}
"""
"""Runs parts, each with memories of its own. What goes into channels of a part is brought to it before, and its result away from it."""


@cache
def _module() -> Module:
    return compiler().function(_SOURCE)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part with its primitive."""

    part: Part
    primitive: Primitive

    @property
    def rows(self) -> int:
        """Pixels of the result."""
        return self.part.geometry.batch * self.part.geometry.area


@dataclass(frozen=True, slots=True)
class Pieces:
    """All parts of a convolution of so many ``outputs``.

    roles    names of the memories; ``images`` are those that lie as the result does, and ``vectors`` have a number for each channel
    """

    outputs: int
    found: tuple[Piece, ...]
    roles: tuple[str, ...]
    images: frozenset[str]
    vectors: frozenset[str]

    @property
    def has_channels(self) -> bool:
        """Whether the parts have some channels each."""
        return self.found[0].part.geometry.outputs < self.outputs

    @property
    def wanted(self) -> Descriptor:
        """The layout of the weights of a part."""
        return self.found[0].primitive.memories["weights"]

    @property
    def key(self) -> object:
        """Tells the forms of weights apart; parts with all channels take what the whole may take, too."""
        return ("channels", len(self.found), self.wanted.number) if self.has_channels else self.wanted.number

    @property
    def step(self) -> int:
        """How many bytes the weights of a part lie behind those of the part before."""
        return room_for(self.wanted.nbytes) if self.has_channels else 0

    def weights(self, array: Array, plain: Callable[[Geometry], Descriptor]) -> Array:
        """The weights ``[o, i, *kernel]`` in the layout that the parts want, one behind the other."""
        if not self.has_channels:
            return reordered(array, plain(self.found[0].part.geometry), self.wanted)
        made, own = aligned(self.step * len(self.found)), plain(self.found[0].part.geometry)
        for number, piece in enumerate(self.found):
            first = piece.part.channel
            some = reordered(array[first : first + piece.part.geometry.outputs], own, self.wanted)
            made[number * self.step :][: some.nbytes] = some
        return made

    def begins(self, number: int) -> list[int]:
        """For each role how many bytes behind the whole the memory of a part begins."""
        part = self.found[number].part
        places = {"src": part.source, "weights": number * self.step // 4}
        places |= dict.fromkeys(self.images, part.result) | dict.fromkeys(self.vectors, part.channel)
        return [4 * places[role] for role in self.roles]


def pieces(
    g: Geometry,
    roles: Sequence[str],
    images: Sequence[str],
    describe: Callable[[Geometry], Primitive | str],
) -> Pieces | None:
    """What ``describe`` makes of the parts of a convolution for one thread each; None where it is better done at once.

    ``images`` are the roles that lie as the result does.
    """
    if missing() or pool.missing():
        return None
    found: list[Piece] = []
    for part in cut(g, library().threads):
        with library().on_one_thread():
            primitive = describe(part.geometry)
        if isinstance(primitive, str) or primitive.scratchpad.nbytes > SCRATCH_BYTES:
            return None
        found.append(Piece(part, primitive))
    if len({piece.primitive.memories["weights"].number for piece in found}) != 1:
        return None
    vectors = frozenset(roles) - {"src", "weights", *images}
    return Pieces(g.outputs, tuple(found), tuple(roles), frozenset(images), vectors)


class Parts(threading.local):
    """The call of pieces, made anew for each thread: ``run`` takes one array for each role, writes the last one, and gives it back."""

    def __init__(self, pieces: Pieces) -> None:
        library().use_threads()
        self._kept: list[Any] = []
        self._failed = np.zeros(1, np.int64)
        words, self._primitive = self._words(pieces), pieces.found[0].primitive
        self._table = (c_int64 * len(words))(*words)
        self._data = c_void_p * len(pieces.roles)
        self._start = on_threads(_module(), len(pieces.found), library().threads)

    def _words(self, pieces: Pieces) -> list[int]:
        functions: list[Any] = [
            *(library().held["memory_set_data_handle"], library().execute),
            *(library().openmp.omp_get_max_threads, library().openmp.omp_set_num_threads),
        ]
        places = [cast(function, c_void_p).value or 0 for function in functions]
        words = [*places, library().stream.value or 0, len(pieces.roles), address(self._failed)]
        for number, piece in enumerate(pieces.found):
            words += self._part(piece, pieces, pieces.begins(number))
        return words

    def _part(self, piece: Piece, pieces: Pieces, begins: Sequence[int]) -> list[int]:
        roles, width = pieces.roles, 4 * piece.part.geometry.outputs
        own = {role: aligned(piece.rows * width) for role in pieces.images if pieces.has_channels}
        scratch = aligned(piece.primitive.scratchpad.nbytes)
        memories, arguments = arguments_of(piece.primitive, roles, scratch)
        self._kept.append((piece, own, scratch, memories, arguments))
        words = [piece.primitive.handle.value or 0, len(memories), addressof(arguments)]
        words += [piece.rows, width, 4 * pieces.outputs]
        for role, memory, begin in zip(
            roles, memories, begins, strict=False
        ):  # the last memory may be scratch
            words += [memory.handle.value, begin, address(own[role]) if role in own else 0]
        return words

    def run(self, *arrays: Array) -> Array:
        """Runs all of them. Raises KernelError where oneDNN fails."""
        given = [*map(dense, arrays[:-1]), arrays[-1]]  # kept by this name until all is done
        self._start(self._data(*map(address, given)), self._table)
        if status := int(self._failed[0]):
            self._failed[0] = 0
            fail(self._primitive, status)
        return arrays[-1]

"""The transforms of Winograd's minimal filtering F(4x4, 3x3) as LLVM IR: vectors of channels, tile by tile.

Both are functions ``kernel(data, table, begin, end)`` on the tiles from ``begin`` to ``end``, counted over images, rows and columns
of tiles. ``data`` has addresses, ``table`` sizes, both in the order that the functions below name. The last vector of a channel
count that is no multiple of the width overlaps the one before it, so there must be one whole vector at least.

Source: A. Lavin, S. Gray, "Fast algorithms for convolutional neural networks", CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from ..jit.code import Code, Value

TILE, PATCH = 4, 6
"""Outputs along each axis of a tile, and inputs that they see."""

POINTS = PATCH * PATCH
"""Products for each tile and pair of channels, in place of 144."""

FIRST, SECOND = 0.75, 1.5
"""The points are 0, plus and minus these, and infinity. The paper's, 1 and 2, give largest errors about four times as large; of a
dozen pairs that were measured this is the best. That other points help: K. Vincent et al., "On improving the numerical stability of
Winograd convolutions", ICLR workshop 2017."""

_A, _B = FIRST**2, SECOND**2


def weight_matrix() -> np.ndarray[Any, Any]:
    """The transform of a kernel along one axis, ``[6, 3]``: G of the paper."""
    rows = [[1 / (_A * _B), 0, 0]]
    for point, other in ((FIRST, _B), (SECOND, _A)):
        factor = 1 / (2 * point**2 * (point**2 - other))
        rows += [[factor, sign * factor * point, factor * point**2] for sign in (1, -1)]
    return np.array([*rows, [0, 0, 1]])


Along = Callable[[Code, Sequence[Value]], list[Value]]


def _plus(code: Code, a: Value, factor: float, b: Value) -> Value:
    return code.multiply_add(a, code.constant(factor, "float32"), b)


def _of_inputs(code: Code, d: Sequence[Value]) -> list[Value]:
    """B^T of the paper times six numbers."""
    found = [_plus(code, d[0], _A * _B, _plus(code, d[2], -_A - _B, d[4]))]
    for point, other in ((FIRST, _B), (SECOND, _A)):
        even, odd = _plus(code, d[2], -other, d[4]), _plus(code, d[1], -other, d[3])
        found += [_plus(code, odd, sign * point, even) for sign in (1, -1)]
    return [*found, _plus(code, d[1], _A * _B, _plus(code, d[3], -_A - _B, d[5]))]


def _of_outputs(code: Code, m: Sequence[Value]) -> list[Value]:
    """A^T of the paper times six numbers."""
    sums = code.add(m[1], m[2]), code.add(m[3], m[4])
    differences = code.subtract(m[1], m[2]), code.subtract(m[3], m[4])

    def powers(pair: tuple[Value, Value], power: int) -> Value:
        first = code.multiply(pair[0], code.constant(FIRST**power, "float32"))
        return _plus(code, pair[1], SECOND**power, first)

    return [
        code.add(code.add(m[0], sums[0]), sums[1]),
        powers(differences, 1),
        powers(sums, 2),
        code.add(powers(differences, 3), m[5]),
    ]


class _Tiles:
    """A loop over tiles, and in it one over vectors of channels."""

    def __init__(self, lanes: int, data: Sequence[str], table: Sequence[str]) -> None:
        self.code = Code()
        self.lanes = lanes
        code = self.code
        code.label("entry")
        self.pointers = {name: self._word("%data", n, "ptr") for n, name in enumerate(data)}
        self.sizes = {name: self._word("%table", n, "i64") for n, name in enumerate(table)}

    def _word(self, base: str, number: int, kind: str) -> str:
        place = self.code.let(f"getelementptr i64, ptr {base}, i64 {number}")
        return self.code.let(f"load {kind}, ptr {place}, align 8")

    def integer(self, instruction: str, a: str, b: object) -> str:
        """An instruction on indices."""
        return self.code.let(f"{instruction} i64 {a}, {b}")

    def moved(self, base: str, nbytes: str) -> str:
        """An address some bytes further."""
        return self.code.let(f"getelementptr i8, ptr {base}, i64 {nbytes}")

    def begin_tiles(self) -> tuple[str, str, str, str]:
        """The number of the image, the row and the column of the tile, and its number counted from ``begin``."""
        code, sizes = self.code, self.sizes
        self.last = self.integer("sub", sizes["channels"], self.lanes)
        per_image = self.integer("mul", sizes["tile_rows"], sizes["tile_columns"])
        code.line("%any = icmp ult i64 %begin, %end")
        code.line("br i1 %any, label %tiles, label %done")
        code.label("tiles")
        code.line("%tile = phi i64 [ %begin, %entry ], [ %next.tile, %tiles.end ]")
        local = self.integer("sub", "%tile", "%begin")
        image, rest = self.integer("udiv", "%tile", per_image), self.integer("urem", "%tile", per_image)
        row = self.integer("udiv", rest, sizes["tile_columns"])
        return image, row, self.integer("urem", rest, sizes["tile_columns"]), local

    def begin_channels(self) -> str:
        """The bytes before the vector of channels."""
        code = self.code
        code.line("br label %channels")
        code.label("channels")
        code.line("%channel = phi i64 [ 0, %tiles ], [ %next.channel, %channels ]")
        over = code.let(f"icmp ugt i64 %channel, {self.last}")
        first = code.let(f"select i1 {over}, i64 {self.last}, i64 %channel")
        return self.integer("shl", first, 2)

    def end(self) -> str:
        """Ends both loops; the whole text."""
        code = self.code
        code.line(f"%next.channel = add i64 %channel, {self.lanes}")
        code.line(f"%more.channels = icmp ult i64 %next.channel, {self.sizes['channels']}")
        code.line("br i1 %more.channels, label %channels, label %tiles.end")
        code.label("tiles.end")
        code.line("%next.tile = add i64 %tile, 1")
        code.line("%more.tiles = icmp ult i64 %next.tile, %end")
        code.line("br i1 %more.tiles, label %tiles, label %done")
        code.label("done")
        code.line("ret void")
        width = 32 * self.lanes
        attributes = f'"prefer-vector-width"="{width}" "min-legal-vector-width"="{width}"'
        head = f"define void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end) nounwind {attributes} {{"
        return "\n".join([head, *code.lines, "}", *code.declarations, ""])

    def places(self, count: int, image: str, corner: tuple[str, str], others: dict[str, str]) -> list[str]:
        """Arrays of addresses of ``count`` x ``count`` pixels, one for each array; what is outside has the address of another."""
        code, sizes = self.code, self.sizes
        pixel = self.integer("shl", sizes["channels"], 2)
        line = self.integer("mul", sizes["columns"], pixel)
        before = self.integer("mul", image, self.integer("mul", sizes["rows"], line))
        inside, offsets = [], []
        for axis, (first, name, step) in enumerate(
            zip(corner, ("rows", "columns"), (line, pixel), strict=True)
        ):
            indices = [self.integer("add", first, n) for n in range(count)]
            inside.append([code.let(f"icmp ult i64 {index}, {sizes[name]}") for index in indices])
            starts = [self.integer("mul", index, step) for index in indices]
            offsets.append([self.integer("add", before, start) for start in starts] if axis == 0 else starts)
        found = []
        for name, other in others.items():
            table = f"%places.{name}"
            for n in range(count * count):
                row, column = divmod(n, count)
                both = code.let(f"and i1 {inside[0][row]}, {inside[1][column]}")
                there = self.integer("add", offsets[0][row], offsets[1][column])
                place = self.moved(self.pointers[name], there)
                chosen = code.let(f"select i1 {both}, ptr {place}, ptr {self.pointers[other]}")
                slot = code.let(f"getelementptr ptr, ptr {table}, i64 {n}")
                code.line(f"store ptr {chosen}, ptr {slot}, align 8")
            found.append(table)
        return found

    def place(self, table: str, number: int, offset: str) -> str:
        """An address of such an array, some bytes further."""
        return self.moved(self._word(table, number, "ptr"), offset)

    def load(self, place: str) -> Value:
        """A vector from memory."""
        return self.code.make(f"load {self.code.type('float32')}, ptr {place}, align 4", "float32")

    def store(self, value: Value, place: str) -> None:
        """A vector to memory."""
        self.code.line(f"store {self.code.type('float32')} {value.name}, ptr {place}, align 4")


def _twice(code: Code, along: Along, numbers: Sequence[Sequence[Value]]) -> list[list[Value]]:
    """A transform along both axes of ``numbers``, columns of six."""
    columns = [along(code, column) for column in numbers]
    return [along(code, row) for row in zip(*columns, strict=True)]


INPUTS = ("x", "zeros", "points")
INPUT_SIZES = ("rows", "columns", "channels", "tile_rows", "tile_columns", "above", "left", "plane")


def input_source(lanes: int) -> str:
    """``points [36, tiles, channels]`` of ``x [n, rows, columns, channels]``; ``plane`` is the bytes between two of the 36.

    ``zeros [channels]`` stands for the padding, of which there are ``above`` rows and ``left`` columns before the image.
    """
    tiles = _Tiles(lanes, INPUTS, INPUT_SIZES)
    code, sizes = tiles.code, tiles.sizes
    code.line(f"%places.x = alloca [{POINTS} x ptr], align 64")
    image, row, column, local = tiles.begin_tiles()
    corner = tuple(
        tiles.integer("sub", tiles.integer("mul", index, TILE), sizes[before])
        for index, before in ((row, "above"), (column, "left"))
    )
    (table,) = tiles.places(PATCH, image, (corner[0], corner[1]), {"x": "zeros"})
    start = tiles.integer("mul", local, tiles.integer("shl", sizes["channels"], 2))
    target = tiles.moved(tiles.pointers["points"], start)
    offset = tiles.begin_channels()
    code.lanes = lanes
    columns = [
        [tiles.load(tiles.place(table, i * PATCH + j, offset)) for i in range(PATCH)] for j in range(PATCH)
    ]
    target = tiles.moved(target, offset)
    for number, value in enumerate(chain.from_iterable(_twice(code, _of_inputs, columns))):
        tiles.store(value, target)
        if number < POINTS - 1:
            target = tiles.moved(target, sizes["plane"])
    return tiles.end()


OUTPUTS = ("points", "bias", "residual", "output", "spare", "zeros", "check")
OUTPUT_SIZES = ("rows", "columns", "channels", "tile_rows", "tile_columns", "plane")


def output_source(lanes: int, *, bias: bool, residual: bool, relu: bool) -> str:
    """``output [n, rows, columns, channels]`` of ``points [36, tiles, channels]``, with bias and what follows.

    ``spare [channels]`` is for the pixels of tiles that are outside, where ``zeros [channels]`` is the residual. To ``check``, a vector, is added what is zero if all numbers
    are finite before relu, else NaN.
    """
    tiles = _Tiles(lanes, OUTPUTS, OUTPUT_SIZES)
    code, sizes = tiles.code, tiles.sizes
    others = {"output": "spare", **({"residual": "zeros"} if residual else {})}
    for name in others:
        code.line(f"%places.{name} = alloca [{TILE * TILE} x ptr], align 64")
    image, row, column, local = tiles.begin_tiles()
    corner = (tiles.integer("mul", row, TILE), tiles.integer("mul", column, TILE))
    tables = tiles.places(TILE, image, corner, others)
    start = tiles.integer("mul", local, tiles.integer("shl", sizes["channels"], 2))
    source = tiles.moved(tiles.pointers["points"], start)
    offset = tiles.begin_channels()
    code.lanes = lanes
    source = tiles.moved(source, offset)
    rows: list[list[Value]] = [[] for _ in range(PATCH)]
    for number in range(POINTS):
        rows[number // PATCH].append(tiles.load(source))
        if number < POINTS - 1:
            source = tiles.moved(source, sizes["plane"])
    sums = _twice(code, _of_outputs, rows)
    offsets = tiles.load(tiles.moved(tiles.pointers["bias"], offset)) if bias else None
    zero, check = code.constant(0.0, "float32"), tiles.load(tiles.pointers["check"])
    for number in range(TILE * TILE):
        # the transform along rows came first, so these are columns
        value = sums[number % TILE][number // TILE]
        value = code.add(value, offsets) if offsets else value
        if residual:
            value = code.add(value, tiles.load(tiles.place(tables[1], number, offset)))
        check = code.multiply_add(value, zero, check)
        value = code.extremum("gt", zero, value) if relu else value
        tiles.store(value, tiles.place(tables[0], number, offset))
    tiles.store(check, tiles.pointers["check"])
    return tiles.end()

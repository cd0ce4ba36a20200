"""Convolutions of channels-last images as LLVM IR: results of some neighbouring pixels stay in registers while the window goes by.

A vector holds channels of one pixel. A depthwise convolution multiplies vectors of x with vectors of weights; any other one
multiplies single numbers of x, in all lanes, with vectors of weights for as many outputs. A number of x is read once for all of the
results in registers that it is a part of. Sizes are known when the text is written, so tiles at the edges leave out what is padding.

Source: J. Zhang, F. Franchetti, T. M. Low, "High Performance Zero-Memory Overhead Direct Convolutions", ICML 2018.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise

from opyard.graph import Value as Variable

from ..gemm.source import operands_of
from ..gemm.tail import ALL, COLUMN, Tail
from ..gemm.tile import Loads, function
from ..geometry import Geometry
from ..jit.code import Code, Value
from ..jit.machine import Processor

MOST_COLUMNS = 14
"""Pixels beside each other whose results are in registers, at most."""

LEAST_COLUMNS = 4
"""With fewer of them arithmetic would wait for itself."""

SPARE = 2
"""Registers for what is neither a sum nor a weight."""

CACHED_BYTES = 1 << 20
"""Images that are mostly found in the second-level cache."""

Pattern = tuple[tuple[int, tuple[tuple[int, int], ...]], ...]
"""For each column of x, counted from that of the first window: the elements of the kernel and the results that it belongs to."""


@dataclass(frozen=True, slots=True)
class Loops:
    """How a convolution over two axes is cut. ``vectors`` of ``lanes`` channels are worked on at once, for ``columns`` pixels.

    Units of work are rows of results, each in ``parts`` of the channels. Images that are ``plain`` have channels as their first axis.
    """

    batch: int
    channels: int
    outputs: int
    is_depthwise: bool
    sizes: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    before: tuple[int, int]
    counts: tuple[int, int]
    lanes: int
    vectors: int
    columns: int
    parts: int
    plain: bool = False

    @property
    def pixel(self) -> int:
        """Numbers from one pixel of x to the next."""
        return 1 if self.plain else self.channels

    @property
    def line(self) -> int:
        """Numbers from one row of x to the next."""
        return self.sizes[1] * self.pixel

    @property
    def channel(self) -> int:
        """Numbers from one channel of x to the next."""
        return self.sizes[0] * self.sizes[1] if self.plain else 1

    @property
    def groups(self) -> int:
        """How often so many vectors are worked on for a pixel; beyond the last channel weights are zeros."""
        return -(-self.outputs // (self.vectors * self.lanes))

    @property
    def depth(self) -> int:
        """Channels of x for each result."""
        return 1 if self.is_depthwise else self.channels

    @property
    def fetches(self) -> bool:
        """Whether the next row is fetched ahead."""
        return self.is_depthwise and 4 * self.channels * self.sizes[0] * self.sizes[1] > CACHED_BYTES

    @property
    def units(self) -> int:
        """Units of work."""
        return self.batch * self.counts[0] * self.parts

    def tiles(self) -> Iterator[tuple[int, int, int, Pattern]]:
        """First result, width, number and pattern of tiles beside each other that are alike."""
        count = -(-self.counts[1] // self.columns)
        ends = [self.counts[1] * number // count for number in range(count + 1)]
        found = ((first, last - first) for first, last in pairwise(ends))
        alike = groupby(found, key=lambda tile: (tile[1], self._pattern(*tile)))
        for (width, pattern), members in alike:
            (first, _), *others = members
            yield first, width, 1 + len(others), pattern

    def _pattern(self, first: int, width: int) -> Pattern:
        (_, step), (_, spread), (_, left) = self.strides, self.dilations, self.before
        start = first * step - left
        columns: dict[int, list[tuple[int, int]]] = {}
        for result in range(width):
            for element in range(self.kernel[1]):
                column = result * step + element * spread
                if 0 <= start + column < self.sizes[1]:
                    columns.setdefault(column, []).append((element, result))
        return tuple((column, tuple(columns[column])) for column in sorted(columns))


def loops(g: Geometry, target: Processor, threads: int, plain: bool = False) -> Loops | None:
    """The loops for a processor; None where its registers are too few for the kernel."""
    lanes = target.vector_bytes // 4
    registers = 32 if target.vector_bytes == 64 or not target.is_x86 else 16
    whole = -(-g.outputs // lanes)
    vectors = 1 if g.is_depthwise else min((2, 3, 1), key=lambda count: -whole % count)
    flat = len(g.counts) == 1
    kernel, counts = ((1, *g.kernel), (1, *g.counts)) if flat else (g.kernel, g.counts)
    most = min(MOST_COLUMNS, (registers - SPARE - kernel[1] * vectors) // vectors)
    if most < LEAST_COLUMNS:
        return None
    columns = next((n for n in range(most, most // 2, -1) if counts[1] % n == 0), most)
    parts = min(-(-whole // vectors), -(-4 * threads // (g.batch * counts[0])) if threads > 1 else 1)
    pairs = ((0, 0), *g.pairs) if flat else g.pairs
    axes = (
        (1, *axis) if flat else axis for axis in (g.sizes, kernel[-len(g.kernel) :], g.strides, g.dilations)
    )
    (sizes, kernel, strides, dilations) = ((int(a), int(b)) for a, b in axes)
    before = (pairs[0][0], pairs[1][0])
    return Loops(
        *(g.batch, g.channels, g.outputs, g.is_depthwise, sizes, kernel, strides, dilations, before),
        *((counts[0], counts[1]), lanes, vectors, columns, parts, plain),
    )


class Source:
    """The text: ``data`` has the addresses of x, weights ``[groups, kernel, depth, kernel, vectors, lanes]``, operands and output."""

    def __init__(self, cut: Loops, tail: Tail) -> None:
        self.cut, self.tail = cut, tail
        self.declarations: dict[str, None] = {}

    def text(self) -> str:
        """The whole text."""
        tiles = list(self.cut.tiles())
        parts = [self._tile(f"tile{n}", width, pattern) for n, (_, width, _, pattern) in enumerate(tiles)]
        parts.append(self._loops(tiles))
        return "\n".join([*parts, *self.declarations, ""])

    def _function(self, code: Code, head: str) -> str:
        self.declarations.update(code.declarations)
        return function(code, head, 4 * self.cut.lanes)

    def _loops(self, tiles: list[tuple[int, int, int, Pattern]]) -> str:
        """Units, and the tiles of each beside each other."""
        cut, code = self.cut, Code()
        loads = Loads(code, cut.lanes)
        (down, right), (spread, _), (above, left) = cut.strides, cut.dilations, cut.before
        code.label("entry")
        x, weights = loads.word(0), loads.word(1)
        code.line("%any = icmp ult i64 %begin, %end")
        code.line("br i1 %any, label %units, label %done")
        code.label("units")
        code.line("%unit = phi i64 [ %begin, %entry ], [ %next.unit, %units.end ]")
        row, part = (code.let(f"{kind} i64 %unit, {cut.parts}") for kind in ("udiv", "urem"))
        image, i = (code.let(f"{kind} i64 {row}, {cut.counts[0]}") for kind in ("udiv", "urem"))
        top = code.let(f"sub i64 {code.let(f'mul i64 {i}, {down}')}, {above}")
        # the rows of the kernel that are within the image
        missing = code.let(f"sub i64 {spread - 1}, {top}")
        low = self._at_least(code, code.let(f"sdiv i64 {missing}, {spread}"), "0")
        room = code.let(f"add i64 {missing}, {cut.sizes[0]}")
        fits = code.let(f"sdiv i64 {room}, {spread}")
        short = code.let(f"icmp slt i64 {fits}, {cut.kernel[0]}")
        high = code.let(f"select i1 {short}, i64 {fits}, i64 {cut.kernel[0]}")
        before = code.let(f"mul i64 {image}, {cut.sizes[0] * cut.sizes[1] * cut.channels}")
        first = code.let(f"add i64 {before}, {code.let(f'mul i64 {top}, {cut.line}')}")
        after = code.let(f"add i64 {part}, 1")
        span = [
            code.let(f"udiv i64 {code.let(f'mul i64 {one}, {cut.groups}')}, {cut.parts}")
            for one in (part, after)
        ]
        pixel = code.let(f"mul i64 {row}, {cut.counts[1]}")
        for n, (start, width, count, _) in enumerate(tiles):
            code.line(f"br label %before{n}")
            code.label(f"before{n}")
            code.line(f"br label %tiles{n}")
            code.label(f"tiles{n}")
            code.line(f"%n{n} = phi i64 [ 0, %before{n} ], [ %next{n}, %tiles{n} ]")
            column = code.let(f"add i64 {code.let(f'mul i64 %n{n}, {width}')}, {start}")
            moved = code.let(f"sub i64 {code.let(f'mul i64 {column}, {right}')}, {left}")
            place = code.let(f"add i64 {first}, {code.let(f'mul i64 {moved}, {cut.pixel}')}")
            result = code.let(f"mul i64 {code.let(f'add i64 {pixel}, {column}')}, {cut.outputs}")
            given = f"ptr %data, ptr {loads.moved(x, place)}, ptr {weights}, i64 {low}, i64 {high}"
            code.line(f"call void @tile{n}({given}, i64 {result}, i64 {span[0]}, i64 {span[1]})")
            code.line(f"%next{n} = add i64 %n{n}, 1")
            code.line(f"%more{n} = icmp ult i64 %next{n}, {count}")
            code.line(f"br i1 %more{n}, label %tiles{n}, label %tiles{n}.end")
            code.label(f"tiles{n}.end")
        code.line("br label %units.end")
        code.label("units.end")
        code.line("%next.unit = add i64 %unit, 1")
        code.line("%more = icmp ult i64 %next.unit, %end")
        code.line("br i1 %more, label %units, label %done")
        code.label("done")
        code.line("ret void")
        return self._function(code, "void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end)")

    @staticmethod
    def _at_least(code: Code, number: str, least: str) -> str:
        above = code.let(f"icmp sgt i64 {number}, {least}")
        return code.let(f"select i1 {above}, i64 {number}, i64 {least}")

    def _tile(self, name: str, width: int, pattern: Pattern) -> str:
        """``tile(data, x, weights, low, high, place, begin, end)``: groups of channels of some pixels beside each other.

        x is where the first window begins, ``place`` the number of the first result, and rows of the kernel are ``low`` to ``high``.
        """
        cut, tail, code = self.cut, self.tail, Code(scales=self.cut.lanes == 16)
        loads = Loads(code, cut.lanes)
        step, rows = cut.vectors * cut.lanes, cut.kernel[1] * cut.vectors * cut.lanes
        code.label("entry")
        addresses = {value: loads.word(2 + n) for n, (value, _, _) in enumerate(tail.operands)}
        output = loads.word(2 + len(tail.operands))
        known = operands_of(loads, tail, addresses, None, ())
        code.line("%some = icmp ult i64 %begin, %end")
        code.line("br i1 %some, label %groups, label %done")
        code.label("groups")
        code.line("%group = phi i64 [ %begin, %entry ], [ %next.group, %finished ]")
        channel = code.let(f"mul i64 %group, {step}")
        left = code.let(f"sub i64 {cut.outputs}, {channel}")
        masks = [self._mask(loads, left, vector) for vector in range(cut.vectors)]
        size = cut.kernel[0] * cut.depth * rows
        w = loads.moved("%weights", code.let(f"mul i64 %group, {size}"))
        start = loads.moved("%x", channel if cut.is_depthwise else 0)
        code.line("%any = icmp slt i64 %low, %high")
        code.line("br label %groups.begin")
        code.label("groups.begin")
        sums = self._rows(loads, pattern, width * cut.vectors, (start, w, rows), masks[0])
        self._fetch(loads, width, start)
        self._finish(loads, width, sums, (channel, masks, addresses, output, known))
        code.line("br label %finished")
        code.label("finished")
        code.line("%next.group = add i64 %group, 1")
        code.line("%more.groups = icmp ult i64 %next.group, %end")
        code.line("br i1 %more.groups, label %groups, label %done")
        code.label("done")
        code.line("ret void")
        given = "ptr %data, ptr %x, ptr %weights, i64 %low, i64 %high, i64 %place, i64 %begin, i64 %end"
        return self._function(code, f"internal void @{name}({given}) noinline")

    def _mask(self, loads: Loads, left: str, vector: int) -> str | None:
        cut = self.cut
        if cut.outputs % (cut.vectors * cut.lanes) == 0:
            return None
        return loads.mask(loads.code.let(f"sub i64 {left}, {vector * cut.lanes}"))

    def _rows(
        self, loads: Loads, pattern: Pattern, count: int, given: tuple[str, str, int], mask: str | None
    ) -> list[str]:
        """So many sums over the rows of the kernel, and the channels of each."""
        cut, code, kind = self.cut, loads.code, f"<{self.cut.lanes} x float>"
        x, w, rows = given
        code.line("br i1 %any, label %rows, label %summed")
        code.label("rows")
        code.line("%row = phi i64 [ %low, %groups.begin ], [ %next.row, %depths.end ]")
        outer = [f"%row.sum{n}" for n in range(count)]
        mark = len(code.lines)
        line = loads.moved(x, code.let(f"mul i64 %row, {cut.dilations[0] * cut.line}"))
        weights = loads.moved(w, code.let(f"mul i64 %row, {cut.depth * rows}"))
        code.line("br label %depths")
        code.label("depths")
        code.line("%depth = phi i64 [ 0, %rows ], [ %next.depth, %depths ]")
        inner = [f"%sum{n}" for n in range(count)]
        middle = len(code.lines)
        now = self._multiply(
            loads,
            pattern,
            inner,
            loads.moved(line, code.let(f"mul i64 %depth, {cut.channel}")),
            loads.moved(weights, code.let(f"mul i64 %depth, {rows}")),
            mask,
        )
        code.line("%next.depth = add i64 %depth, 1")
        code.line(f"%more.depth = icmp ult i64 %next.depth, {cut.depth}")
        code.line("br i1 %more.depth, label %depths, label %depths.end")
        code.label("depths.end")
        code.line("%next.row = add i64 %row, 1")
        code.line("%more.rows = icmp slt i64 %next.row, %high")
        code.line("br i1 %more.rows, label %rows, label %summed")
        code.lines[middle:middle] = [
            f"  {one} = phi {kind} [ {first}, %rows ], [ {last}, %depths ]"
            for one, first, last in zip(inner, outer, now, strict=True)
        ]
        code.lines[mark:mark] = [
            f"  {one} = phi {kind} [ zeroinitializer, %groups.begin ], [ {last}, %depths.end ]"
            for one, last in zip(outer, now, strict=True)
        ]
        code.label("summed")
        return [
            code.let(f"phi {kind} [ zeroinitializer, %groups.begin ], [ {last}, %depths.end ]")
            for last in now
        ]

    def _multiply(
        self, loads: Loads, pattern: Pattern, sums: list[str], x: str, w: str, mask: str | None
    ) -> list[str]:
        """Adds the products of one row of the kernel and one channel of x, or one vector of them."""
        cut, code, now = self.cut, loads.code, list(sums)
        used = {element for _, pairs in pattern for element, _ in pairs}
        weights = {
            (element, vector): loads.load(loads.moved(w, (element * cut.vectors + vector) * cut.lanes))
            for element in sorted(used)
            for vector in range(cut.vectors)
        }
        for column, pairs in pattern:
            place = loads.moved(x, column * cut.pixel)
            number = loads.load(place, mask) if cut.is_depthwise else loads.number(place)
            for element, result in pairs:
                for vector in range(cut.vectors):
                    n = result * cut.vectors + vector
                    total = Value(now[n], "float32", cut.lanes)
                    now[n] = code.multiply_add(number, weights[element, vector], total).name
        return now

    def _fetch(self, loads: Loads, width: int, x: str) -> None:
        """Asks for what the next row of results takes beside what this one takes, where the image does not stay in the cache."""
        cut, code = self.cut, loads.code
        if not cut.fetches:
            return
        code.declarations["declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"] = None
        below = (cut.kernel[0] - 1) * cut.dilations[0] + 1
        for row in range(below, below + cut.strides[0]):
            for column in range(width * cut.strides[1]):
                place = loads.moved(x, row * cut.line + column * cut.pixel)
                code.line(f"call void @llvm.prefetch.p0(ptr {place}, i32 0, i32 2, i32 1)")

    def _finish(
        self,
        loads: Loads,
        width: int,
        sums: list[str],
        given: tuple[str, list[str | None], dict[Variable, str], str, dict[Variable, Value]],
    ) -> None:
        """What follows the convolution, and the results."""
        cut, tail, code = self.cut, self.tail, loads.code
        channel, masks, addresses, output, known = given
        for vector, mask in enumerate(masks):
            index = code.let(f"add i64 {channel}, {vector * cut.lanes}")
            here = {**known, **operands_of(loads, tail, addresses, mask, ((COLUMN, index),))}
            begin = code.let(f"add i64 %place, {index}")
            for result in range(width):
                place = code.let(f"add i64 {begin}, {result * cut.outputs}")
                there = operands_of(loads, tail, addresses, mask, ((ALL, place),))
                total = Value(sums[result * cut.vectors + vector], "float32", cut.lanes)
                (found,) = tail.emit(code, [total], [{**here, **there}])
                loads.store(found, loads.moved(output, place), mask)

"""Attention as LLVM IR: for a block of queries at a time scores, softmax and the sum of values, all in the nearest caches.

Keys are transposed, and values copied, once for each head, into panels as products want them. Rows of scores are whole, so no
maximum has to be corrected. For few queries keys and values are read once, as they lie, and joined to those before on the way. Source: M. N. Rabe, C. Staats, "Self-attention Does Not Need O(n^2) Memory", arXiv:2112.05682.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..jit import mathematics
from ..jit.code import Code, Value
from .attention_shape import ROWS, VECTORS, Shape
from .tile import Loads, Tile, function

AHEAD = 4096
"""Bytes from what is joined to what is asked for."""

LOWEST = -87.0
"""What is further below the maximum than this has no share: its exponential would be below the normal numbers, where processors are slow."""


class AttentionSource:
    """The text: ``kernel(data, table, begin, end)`` on units of work, heads and parts of their queries."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.code = Code(scales=shape.lanes == 16)
        self.loads = Loads(self.code, shape.lanes)
        self.scores = Tile(ROWS, VECTORS, shape.lanes, shape.width, shape.columns, shape.row)
        self.sums = Tile(ROWS, VECTORS, shape.lanes, shape.row, shape.columns, shape.columns)

    def text(self) -> str:
        """The whole text."""
        shape, declarations = self.shape, dict[str, None]()
        parts = []
        for tile in {tile.name: tile for tile in (self.scores, self.sums)}.values():
            code, head = tile.text()
            declarations.update(code.declarations)
            parts.append(function(code, head, 4 * shape.lanes))
        self._loops()
        declarations.update(self.code.declarations)
        head = "void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end)"
        return "\n".join(
            [*parts, function(self.code, head, 4 * shape.lanes), *declarations, "!0 = !{i32 1}", ""]
        )

    def _let(self, instruction: str, a: object, b: object) -> str:
        return self.code.let(f"{instruction} i64 {a}, {b}")

    def _while(self, name: str, start: str, before: str) -> None:
        """Begins a loop, whose body is not empty."""
        self.code.line(f"br label %{name}")
        self.code.label(name)
        self.code.line(f"%{name}.i = phi i64 [ {start}, %{before} ], [ %{name}.next, %{name}.last ]")

    def _again(self, name: str, end: object, step: int = 1) -> None:
        """Ends it."""
        code = self.code
        code.line(f"br label %{name}.last")
        code.label(f"{name}.last")
        code.line(f"%{name}.next = add i64 %{name}.i, {step}")
        code.line(f"%{name}.more = icmp ult i64 %{name}.next, {end}")
        code.line(f"br i1 %{name}.more, label %{name}, label %{name}.done")
        code.label(f"{name}.done")

    # The loops -------------------------------------------------------------------------------------------------------

    def _loops(self) -> None:
        code, loads, shape = self.code, self.loads, self.shape
        code.label("entry")
        self.word = {name: loads.word(n) for n, name in enumerate(shape.words)}
        self.stride = {
            name: code.let(f"load i64, ptr {code.let(f'getelementptr i64, ptr %table, i64 {n}')}")
            for n, name in enumerate(shape.strides)
        }
        self.room = {}
        for name, size in shape.sizes.items():
            code.line(f"%{name} = alloca [{size} x float], align 64")
            self.room[name] = f"%{name}"
        code.line("%any = icmp ult i64 %begin, %end")
        code.line("br i1 %any, label %work, label %work.done")
        code.label("work")
        code.line("%work.i = phi i64 [ %begin, %entry ], [ %work.next, %work.last ]")
        pair, part = self._let("udiv", "%work.i", shape.parts), self._let("urem", "%work.i", shape.parts)
        batch, head = self._let("udiv", pair, shape.heads), self._let("urem", pair, shape.heads)
        shared = self._let("udiv", head, shape.shared)
        base = {
            name: self._head(name, batch, shared if name.endswith(("key", "value")) else head)
            for name in shape.words
        }
        before = "work"
        if not shape.is_narrow:
            self._transpose(base["key"])
            self._copy(base["value"])
            before = "copy.row.done"
        for name in ("key", "value") if shape.past else ():
            before = self._join(name, base, head)
        first, last = (
            self._let("udiv", self._let("mul", one, shape.blocks), shape.parts)
            for one in (part, self._let("add", part, 1))
        )
        self._while("block", first, before)
        self._block(base)
        self._again("block", last)
        self._again("work", "%end")
        if shape.streams:
            code.declarations["declare void @llvm.x86.sse.sfence()"] = None
            code.line("call void @llvm.x86.sse.sfence()")
        code.line("ret void")

    def _head(self, name: str, batch: str, head: str) -> str:
        offsets = (
            self._let("mul", index, self.stride[f"{name}.{axis}"])
            for index, axis in ((batch, "batch"), (head, "head"))
        )
        return self.loads.moved(self.word[name], self._let("add", *offsets))

    # Keys and values -------------------------------------------------------------------------------------------------

    def _transpose(self, key: str) -> None:
        """Keys by columns, in panels: squares of as many rows and columns as a vector has lanes change places in registers."""
        loads, shape, lanes = self.loads, self.shape, self.shape.lanes
        self._while("turn", "0", "work")
        rows = []
        for n in range(lanes):
            row = self._least(self._let("add", "%turn.i", n), shape.keys - 1)
            rows.append(loads.moved(key, self._let("mul", row, self.stride["key.row"])))
        panel = self._let("udiv", "%turn.i", shape.columns)
        within = self._let("urem", "%turn.i", shape.columns)
        start = self._let("add", self._let("mul", panel, shape.columns * shape.width), within)
        target = loads.moved(self.room["keys"], start)
        self._while("turn.column", "0", "turn")
        square = self._turned([loads.load(loads.moved(row, "%turn.column.i")).name for row in rows])
        for n, name in enumerate(square):
            column = self._let("add", "%turn.column.i", n)
            place = loads.moved(target, self._let("mul", column, shape.columns))
            loads.store(Value(name, "float32", lanes), place)
        self._again("turn.column", shape.width, lanes)
        self._again("turn", shape.row, lanes)

    def _turned(self, rows: list[str]) -> list[str]:
        """A square of numbers with rows and columns exchanged: blocks of one, two, four, ... numbers change places."""
        lanes, kind = self.shape.lanes, f"<{self.shape.lanes} x float>"
        step = 1
        while step < lanes:
            low = [n if not n & step else lanes + n - step for n in range(lanes)]
            high = [n + step if not n & step else lanes + n for n in range(lanes)]
            for first in (n for n in range(lanes) if not n & step):
                pair = rows[first], rows[first + step]
                for place, order in ((first, low), (first + step, high)):
                    picks = ", ".join(f"i32 {n}" for n in order)
                    rows[place] = self.code.let(
                        f"shufflevector {kind} {pair[0]}, {kind} {pair[1]}, <{lanes} x i32> <{picks}>"
                    )
            step *= 2
        return rows

    def _copy(self, value: str) -> None:
        """Values in panels."""
        loads, shape = self.loads, self.shape
        self._while("copy.row", "0", "turn.done")
        source = loads.moved(value, self._let("mul", "%copy.row.i", self.stride["value.row"]))
        target = loads.moved(self.room["values"], self._let("mul", "%copy.row.i", shape.columns))
        for column in range(0, shape.values, shape.lanes):
            panel, within = divmod(column, shape.columns)
            place = loads.moved(target, panel * shape.keys * shape.columns + within)
            loads.store(loads.load(loads.moved(source, column)), place)
        self._again("copy.row", shape.keys)

    def _row(self, name: str, base: dict[str, str], row: str) -> str:
        """Where a key or value lies: among those before, or the new ones."""
        loads = self.loads
        if not self.shape.past:
            return loads.moved(base[name], self._let("mul", row, self.stride[f"{name}.row"]))
        old = loads.moved(base[f"past.{name}"], self._let("mul", row, self.stride[f"past.{name}.row"]))
        number = self._let("sub", row, self.shape.past)
        new = loads.moved(base[name], self._let("mul", number, self.stride[f"{name}.row"]))
        is_old = self.code.let(f"icmp ult i64 {row}, {self.shape.past}")
        return self.code.let(f"select i1 {is_old}, ptr {old}, ptr {new}")

    def _join(self, name: str, base: dict[str, str], head: str) -> str:
        """Writes out all keys or values of a head, where this is the first of the queries' that it serves; gives the label behind it."""
        code, loads, shape = self.code, self.loads, self.shape
        loop = f"join.{name}"
        other = code.let(f"icmp ne i64 {self._let('urem', head, shape.shared)}, 0")
        code.line(f"br i1 {other}, label %{loop}.done, label %{loop}.begin")
        code.label(f"{loop}.begin")
        self._while(loop, "0", f"{loop}.begin")
        source = self._row(name, base, f"%{loop}.i")
        target = loads.moved(
            base[f"all.{name}"], self._let("mul", f"%{loop}.i", self.stride[f"all.{name}.row"])
        )
        code.declarations["declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"] = None
        for column in range(0, shape.width if name == "key" else shape.values, shape.lanes):
            place = loads.moved(source, column)
            ahead = code.let(f"getelementptr i8, ptr {place}, i64 {AHEAD}")
            code.line(f"call void @llvm.prefetch.p0(ptr {ahead}, i32 0, i32 3, i32 1)")
            vector, place = loads.load(place), loads.moved(target, column)
            hint = f"align {4 * shape.lanes}, !nontemporal !0" if shape.streams else "align 4"
            code.line(f"store <{shape.lanes} x float> {vector.name}, ptr {place}, {hint}")
        self._again(loop, shape.keys)
        return f"{loop}.done"

    def _least(self, a: str, b: object) -> str:
        less = self.code.let(f"icmp ult i64 {a}, {b}")
        return self.code.let(f"select i1 {less}, i64 {a}, i64 {b}")

    # A block of queries ----------------------------------------------------------------------------------------------

    def _block(self, base: dict[str, str]) -> None:
        code, loads, shape = self.code, self.loads, self.shape
        first = self._let("mul", "%block.i", ROWS)
        factor = code.constant(shape.factor, "float32")
        for n in range(min(ROWS, shape.length)):
            row = self._least(self._let("add", first, n), shape.length - 1)
            source = loads.moved(base["query"], self._let("mul", row, self.stride["query.row"]))
            for column in range(0, shape.width, shape.lanes):
                scaled = code.multiply(loads.load(loads.moved(source, column)), factor)
                loads.store(scaled, loads.moved(self.room["queries"], n * shape.width + column))
        seen = self._least(self._let("add", first, ROWS), shape.keys) if shape.causal else str(shape.keys)
        left = self._let("sub", shape.length, first)
        height = self._least(left, ROWS)
        before = self._dots(base, height, seen) if shape.is_narrow else self._scores(seen)
        # each for all rows: those of one row wait for each other, those of several do not
        self._while("row", "0", before)
        self._highest(base, first, seen)
        self._again("row", height)
        self._while("sum", "0", "row.done")
        self._powers(seen)
        self._again("sum", height)
        if shape.is_narrow:
            self._mix(base, first, height, seen)
            return
        for column in range(0, shape.values, shape.columns):
            self._sum(base, first, height, seen, column)

    def _scores(self, seen: str) -> str:
        """Products of the queries of a block with the keys, which lie in panels; gives the label behind it."""
        code, loads, shape = self.code, self.loads, self.shape
        self._while("panel", "0", "block")
        scores = loads.moved(self.room["scores"], "%panel.i")
        panel = loads.moved(self.room["keys"], self._let("mul", "%panel.i", shape.width))
        given = (
            f"(ptr {self.room['queries']}, ptr {panel}, i64 {shape.width}, ptr {scores}, i1 true, ptr null)"
        )
        code.line(f"call void {self.scores.name}{given}")
        self._again("panel", seen, shape.columns)
        return "panel.done"

    def _dots(self, base: dict[str, str], height: str, seen: str) -> str:
        """The same for few queries and keys as they lie: products of a query with as many keys as a vector has lanes, added up as a square."""
        code, loads, shape, lanes = self.code, self.loads, self.shape, self.shape.lanes
        self._while("dot", "0", "block")
        query = loads.moved(self.room["queries"], self._let("mul", "%dot.i", shape.width))
        parts = [loads.load(loads.moved(query, column)) for column in range(0, shape.width, lanes)]
        scores = loads.moved(self.room["scores"], self._let("mul", "%dot.i", shape.row))
        self._while("dot.key", "0", "dot")
        products = []
        for n in range(lanes):
            row = self._least(self._let("add", "%dot.key.i", n), shape.keys - 1)
            key = self._row("key", base, row)
            total = code.constant(0.0, "float32")
            for m, part in enumerate(parts):
                one = loads.load(loads.moved(key, m * lanes))
                total = code.multiply_add(part, one, total) if m else code.multiply(part, one)
            products.append(total.name)
        sums = [Value(name, "float32", lanes) for name in self._turned(products)]
        while len(sums) > 1:
            sums = [code.add(a, b) for a, b in zip(sums[::2], sums[1::2], strict=True)]
        loads.store(sums[0], loads.moved(scores, "%dot.key.i"))
        self._again("dot.key", seen, lanes)
        self._again("dot", height)
        return "dot.done"

    def _highest(self, base: dict[str, str], first: str, seen: str) -> None:
        """Hides what a row of scores may not see, and keeps the largest that is left; 0 where nothing is."""
        code, loads, shape = self.code, self.loads, self.shape
        lanes, lowest = shape.lanes, code.constant(-math.inf, "float32")
        row = self._let("add", first, "%row.i")
        visible = self._least(self._let("add", row, 1), seen) if shape.causal else seen
        scores = loads.moved(self.room["scores"], self._let("mul", "%row.i", shape.row))
        added = loads.moved(base["mask"], self._let("mul", row, self.stride["mask.row"]))
        self._while("high", "0", "row")
        found = []
        mark = len(code.lines)
        for n in range(0, shape.columns, lanes):
            index = self._let("add", "%high.i", n)
            mask = loads.mask(self._let("sub", visible, index))
            place = loads.moved(scores, index)
            score = loads.load(place)
            if shape.mask:
                given = loads.load(loads.moved(added, index), mask)
                score = (
                    code.add(score, given)
                    if shape.mask == "add"
                    else code.select(code.compare("eq", given, code.constant(0.0, "float32")), score, lowest)
                )
            score = code.select(Value(mask, "bool", lanes), score, lowest)
            loads.store(score, place)
            high = Value(f"%high.{n}", "float32", lanes)
            found.append(self._greater(score, high))
        start = [code.text(lowest)] * VECTORS
        self._carry(mark, "high", "row", start, found)
        self._again("high", seen, shape.columns)
        most = self._over_lanes(self._greater(*found), self._greater)
        most = code.select(code.compare("eq", most, lowest), code.constant(0.0, "float32"), most)
        loads.store(most, loads.moved(self.room["shares"], self._let("mul", "%row.i", lanes)))

    def _powers(self, seen: str) -> None:
        """Replaces a row of scores by exponentials, and keeps what to multiply by; rows without any visible key become zeros."""
        code, loads, shape = self.code, self.loads, self.shape
        lanes, zero = shape.lanes, code.constant(0.0, "float32")
        scores = loads.moved(self.room["scores"], self._let("mul", "%sum.i", shape.row))
        kept = loads.moved(self.room["shares"], self._let("mul", "%sum.i", lanes))
        most = loads.load(kept)
        self._while("power", "0", "sum")
        found, mark = [], len(code.lines)
        for n in range(0, shape.columns, lanes):
            place = loads.moved(scores, self._let("add", "%power.i", n))
            below = code.subtract(loads.load(place), most)
            none = code.compare("lt", below, code.constant(LOWEST, "float32"))
            power = mathematics.exp(code, code.select(none, zero, below))
            power = code.select(none, zero, power)
            loads.store(power, place)
            found.append(code.add(Value(f"%power.{n}", "float32", lanes), power))
        self._carry(mark, "power", "sum", ["zeroinitializer"] * VECTORS, found)
        self._again("power", seen, shape.columns)
        total = self._over_lanes(code.add(*found), code.add)
        total = code.select(code.compare("eq", total, zero), code.constant(1.0, "float32"), total)
        share = code.divide(code.constant(1.0, "float32"), total)
        loads.store(share, kept)

    def _greater(self, a: Value, b: Value) -> Value:
        """The greater of two; where one is NaN the second. The exponential of NaN is NaN whatever is subtracted."""
        return self.code.select(self.code.compare("gt", a, b), a, b)

    def _carry(self, mark: int, name: str, before: str, start: list[str], found: list[Value]) -> None:
        """Makes vectors of a loop, which are named after it, those of its last round."""
        kind = f"<{self.shape.lanes} x float>"
        self.code.lines[mark:mark] = [
            f"  %{name}.{n * self.shape.lanes} = phi {kind} [ {one}, %{before} ], [ {value.name}, %{name}.last ]"
            for n, (one, value) in enumerate(zip(start, found, strict=True))
        ]

    def _over_lanes(self, value: Value, combine: Callable[[Value, Value], Value]) -> Value:
        """All numbers of a vector combined, in all lanes: with those that are half a vector away, a quarter, and so on."""
        lanes, kind = self.shape.lanes, f"<{self.shape.lanes} x float>"
        step = lanes // 2
        while step:
            picks = ", ".join(f"i32 {n ^ step}" for n in range(lanes))
            moved = self.code.let(
                f"shufflevector {kind} {value.name}, {kind} poison, <{lanes} x i32> <{picks}>"
            )
            value = combine(value, Value(moved, "float32", lanes))
            step //= 2
        return value

    def _sum(self, base: dict[str, str], first: str, height: str, seen: str, column: int) -> None:
        """Some columns of the result."""
        code, loads, shape = self.code, self.loads, self.shape
        panel = loads.moved(self.room["values"], column * shape.keys)
        given = f"(ptr {self.room['scores']}, ptr {panel}, i64 {seen}, ptr {self.room['sums']}, i1 true, ptr null)"
        code.line(f"call void {self.sums.name}{given}")
        name = f"write{column}"
        before = f"write{column - shape.columns}.done" if column else "sum.done"
        self._while(name, "0", before)
        row = self._let("add", first, f"%{name}.i")
        target = loads.moved(base["output"], self._let("mul", row, self.stride["output.row"]))
        source = loads.moved(self.room["sums"], self._let("mul", f"%{name}.i", shape.columns))
        share = loads.load(loads.moved(self.room["shares"], self._let("mul", f"%{name}.i", shape.lanes)))
        for n in range(0, shape.columns, shape.lanes):
            found = code.multiply(loads.load(loads.moved(source, n)), share)
            loads.store(found, loads.moved(target, column + n))
        self._again(name, height)

    def _mix(self, base: dict[str, str], first: str, height: str, seen: str) -> None:
        """All columns of the result of few queries, from values as they lie."""
        code, loads, shape, lanes = self.code, self.loads, self.shape, self.shape.lanes
        self._while("mix", "0", "sum.done")
        scores = loads.moved(self.room["scores"], self._let("mul", "%mix.i", shape.row))
        self._while("mix.key", "0", "mix")
        mark, found = len(code.lines), []
        value = self._row("value", base, "%mix.key.i")
        factor = loads.number(loads.moved(scores, "%mix.key.i"))
        for column in range(0, shape.values, lanes):
            old = Value(f"%mix.key.{column}", "float32", lanes)
            found.append(code.multiply_add(factor, loads.load(loads.moved(value, column)), old))
        self._carry(mark, "mix.key", "mix", ["zeroinitializer"] * len(found), found)
        self._again("mix.key", seen)
        row = self._let("add", first, "%mix.i")
        target = loads.moved(base["output"], self._let("mul", row, self.stride["output.row"]))
        share = loads.load(loads.moved(self.room["shares"], self._let("mul", "%mix.i", lanes)))
        for n, total in enumerate(found):
            loads.store(code.multiply(total, share), loads.moved(target, n * lanes))
        self._again("mix", height)

"""Products of a matrix with packed weights as LLVM IR: tiles of the result in registers, and the next weights on their way.

The weights lie in panels of as many columns as a tile has, for parts of the depth that leave what is multiplied with them in the
second-level cache. While a panel is used, the next one is fetched from memory: without that, a product of 128 rows waits for
its weights for a fifth of its time (measured with AVX-512).

Source: K. Goto, R. van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34 (3), 2008.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from opyard.graph import Value as Variable

from ..jit.code import Code, Value
from ..jit.machine import Processor
from .tail import ALL, COLUMN, Tail

DEPTH = 1024
"""Rows of a panel at most."""

VECTORS, UNROLLED, LINE = 3, 4, 64
"""Vectors in a row of a tile, steps of the innermost loop that are written out, bytes of a cache line."""


@dataclass(frozen=True, slots=True)
class Blocking:
    """How a product is cut. A tile has ``height`` rows and VECTORS vectors of ``lanes`` columns; there are ``parts`` of the rows.

    Units of work are panels, for one part of the rows after the other.
    """

    rows: int
    depth: int
    columns: int
    lanes: int
    height: int
    parts: int

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return VECTORS * self.lanes

    @property
    def panels(self) -> int:
        """How many there are beside each other."""
        return -(-self.columns // self.width)

    @property
    def chunks(self) -> int:
        """Into how many parts the depth is cut."""
        return -(-self.depth // DEPTH)

    @property
    def chunk(self) -> int:
        """The depth of all of them but the last."""
        return -(-self.depth // self.chunks)

    @property
    def blocks(self) -> int:
        """Tiles below each other."""
        return -(-self.rows // self.height)

    @property
    def units(self) -> int:
        """Units of work."""
        return self.panels * self.parts

    @property
    def scratch_bytes(self) -> int:
        """What sums take between the parts of the depth."""
        return 4 * self.width * self.height * self.blocks * self.panels if self.chunks > 1 else 0


def blocking(rows: int, depth: int, columns: int, target: Processor, threads: int) -> Blocking:
    """The blocking for a processor: tiles that fit its registers, and two units for each thread where there are tiles enough."""
    wide = target.vector_bytes == 64 or not target.is_x86  # 32 registers, not 16
    height, lanes = 8 if wide else 4, target.vector_bytes // 4
    panels = -(-columns // (VECTORS * lanes))
    wanted = 1 if threads == 1 else -(-2 * threads // panels)
    return Blocking(rows, depth, columns, lanes, height, min(wanted, -(-rows // height)))


def function(code: Code, head: str, target_bytes: int) -> str:
    """The text of one function."""
    width = 8 * target_bytes
    attributes = f'"prefer-vector-width"="{width}" "min-legal-vector-width"="{width}"'
    return "\n".join([f"define {head} nounwind {attributes} {{", *code.lines, "}"])


class Loads:
    """Vectors from memory and to it, the last one of a row masked where it has fewer numbers."""

    def __init__(self, code: Code, lanes: int) -> None:
        self.code, self.lanes = code, lanes
        code.lanes = lanes

    def mask(self, left: str) -> str:
        """The lanes that are among as many as are left."""
        kind = f"<{self.lanes} x i64>"
        one = self.code.let(f"insertelement {kind} poison, i64 {left}, i64 0")
        every = self.code.let(
            f"shufflevector {kind} {one}, {kind} poison, <{self.lanes} x i32> zeroinitializer"
        )
        numbers = ", ".join(f"i64 {n}" for n in range(self.lanes))
        return self.code.let(f"icmp slt {kind} <{numbers}>, {every}")

    def load(self, place: str, mask: str | None = None) -> Value:
        """A vector."""
        kind = f"<{self.lanes} x float>"
        if mask is None:
            return Value(self.code.let(f"load {kind}, ptr {place}, align 4"), "float32", self.lanes)
        name, bits = f"@llvm.masked.load.v{self.lanes}f32.p0", f"<{self.lanes} x i1>"
        self.code.declarations[f"declare {kind} {name}(ptr, i32, {bits}, {kind})"] = None
        text = f"call {kind} {name}(ptr {place}, i32 4, {bits} {mask}, {kind} zeroinitializer)"
        return Value(self.code.let(text), "float32", self.lanes)

    def store(self, value: Value, place: str, mask: str | None = None) -> None:
        """A vector."""
        kind = f"<{self.lanes} x float>"
        if mask is None:
            self.code.line(f"store {kind} {self.code.text(value)}, ptr {place}, align 4")
            return
        name, bits = f"@llvm.masked.store.v{self.lanes}f32.p0", f"<{self.lanes} x i1>"
        self.code.declarations[f"declare void {name}({kind}, ptr, i32, {bits})"] = None
        self.code.line(f"call void {name}({kind} {self.code.text(value)}, ptr {place}, i32 4, {bits} {mask})")

    def number(self, place: str) -> Value:
        """One number in all lanes."""
        loaded = Value(self.code.let(f"load float, ptr {place}, align 4"), "float32")
        return self.code.splat(loaded, self.lanes)

    def moved(self, base: str, index: object) -> str:
        """An address some numbers further."""
        return self.code.let(f"getelementptr float, ptr {base}, i64 {index}")

    def word(self, number: int) -> str:
        """An address among the data."""
        return self.code.let(f"load ptr, ptr {self.code.let(f'getelementptr ptr, ptr %data, i64 {number}')}")


class Source:
    """The text of a product: ``data`` has the addresses of x, packed weights, the operands of the tail, output and scratch."""

    def __init__(self, cut: Blocking, tail: Tail) -> None:
        self.cut, self.tail = cut, tail
        self.declarations: dict[str, None] = {}
        self.nbytes = 4 * cut.lanes

    def text(self) -> str:
        """The whole text."""
        cut = self.cut
        rest = cut.rows % cut.height
        heights = [height for height in (cut.height * (cut.rows >= cut.height), rest) if height]
        parts = [self._tile(height) for height in heights]
        parts += [self._finish(), self._loops(rest)]
        return "\n".join([*parts, *self.declarations, ""])

    def _function(self, code: Code, head: str) -> str:
        self.declarations.update(code.declarations)
        return function(code, head, self.nbytes)

    # One tile --------------------------------------------------------------------------------------------------------

    def _tile(self, height: int) -> str:
        """``tile(a, b, depth, c, first, ahead)``: c is, or unless ``first`` grows by, rows of x times a panel."""
        cut, code = self.cut, Code()
        loads, kind = Loads(code, cut.lanes), f"<{cut.lanes} x float>"
        places = [(i, j) for i in range(height) for j in range(VECTORS)]
        code.label("entry")
        code.line("br i1 %first, label %start, label %more")
        code.label("more")
        old = [loads.load(loads.moved("%c", i * cut.width + j * cut.lanes)).name for i, j in places]
        code.line("br label %start")
        code.label("start")
        sums = [code.let(f"phi {kind} [ zeroinitializer, %entry ], [ {name}, %more ]") for name in old]
        code.line(f"%whole = and i64 %depth, {-UNROLLED}")
        sums = self._steps(code, "quad", sums, ("0", "%whole"), height, UNROLLED, "start")
        sums = self._steps(code, "one", sums, ("%whole", "%depth"), height, 1, "quad.end")
        for (i, j), name in zip(places, sums, strict=True):
            loads.store(Value(name, "float32", cut.lanes), loads.moved("%c", i * cut.width + j * cut.lanes))
        code.line("ret void")
        head = (
            f"internal void @tile{height}(ptr %a, ptr %b, i64 %depth, ptr %c, i1 %first, ptr %ahead) noinline"
        )
        return self._function(code, head)

    def _steps(
        self,
        code: Code,
        name: str,
        sums: list[str],
        span: tuple[str, str],
        height: int,
        count: int,
        before: str,
    ) -> list[str]:
        """A loop over some of the depth, ``count`` rows of the panel at a time; the sums behind it."""
        cut, kind = self.cut, f"<{self.cut.lanes} x float>"
        loads, (begin, end) = Loads(code, cut.lanes), span
        any_ = code.let(f"icmp ult i64 {begin}, {end}")
        code.line(f"br i1 {any_}, label %{name}, label %{name}.end")
        code.label(name)
        code.line(f"%{name}.k = phi i64 [ {begin}, %{before} ], [ %{name}.next, %{name} ]")
        inner = [f"%{name}.sum{n}" for n in range(len(sums))]
        mark = len(code.lines)
        a = loads.moved("%a", f"%{name}.k")
        b = loads.moved("%b", code.let(f"mul i64 %{name}.k, {cut.width}"))
        if count > 1:
            self._fetch(code, f"%{name}.k")
        now = list(inner)
        for step in range(count):
            columns = [loads.load(loads.moved(b, step * cut.width + j * cut.lanes)) for j in range(VECTORS)]
            for i in range(height):
                factor = loads.number(loads.moved(a, i * cut.depth + step))
                for j, column in enumerate(columns):
                    total = Value(now[i * VECTORS + j], "float32", cut.lanes)
                    now[i * VECTORS + j] = code.multiply_add(factor, column, total).name
        code.lines[mark:mark] = [
            f"  {one} = phi {kind} [ {first}, %{before} ], [ {last}, %{name} ]"
            for one, first, last in zip(inner, sums, now, strict=True)
        ]
        code.line(f"%{name}.next = add i64 %{name}.k, {count}")
        more = code.let(f"icmp ult i64 %{name}.next, {end}")
        code.line(f"br i1 {more}, label %{name}, label %{name}.end")
        code.label(f"{name}.end")
        return [
            code.let(f"phi {kind} [ {first}, %{before} ], [ {last}, %{name} ]")
            for first, last in zip(sums, now, strict=True)
        ]

    def _fetch(self, code: Code, k: str) -> None:
        """Asks for a part of the next panel; all tiles of a panel together ask for all of it."""
        each = -(-4 * self.cut.width * UNROLLED * self.cut.parts // self.cut.blocks)
        offset = code.let(f"mul i64 {k}, {-(-each // UNROLLED)}")
        code.declarations["declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"] = None
        for line in range(-(-each // LINE)):
            start = code.let(f"add i64 {offset}, {line * LINE}")
            place = code.let(f"getelementptr i8, ptr %ahead, i64 {start}")
            code.line(f"call void @llvm.prefetch.p0(ptr {place}, i32 0, i32 2, i32 1)")

    # The numbers of a tile on their way to memory --------------------------------------------------------------------

    def _finish(self) -> str:
        """``finish(data, c, row, height, column)``: what follows the product, and the result."""
        cut, code = self.cut, Code()
        loads = Loads(code, cut.lanes)
        code.label("entry")
        addresses = {value: loads.word(2 + n) for n, (value, _, _) in enumerate(self.tail.operands)}
        output = loads.word(2 + len(self.tail.operands))
        known = operands_of(loads, self.tail, addresses, None, ())
        code.line("br label %rows")
        code.label("rows")
        code.line("%i = phi i64 [ 0, %entry ], [ %next, %rows ]")
        below = code.let("add i64 %row, %i")
        before = code.let(f"add i64 {code.let(f'mul i64 {below}, {cut.columns}')}, %column")
        c = loads.moved("%c", code.let(f"mul i64 %i, {cut.width}"))
        left = code.let(f"sub i64 {cut.columns}, %column")
        for j in range(VECTORS):
            mask = (
                loads.mask(code.let(f"sub i64 {left}, {j * cut.lanes}")) if cut.columns % cut.width else None
            )
            index = {
                COLUMN: code.let(f"add i64 %column, {j * cut.lanes}"),
                ALL: code.let(f"add i64 {before}, {j * cut.lanes}"),
            }
            given = operands_of(loads, self.tail, addresses, mask, index.items())
            total = loads.load(loads.moved(c, j * cut.lanes))
            loads.store(
                self.tail.emit(code, total, {**known, **given}), loads.moved(output, index[ALL]), mask
            )
        code.line("%next = add i64 %i, 1")
        code.line("%more = icmp ult i64 %next, %height")
        code.line("br i1 %more, label %rows, label %done")
        code.label("done")
        code.line("ret void")
        head = "internal void @finish(ptr %data, ptr %c, i64 %row, i64 %height, i64 %column) noinline"
        return self._function(code, head)

    # The loops around it ---------------------------------------------------------------------------------------------

    def _loops(self, rest: int) -> str:
        cut, code = self.cut, Code()
        loads, scratch = Loads(code, cut.lanes), cut.chunks > 1
        code.label("entry")
        x, weights = loads.word(0), loads.word(1)
        place = loads.word(3 + len(self.tail.operands)) if scratch else "%near"
        if not scratch:
            code.line(f"%near = alloca [{cut.width * cut.height} x float], align 64")
        code.line("%any = icmp ult i64 %begin, %end")
        code.line("br i1 %any, label %chunks, label %done")
        code.label("chunks")
        code.line("%chunk = phi i64 [ 0, %entry ], [ %next.chunk, %chunks.end ]")
        code.line(f"%start = mul i64 %chunk, {cut.chunk}")
        over = code.let(f"sub i64 {cut.depth}, %start")
        last = code.let(f"icmp eq i64 %chunk, {cut.chunks - 1}")
        depth = code.let(f"select i1 {last}, i64 {over}, i64 {cut.chunk}")
        size = code.let(f"mul i64 {depth}, {cut.width}")
        first = code.let("icmp eq i64 %chunk, 0")
        base = loads.moved(weights, code.let(f"mul i64 %start, {cut.panels * cut.width}"))
        code.line("br label %units")
        code.label("units")
        code.line("%unit = phi i64 [ %begin, %chunks ], [ %next.unit, %units.end ]")
        panel, part = (code.let(f"{kind} i64 %unit, {cut.panels}") for kind in ("urem", "udiv"))
        column = code.let(f"mul i64 {panel}, {cut.width}")
        b = loads.moved(base, code.let(f"mul i64 {panel}, {size}"))
        following = loads.moved(b, size)
        after = code.let(f"add i64 {part}, 1")
        begin, end = (
            code.let(f"udiv i64 {code.let(f'mul i64 {one}, {cut.blocks}')}, {cut.parts}")
            for one in (part, after)
        )
        share = code.let(f"udiv i64 {size}, {max(1, cut.blocks // cut.parts)}")
        code.line("br label %blocks")
        code.label("blocks")
        code.line(f"%block = phi i64 [ {begin}, %units ], [ %next.block, %finished ]")
        row = code.let(f"mul i64 %block, {cut.height}")
        a = loads.moved(x, code.let(f"add i64 {code.let(f'mul i64 {row}, {cut.depth}')}, %start"))
        done = code.let(f"sub i64 %block, {begin}")
        ahead = loads.moved(following, code.let(f"mul i64 {done}, {share}"))
        tile = place
        if scratch:
            number = code.let(f"add i64 {code.let(f'mul i64 {panel}, {cut.blocks}')}, %block")
            tile = loads.moved(place, code.let(f"mul i64 {number}, {cut.width * cut.height}"))
        call = f"(ptr {a}, ptr {b}, i64 {depth}, ptr {tile}, i1 {first}, ptr {ahead})"
        height = self._choose(code, rest, call)
        code.line(f"br i1 {last}, label %leave, label %finished")
        code.label("leave")
        code.line(f"call void @finish(ptr %data, ptr {tile}, i64 {row}, i64 {height}, i64 {column})")
        code.line("br label %finished")
        code.label("finished")
        for name, limit, exit_ in (
            ("block", end, "units.end"),
            ("unit", "%end", "chunks.end"),
            ("chunk", str(cut.chunks), "done"),
        ):
            code.line(f"%next.{name} = add i64 %{name}, 1")
            code.line(f"%more.{name} = icmp ult i64 %next.{name}, {limit}")
            code.line(f"br i1 %more.{name}, label %{name}s, label %{exit_}")
            code.label(exit_)
        code.line("ret void")
        return self._function(code, "void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end)")

    def _choose(self, code: Code, rest: int, call: str) -> str:
        """The call of the function for whole tiles, or for the last one of fewer rows; the number of rows."""
        cut = self.cut
        if not rest or cut.rows < cut.height:
            code.line(f"call void @tile{rest or cut.height}{call}")
            return str(rest or cut.height)
        whole = code.let(f"icmp ult i64 %block, {cut.blocks - 1}")
        code.line(f"br i1 {whole}, label %whole, label %rest")
        for label, height in (("whole", cut.height), ("rest", rest)):
            code.label(label)
            code.line(f"call void @tile{height}{call}")
            code.line("br label %multiplied")
        code.label("multiplied")
        return code.let(f"phi i64 [ {cut.height}, %whole ], [ {rest}, %rest ]")


def operands_of(
    loads: Loads,
    tail: Tail,
    addresses: dict[Variable, str],
    mask: str | None,
    indices: Iterable[tuple[str, str]],
) -> dict[Variable, Value]:
    """The operands of a tail for one vector, by what kinds there are indices for; without any, those that are one number."""
    index = dict(indices)
    found = {}
    for value, kind, _ in tail.operands:
        if kind in index:
            found[value] = loads.load(loads.moved(addresses[value], index[kind]), mask)
        elif not index and kind not in (COLUMN, ALL):
            found[value] = loads.number(addresses[value])
    return found

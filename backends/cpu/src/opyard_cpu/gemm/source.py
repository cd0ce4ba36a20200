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
from .tail import ALL, COLUMN, NUMBER, SECTION, Tail
from .tile import Loads, Tile, function

DEPTH = 1024
"""Rows of a panel at most."""

AREA = 1 << 18
"""Numbers of x that are multiplied with one panel after the other, so that they stay in the second-level cache."""

TILES = ((8, 3), (6, 4), (14, 2))
"""Rows and vectors of tiles for 32 registers; the first of those with the fewest columns beyond the last."""

COLUMN_TILE = (24, 1)
"""The same where there is one vector of columns."""

NARROW_TILE = (4, 3)
"""The same for 16 registers."""

MOST_ROWS = 8
"""Rows of a tile at most."""

CACHED_BYTES = 1 << 20
"""Weights that stay in the second-level cache from one product to the next, as those of recurrent layers do."""

FETCHING_ROWS = 8
"""With fewer rows memory sets the pace. Measured with AVX-512: 1 and 4 rows take up to a third less time without fetching
ahead, 16 rows and 4 MiB of weights a fifth more."""


@dataclass(frozen=True, slots=True)
class Blocking:
    """How a product is cut. A tile has ``height`` rows and ``vectors`` of ``lanes`` columns; there are ``parts`` of the rows.

    Units of work are panels, for one part of the rows after the other. Where the columns are split into ``sections``, a tile
    has one vector of each.
    """

    rows: int
    depth: int
    columns: int
    lanes: int
    height: int
    vectors: int
    parts: int
    sections: int = 1
    cached_bytes: int = CACHED_BYTES

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return self.vectors * self.lanes

    @property
    def step(self) -> int:
        """Columns of each section in a panel."""
        return self.width // self.sections

    @property
    def panels(self) -> int:
        """How many there are beside each other."""
        return -(-self.columns // self.sections // self.step)

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
    def fetches(self) -> bool:
        """Whether the next weights are fetched ahead: not where they stay in the cache, nor where there is nothing to do meanwhile."""
        return self.rows >= FETCHING_ROWS and 4 * self.depth * self.columns > self.cached_bytes

    @property
    def units(self) -> int:
        """Units of work."""
        return self.panels * self.parts

    @property
    def scratch_bytes(self) -> int:
        """What sums take between the parts of the depth."""
        return 4 * self.width * self.height * self.blocks * self.panels if self.chunks > 1 else 0


def blocking(
    rows: int,
    depth: int,
    columns: int,
    target: Processor,
    threads: int,
    sections: int = 1,
    cached_bytes: int = CACHED_BYTES,
) -> Blocking:
    """The blocking for a processor: tiles that fit its registers, and two units for each thread where there are tiles enough.

    Weights of up to ``cached_bytes`` stay in the cache from one product to the next.
    """
    wide = target.vector_bytes == 64 or not target.is_x86  # 32 registers, not 16
    lanes = target.vector_bytes // 4
    tiles = TILES if columns > lanes else (COLUMN_TILE,)
    height, vectors = min(tiles, key=lambda tile: -columns % (tile[1] * lanes)) if wide else NARROW_TILE
    if sections > 1:
        registers = 32 if wide else 16  # for sums, a vector of weights for each section, and a number of x
        height, vectors = min(MOST_ROWS, (registers - sections - 1) // sections), sections
    panels = -(-columns // sections // (vectors * lanes // sections))
    shared = 1 if threads == 1 else -(-2 * threads // panels)
    parts = min(max(shared, -(-rows * min(depth, DEPTH) // AREA)), -(-rows // height))
    return Blocking(rows, depth, columns, lanes, height, vectors, parts, sections, cached_bytes)


class Source:
    """The text of a product: ``data`` has the addresses of x, packed weights, the operands of the tail, outputs and scratch.

    ``is_scaled``: the product is of x, each column of it times a number; the address of these numbers is the last one.
    """

    def __init__(self, cut: Blocking, tail: Tail, *, is_scaled: bool = False) -> None:
        self.cut, self.tail, self.is_scaled = cut, tail, is_scaled
        self.declarations: dict[str, None] = {}
        self.nbytes = 4 * cut.lanes

    def text(self) -> str:
        """The whole text."""
        cut = self.cut
        rest = cut.rows % cut.height
        heights = [height for height in (cut.height * (cut.rows >= cut.height), rest) if height]
        # all tiles of a panel together ask for all of the next one
        ahead = -(-4 * cut.width * cut.parts // cut.blocks) if cut.fetches else 0
        self.tiles = {
            h: Tile(h, cut.vectors, cut.lanes, cut.depth, cut.width, cut.width, ahead, self.is_scaled)
            for h in heights
        }
        parts = [self._function(*tile.text()) for tile in self.tiles.values()]
        parts += [self._finish(), self._loops(rest)]
        return "\n".join([*parts, *self.declarations, ""])

    def _function(self, code: Code, head: str) -> str:
        self.declarations.update(code.declarations)
        return function(code, head, self.nbytes)

    # The numbers of a tile on their way to memory --------------------------------------------------------------------

    def _finish(self) -> str:
        """``finish(data, c, row, height, column)``: what follows the product, and the results. Columns are those of a section."""
        cut, tail, code = self.cut, self.tail, Code(scales=self.cut.lanes == 16)
        loads = Loads(code, cut.lanes)
        code.label("entry")
        addresses = {value: loads.word(2 + n) for n, (value, _, _) in enumerate(tail.operands)}
        outputs = [loads.word(2 + len(tail.operands) + n) for n in range(tail.outputs)]
        known = operands_of(loads, tail, addresses, None, ())
        code.line("br label %rows")
        code.label("rows")
        code.line("%i = phi i64 [ 0, %entry ], [ %next, %rows ]")
        below = code.let("add i64 %row, %i")
        whole, part = (
            code.let(f"add i64 {code.let(f'mul i64 {below}, {columns}')}, %column")
            for columns in (tail.columns, tail.size)
        )
        c = loads.moved("%c", code.let(f"mul i64 %i, {cut.width}"))
        left = code.let(f"sub i64 {tail.size}, %column")
        for first in range(0, cut.vectors, cut.sections):  # the vectors that are combined
            far = first * cut.lanes
            mask = loads.mask(code.let(f"sub i64 {left}, {far}")) if tail.size % cut.step else None
            totals, given = [], []
            for section in range(cut.sections):
                beside = section * tail.size + far
                index = {
                    COLUMN: code.let(f"add i64 %column, {beside}"),
                    ALL: code.let(f"add i64 {whole}, {beside}"),
                    **({} if section else {SECTION: code.let(f"add i64 {part}, {far}")}),
                }
                given.append({**known, **operands_of(loads, tail, addresses, mask, index.items())})
                totals.append(loads.load(loads.moved(c, (first + section) * cut.lanes)))
            place = code.let(f"add i64 {part}, {far}")
            for output, result in zip(outputs, tail.emit(code, totals, given), strict=True):
                loads.store(result, loads.moved(output, place), mask)
        code.line("%next = add i64 %i, 1")
        code.line("%more = icmp ult i64 %next, %height")
        code.line("br i1 %more, label %rows, label %done")
        code.label("done")
        code.line("ret void")
        head = "internal void @finish(ptr %data, ptr %c, i64 %row, i64 %height, i64 %column) noinline"
        return self._function(code, head)

    # The loops around it ---------------------------------------------------------------------------------------------

    def _loops(self, rest: int) -> str:
        """Parts of the depth, panels, and tiles below each other; ``rest`` rows are below the last whole tile."""
        cut, code = self.cut, Code()
        loads, scratch = Loads(code, cut.lanes), cut.chunks > 1
        code.label("entry")
        x, weights = loads.word(0), loads.word(1)
        behind = 2 + len(self.tail.operands) + self.tail.outputs
        place = loads.word(behind) if scratch else "%near"
        scale = loads.word(behind + scratch) if self.is_scaled else ""
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
        column = code.let(f"mul i64 {panel}, {cut.step}")
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
        scales = f", ptr {loads.moved(scale, '%start')}" if scale else ""
        call = f"(ptr {a}, ptr {b}, i64 {depth}, ptr {tile}, i1 {first}, ptr {ahead}{scales})"
        height = self._choose(code, rest, call)
        code.line(f"br i1 {last}, label %leave, label %finished")
        code.label("leave")
        code.line(f"call void @finish(ptr %data, ptr {tile}, i64 {row}, i64 {height}, i64 {column})")
        code.line("br label %finished")
        code.label("finished")
        self._again(
            code, {"block": (end, "units.end"), "unit": ("%end", "chunks.end"), "chunk": (cut.chunks, "done")}
        )
        code.line("ret void")
        return self._function(code, "void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end)")

    @staticmethod
    def _again(code: Code, limits: dict[str, tuple[object, str]]) -> None:
        """Ends loops, the innermost first: what each counts, up to where, and the block behind it."""
        for name, (limit, behind) in limits.items():
            code.line(f"%next.{name} = add i64 %{name}, 1")
            code.line(f"%more.{name} = icmp ult i64 %next.{name}, {limit}")
            code.line(f"br i1 %more.{name}, label %{name}s, label %{behind}")
            code.label(behind)

    def _choose(self, code: Code, rest: int, call: str) -> str:
        """The call of the function for whole tiles, or for the last one of fewer rows; the number of rows."""
        cut = self.cut
        if not rest or cut.rows < cut.height:
            code.line(f"call void {self.tiles[rest or cut.height].name}{call}")
            return str(rest or cut.height)
        whole = code.let(f"icmp ult i64 %block, {cut.blocks - 1}")
        code.line(f"br i1 {whole}, label %whole, label %rest")
        for label, height in (("whole", cut.height), ("rest", rest)):
            code.label(label)
            code.line(f"call void {self.tiles[height].name}{call}")
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
        elif not index and kind == NUMBER:
            found[value] = loads.number(addresses[value])
    return found

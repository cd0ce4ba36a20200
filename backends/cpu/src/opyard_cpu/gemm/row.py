"""The product of one row with a matrix as LLVM IR: the matrix is read once, several of its rows beside each other.

Each number of the matrix is used once, so memory sets the pace; eight rows at a time are more streams for the processor to fetch
ahead of than one, and the sums are read and written an eighth as often.
"""

from __future__ import annotations

from collections.abc import Callable

from opyard.graph import Value as Variable

from ..jit.code import Code, Value
from .source import operands_of
from .tail import ALL, COLUMN, Tail
from .tile import Loads, function

STREAMS = 8
"""Rows of the matrix that are read at a time."""

Body = Callable[[str, str | None], None]


class RowSource:
    """The text: ``kernel(data, table, begin, end)`` on vectors of columns.

    ``data`` has the addresses of x, weights, the operands of the tail and the output, in which the sums grow.
    """

    def __init__(self, tail: Tail, lanes: int) -> None:
        self.tail, self.lanes = tail, lanes
        self.code = Code(scales=lanes == 16)
        self.loads = Loads(self.code, lanes)
        self.whole, self.rest = divmod(tail.columns, lanes)

    def text(self) -> str:
        """The whole text."""
        code, loads, tail = self.code, self.loads, self.tail
        code.label("entry")
        self.x, self.weights = loads.word(0), loads.word(1)
        addresses = {value: loads.word(2 + n) for n, (value, _, _) in enumerate(tail.operands)}
        self.output = loads.word(2 + len(tail.operands))
        below = code.let(f"icmp ult i64 %end, {self.whole}")
        self.stop = code.let(f"select i1 {below}, i64 %end, i64 {self.whole}")
        self.mask = loads.mask(str(self.rest)) if self.rest else None
        first = min(STREAMS, tail.depth)
        together = max(first, tail.depth - tail.depth % STREAMS)
        self._add_rows("0", first, fresh=True)  # so nothing has to be cleared before
        self._loop(first, together, STREAMS)
        self._loop(together, tail.depth, 1)
        if tail.nodes:
            self._finish(addresses)
        code.line("ret void")
        text = function(code, "void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end)", 4 * self.lanes)
        return "\n".join([text, *code.declarations, ""])

    def _loop(self, begin: int, end: int, step: int) -> None:
        """Adds the products of rows ``begin`` to ``end`` of the matrix."""
        if begin == end:
            return
        code = self.code
        before, head, latch, behind = (code.fresh(stem) for stem in ("before", "rows", "latch", "behind"))
        row, following = f"%{code.fresh('k')}", f"%{code.fresh('k')}"
        code.line(f"br label %{before}")
        code.label(before)
        code.line(f"br label %{head}")
        code.label(head)
        code.line(f"{row} = phi i64 [ {begin}, %{before} ], [ {following}, %{latch} ]")
        self._add_rows(row, step, fresh=False)
        code.line(f"br label %{latch}")
        code.label(latch)
        code.line(f"{following} = add i64 {row}, {step}")
        more = code.let(f"icmp ult i64 {following}, {end}")
        code.line(f"br i1 {more}, label %{head}, label %{behind}")
        code.label(behind)

    def _add_rows(self, row: str, count: int, *, fresh: bool) -> None:
        """Adds the products of ``count`` rows to the sums, or begins the sums with them."""
        code, loads, columns = self.code, self.loads, self.tail.columns
        x = loads.moved(self.x, row)
        factors = [loads.number(loads.moved(x, n)) for n in range(count)]
        start = loads.moved(self.weights, code.let(f"mul i64 {row}, {columns}"))

        def body(index: str, mask: str | None) -> None:
            place = loads.moved(self.output, index)
            here = loads.moved(start, index)
            sums: list[Value | None] = [None if fresh else loads.load(place, mask), None]
            for n, factor in enumerate(factors):
                number = loads.load(loads.moved(here, n * columns), mask)
                total = sums[n % 2]
                sums[n % 2] = (
                    code.multiply(factor, number)
                    if total is None
                    else code.multiply_add(factor, number, total)
                )
            left, right = sums
            assert left is not None
            loads.store(left if right is None else code.add(left, right), place, mask)

        self._each(body)

    def _finish(self, addresses: dict[Variable, str]) -> None:
        """What follows the product."""
        code, loads = self.code, self.loads
        known = operands_of(loads, self.tail, addresses, None, ())

        def body(index: str, mask: str | None) -> None:
            place = loads.moved(self.output, index)
            given = operands_of(loads, self.tail, addresses, mask, ((COLUMN, index), (ALL, index)))
            (result,) = self.tail.emit(code, [loads.load(place, mask)], [{**known, **given}])
            loads.store(result, place, mask)

        self._each(body)

    def _each(self, body: Body) -> None:
        """Writes ``body(index, mask)`` for whole vectors in a loop, and for the rest where the end is reached."""
        code = self.code
        head, loop, behind, rest, exit_ = (
            code.fresh(stem) for stem in ("head", "loop", "behind", "rest", "exit")
        )
        code.line(f"br label %{head}")
        code.label(head)
        any_ = code.let(f"icmp ult i64 %begin, {self.stop}")
        code.line(f"br i1 {any_}, label %{loop}, label %{behind}")
        code.label(loop)
        vector, following = f"%{code.fresh('n')}", f"%{code.fresh('n')}"
        code.line(f"{vector} = phi i64 [ %begin, %{head} ], [ {following}, %{loop} ]")
        body(code.let(f"mul i64 {vector}, {self.lanes}"), None)
        code.line(f"{following} = add i64 {vector}, 1")
        more = code.let(f"icmp ult i64 {following}, {self.stop}")
        code.line(f"br i1 {more}, label %{loop}, label %{behind}")
        code.label(behind)
        if self.rest:
            reached = code.let(f"icmp ugt i64 %end, {self.whole}")
            code.line(f"br i1 {reached}, label %{rest}, label %{exit_}")
            code.label(rest)
            body(str(self.whole * self.lanes), self.mask)
            code.line(f"br label %{exit_}")
            code.label(exit_)

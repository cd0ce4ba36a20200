"""One pass over a row as loops: whole vectors, and a masked one for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from opyard.graph import Node, Value

from . import scalars
from .code import ELEMENTS, Code, bits_of, is_float
from .code import Value as Operand
from .combining import accumulators_of, combine, finish
from .space import is_elementwise
from .stages import Stage, weight_of

if TYPE_CHECKING:
    from .nest import Nest

AHEAD, CACHE_LINE = 2048, 64
"""Bytes from what is read or written to what is asked for, and of a line of the caches."""

NEAR_ROW = 1 << 16
"""Bytes of a row up to which it stays in the caches from one pass to the next."""

MUCH = 16
"""Instructions for each element from which on those that ask for memory take longer than they save."""

BLOCK = 128
"""Vectors that are added up before their sum is added to the others: rounding errors grow with the number of additions."""


def from_memory(code: Code, loaded: str, dtype: str) -> Operand:
    """What was loaded, as a value: a bool is a byte in memory."""
    if dtype != "bool":
        return Operand(loaded, dtype, code.lanes)
    return code.compare("ne", Operand(loaded, "uint8", code.lanes), code.constant(0, "uint8"))


def to_memory(code: Code, value: Operand) -> tuple[str, str]:
    """Type and name of what is stored."""
    if value.dtype == "bool":
        value = code.convert(value, "uint8")
    return code.type(value.dtype), code.text(value)


@dataclass(frozen=True, slots=True)
class _Ahead:
    """What is asked for in each step of a pass: so many lines, ``step`` bytes from ``start`` for each column."""

    start: str
    step: str
    lines: int


class Pass:
    """One stage as loops over the columns."""

    def __init__(self, nest: Nest, stage: Stage) -> None:
        self.nest, self.stage, self.code = nest, stage, nest.code
        self.streams = nest.streams and not stage.reductions and stage is nest.stages[-1]
        self.added = stage.reductions if nest.space.reduces == "column" else []  # to what is in memory
        self.reductions = stage.reductions if not self.added else []
        self.carried = [one for node in self.reductions for one in accumulators_of(node)]
        self.in_blocks = any(
            n.op.name == "sum" and is_float(n.outputs[0].dtype.name) for n in self.reductions
        )
        self.totals: list[str] = []
        self.ahead: list[_Ahead] = []

    def write(self) -> None:
        """Writes the loops, and what the reductions give."""
        if not (self.stage.outputs or self.stage.reductions):
            return
        for node in self.stage.nodes:
            if self._divides_by_number(node):
                self.nest.factors(_divisor(node))
            for value in node.inputs:
                if value is not None and not self.nest.space.is_wide(value):
                    self.nest.splat(value)
        self.ahead = [self._ahead(value) for value in self.nest.stages[0].loaded]
        self._columns()
        lanes = self.nest.lanes
        pairs = zip(self.carried, self.totals, strict=True)
        totals = {one: Operand(name, one.dtype, lanes) for one, name in pairs}
        for node in self.reductions:
            self.nest.narrow[node.outputs[0]] = finish(self.code, totals, node)

    def _ahead(self, value: Value) -> _Ahead:
        """What is asked for of an input: where short rows are read several times, this pass's share of the next one.

        The shares follow each other in memory, so that it is busy all the time. The first and the last pass, which take least, have half
        of what others have.
        """
        code, stages, lines = self.code, self.nest.stages, self._lines(value)
        start, size, count = self.nest.pointers[value], value.dtype.itemsize, len(stages)
        here = code.let(f"getelementptr i8, ptr {start}, i64 {AHEAD}")
        if count == 1:
            return _Ahead(here, str(size), lines)
        number = next(n for n, stage in enumerate(stages) if stage is self.stage)
        first, end = (
            min(max(lines * (2 * n - 1) // (2 * count - 2), 0), lines) for n in (number, number + 1)
        )
        row = code.let(f"mul i64 {self.nest.columns}, {size}")
        near = code.let(f"icmp ult i64 {row}, {NEAR_ROW}")
        part = code.let(f"udiv i64 {code.let(f'mul i64 {row}, {lines + first}')}, {lines}")
        next_ = code.let(f"getelementptr i8, ptr {start}, i64 {part}")
        step = code.let(f"select i1 {near}, i64 {size * (end - first) // lines}, i64 {size}")
        return _Ahead(code.let(f"select i1 {near}, ptr {next_}, ptr {here}"), step, end - first)

    # Control flow ----------------------------------------------------------------------------------------------------

    def _columns(self) -> None:
        """Masked up to where the outputs are aligned, whole vectors, and masked for the rest, by the same code.

        Each lane gets the columns that it would get without the first step, so sums are the same wherever the outputs lie.
        """
        code, lanes, n, shift = self.code, self.nest.lanes, self.nest.columns, self.nest.shift
        entry, masked, head, last, exit_ = (
            code.fresh(stem) for stem in ("entry", "masked", "head", "last", "exit")
        )
        code.line(f"br label %{entry}")
        code.label(entry)
        before = code.let(f"sub i64 0, {shift}")
        any_ = code.let(f"icmp ne i64 {shift}, 0")
        code.line(f"br i1 {any_}, label %{masked}, label %{head}")
        code.label(masked)
        index, low, begin, whole = (f"%{code.fresh('p')}" for _ in range(4))
        code.line(f"{index} = phi i64 [ {before}, %{entry} ], [ {whole}, %{last} ]")
        code.line(f"{low} = phi i64 [ {shift}, %{entry} ], [ 0, %{last} ]")
        final = code.let(f"phi i1 [ false, %{entry} ], [ true, %{last} ]")
        names, places = [f"%{code.fresh('sum')}" for _ in self.carried], len(code.lines)
        after = self._body(index, names, self._mask(low, code.let(f"sub i64 {n}, {index}")))
        behind = self._behind("behind")
        next_ = code.let(f"add i64 {index}, {lanes}")
        code.line(f"br i1 {final}, label %{exit_}, label %{head}")
        code.label(head)
        first = self._phis([(self._initial(), entry), (after, behind)])
        code.line(f"{begin} = phi i64 [ 0, %{entry} ], [ {next_}, %{behind} ]")
        left = code.let(f"sub i64 {n}, {begin}")
        some = code.let(f"icmp sgt i64 {left}, 0")
        left = code.let(f"select i1 {some}, i64 {left}, i64 0")
        code.line(f"{whole} = add i64 {begin}, {code.let(f'and i64 {left}, {-lanes}')}")
        sums = (self._blocks if self.in_blocks else self._loop)(head, begin, whole, first, last)
        more = code.let(f"icmp slt i64 {whole}, {n}")
        code.line(f"br i1 {more}, label %{masked}, label %{exit_}")
        code.lines[places:places] = [
            f"  {name} = phi {kind} [ {start}, %{entry} ], [ {total}, %{last} ]"
            for name, kind, start, total in zip(names, self._kinds(), self._initial(), sums, strict=True)
        ]
        code.label(exit_)
        self.totals = self._phis([(sums, last), (after, behind)])

    def _loop(self, before: str, start: str, stop: str, sums: list[str], join: str) -> list[str]:
        """A loop of whole vectors from start to stop, which ends in the block ``join``; the sums are there."""
        code = self.code
        loop = code.fresh("loop")
        any_ = code.let(f"icmp ult i64 {start}, {stop}")
        code.line(f"br i1 {any_}, label %{loop}, label %{join}")
        code.label(loop)
        index, following = f"%{code.fresh('i')}", f"%{code.fresh('i')}"
        places = len(code.lines)
        names = [f"%{code.fresh('sum')}" for _ in sums]
        after = self._body(index, names, None)
        end = self._behind("last")
        carried = [(index, "i64", start, following), *zip(names, self._kinds(), sums, after, strict=True)]
        code.lines[places:places] = [
            f"  {name} = phi {kind} [ {first}, %{before} ], [ {last}, %{end} ]"
            for name, kind, first, last in carried
        ]
        code.line(f"{following} = add i64 {index}, {self.nest.lanes}")
        more = code.let(f"icmp ult i64 {following}, {stop}")
        code.line(f"br i1 {more}, label %{loop}, label %{join}")
        code.label(join)
        return self._phis([(sums, before), (after, end)])

    def _behind(self, stem: str) -> str:
        """Begins a block of its own behind a body, which may have several."""
        name = self.code.fresh(stem)
        self.code.line(f"br label %{name}")
        self.code.label(name)
        return name

    def _blocks(self, before: str, start: str, stop: str, sums: list[str], out: str) -> list[str]:
        """Loops over blocks of whole vectors, of which all but the first begin with new sums; then comes the block ``out``."""
        code, step = self.code, self.nest.lanes * BLOCK
        head, inner, join = (code.fresh(stem) for stem in ("block", "inner", "added"))
        any_ = code.let(f"icmp ult i64 {start}, {stop}")
        code.line(f"br i1 {any_}, label %{head}, label %{out}")
        code.label(head)
        begin, end = f"%{code.fresh('b')}", f"%{code.fresh('b')}"
        code.line(f"{begin} = phi i64 [ {start}, %{before} ], [ {end}, %{join} ]")
        fresh = self._phis([(sums, before), (self._initial(), join)])
        names = [f"%{code.fresh('total')}" for _ in self.carried]
        places = len(code.lines)
        full = code.let(f"add i64 {begin}, {step}")
        less = code.let(f"icmp ult i64 {full}, {stop}")
        code.line(f"{end} = select i1 {less}, i64 {full}, i64 {stop}")
        code.line(f"br label %{inner}")
        code.label(inner)
        totals = self._merged(names, self._loop(inner, begin, end, fresh, join))
        code.lines[places:places] = [
            f"  {name} = phi {kind} [ {first}, %{before} ], [ {last}, %{join} ]"
            for name, kind, first, last in zip(names, self._kinds(), self._initial(), totals, strict=True)
        ]
        more = code.let(f"icmp ult i64 {end}, {stop}")
        code.line(f"br i1 {more}, label %{head}, label %{out}")
        code.label(out)
        return self._phis([(sums, before), (totals, join)])

    def _phis(self, sources: list[tuple[list[str], str]]) -> list[str]:
        """The sums behind a place where two ways meet."""
        return [
            self.code.let(f"phi {kind} " + ", ".join(f"[ {sums[n]}, %{block} ]" for sums, block in sources))
            for n, kind in enumerate(self._kinds())
        ]

    # Reductions ------------------------------------------------------------------------------------------------------

    def _kinds(self) -> list[str]:
        return [self.code.type(one.dtype, self.nest.lanes) for one in self.carried]

    def _initial(self) -> list[str]:
        self.code.lanes = self.nest.lanes
        found = [self.code.text(one.start) for one in self.carried]
        self.code.lanes = 1
        return found

    def _merged(self, left: list[str], right: list[str]) -> list[str]:
        lanes = self.code.lanes = self.nest.lanes
        found = [
            one.merge(self.code, Operand(a, one.dtype, lanes), Operand(b, one.dtype, lanes)).name
            for one, a, b in zip(self.carried, left, right, strict=True)
        ]
        self.code.lanes = 1
        return found

    # The body --------------------------------------------------------------------------------------------------------

    def _mask(self, low: str, high: str) -> str:
        """Which lanes are from ``low``, which is less than all of them, to ``high``, which may be more."""
        code, lanes = self.code, self.nest.lanes
        few = code.let(f"icmp slt i64 {high}, {lanes}")
        high = code.let(f"select i1 {few}, i64 {high}, i64 {lanes}")
        kind = f"<{lanes} x i32>"
        numbers = f"{kind} <{', '.join(f'i32 {n}' for n in range(lanes))}>"
        found = []
        for relation, limit in (("uge", low), ("ult", high)):
            short = Operand(code.let(f"trunc i64 {limit} to i32"), "int32")
            found.append(code.let(f"icmp {relation} {numbers}, {code.splat(short, lanes).name}"))
        return code.let(f"and <{lanes} x i1> {found[0]}, {found[1]}")

    def _body(self, index: str, sums: list[str], mask: str | None) -> list[str]:
        """One vector of each value; the sums with it."""
        code, nest = self.code, self.nest
        code.lanes = nest.lanes
        if mask is None:
            self._prefetch(index)
        known: dict[Value, Operand] = {v: self._load(v, index, mask) for v in self.stage.loaded}
        for node in self.stage.nodes:
            inputs = [known[v] if v in known else nest.splats[v] for v in node.inputs if v is not None]
            if self._divides_by_number(node):
                power, rest = nest.factors(_divisor(node))
                known[node.outputs[0]] = code.multiply(code.multiply(inputs[0], power), rest)
            elif is_elementwise(node):
                known[node.outputs[0]] = scalars.translate(code, node.call, inputs)
            else:
                known[node.outputs[0]] = inputs[0]
        for value in self.stage.outputs:
            self._store(known[value], nest.written[value], index, mask, self.streams)
        for value in self.stage.kept:
            self._store(known[value], nest.kept[value], index, mask, False)
        for node in self.added:
            (source,) = node.inputs
            assert source is not None
            total = self._load(node.outputs[0], index, mask)
            total = combine(code, node, total, known[source])
            self._store(total, nest.written[node.outputs[0]], index, mask, False)
        lanes = None if mask is None else Operand(mask, "bool", nest.lanes)
        after = []
        for one, name in zip(self.carried, sums, strict=True):
            source = one.node.inputs[0]
            assert source is not None
            total = Operand(name, one.dtype, nest.lanes)
            after.append(one.step(code, total, known[source], lanes).name)
        code.lanes = 1
        return after

    def _divides_by_number(self, node: Node) -> bool:
        """Whether a row is divided by one number that is made of a sum: a division takes as long as many multiplications.

        The sum is rounded more often than the reciprocal. Quotients by other numbers are exact, as those of the reference: what
        follows may round them to integers, and one unit decides which.
        """
        if node.op.name != "divide" or node.outputs[0].dtype.name not in ("float32", "float64"):
            return False
        (x, y), space = node.inputs, self.nest.space
        assert x is not None and y is not None
        return x.dtype == y.dtype and space.is_wide(x) and not space.is_wide(y) and self._has_sum(y)

    def _has_sum(self, value: Value) -> bool:
        """Whether a sum or a mean of the region is in a number."""
        node = self.nest.maker.get(value)
        if node is None:
            return False
        return node.op.name in ("sum", "mean") or any(self._has_sum(v) for v in node.inputs if v is not None)

    def _pointer(self, value: Value) -> str:
        nest = self.nest
        if value in nest.kept:
            return nest.kept[value]
        return nest.pointers[value] if value in nest.pointers else nest.written[value]

    def _prefetch(self, index: str) -> None:
        """Asks for what comes later: the processor alone looks too few lines ahead to compute and read at once.

        What is written by a later pass is asked for where most is computed, and else where little is computed: otherwise the
        instructions for it take longer than they save.
        """
        for ahead in self.ahead:
            place = self.code.let(f"mul i64 {index}, {ahead.step}")
            self._prefetch_lines(ahead.start, place, ahead.lines)
        nest = self.nest
        heaviest, last = nest.heaviest, nest.stages[-1]
        if nest.streams or self.stage is not heaviest or (heaviest is last and weight_of(last) >= MUCH):
            return
        for value in last.outputs:
            start = nest.written[value]
            if heaviest is last:
                start = self.code.let(f"getelementptr i8, ptr {start}, i64 {AHEAD}")
            place = self.code.let(f"mul i64 {index}, {value.dtype.itemsize}")
            self._prefetch_lines(start, place, self._lines(value), writes=1)

    def _lines(self, value: Value) -> int:
        return max(1, value.dtype.itemsize * self.nest.lanes // CACHE_LINE)

    def _prefetch_lines(self, start: str, place: str, lines: int, writes: int = 0) -> None:
        code = self.code
        code.declarations["declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"] = None
        start = code.let(f"getelementptr i8, ptr {start}, i64 {place}")
        for line in range(lines):
            place = code.let(f"getelementptr i8, ptr {start}, i64 {line * CACHE_LINE}")
            code.line(f"call void @llvm.prefetch.p0(ptr {place}, i32 {writes}, i32 3, i32 1)")

    def _load(self, value: Value, index: str, mask: str | None) -> Operand:
        code, dtype = self.code, value.dtype.name
        kind, size = "uint8" if dtype == "bool" else dtype, bits_of(dtype) // 8
        place = code.let(f"getelementptr {ELEMENTS[kind]}, ptr {self._pointer(value)}, i64 {index}")
        vector = code.type(kind)
        if mask is None:
            return from_memory(code, code.let(f"load {vector}, ptr {place}, align {size}"), dtype)
        name = f"@llvm.masked.load.v{code.lanes}{_short(kind)}.p0"
        code.declarations[f"declare {vector} {name}(ptr, i32, <{code.lanes} x i1>, {vector})"] = None
        loaded = f"call {vector} {name}(ptr {place}, i32 {size}, <{code.lanes} x i1> {mask}, {vector} zeroinitializer)"
        return from_memory(code, code.let(loaded), dtype)

    def _store(self, value: Operand, base: str, index: str, mask: str | None, streams: bool) -> None:
        code, size = self.code, bits_of(value.dtype) // 8
        vector, name = to_memory(code, value)
        kind = "uint8" if value.dtype == "bool" else value.dtype
        place = code.let(f"getelementptr {ELEMENTS[kind]}, ptr {base}, i64 {index}")
        if mask is None and streams:
            align = min(self.nest.target.vector_bytes, size * code.lanes)
            code.line(f"store {vector} {name}, ptr {place}, align {align}, !nontemporal !0")
        elif mask is None:
            code.line(f"store {vector} {name}, ptr {place}, align {size}")
        else:
            function = f"@llvm.masked.store.v{code.lanes}{_short(kind)}.p0"
            code.declarations[f"declare void {function}({vector}, ptr, i32, <{code.lanes} x i1>)"] = None
            code.line(
                f"call void {function}({vector} {name}, ptr {place}, i32 {size}, <{code.lanes} x i1> {mask})"
            )


def _divisor(node: Node) -> Value:
    value = node.inputs[1]
    assert value is not None
    return value


def _short(dtype: str) -> str:
    return {"half": "f16", "float": "f32", "double": "f64"}.get(ELEMENTS[dtype], ELEMENTS[dtype])

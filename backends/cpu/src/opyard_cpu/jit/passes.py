"""One pass over a row as loops: whole vectors, and a masked one for the rest."""

from __future__ import annotations

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
        self.ahead: dict[Value, str] = {}

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
        if self.stage is self.nest.heaviest:
            self.ahead = {value: self._ahead(value) for value in self.nest.stages[0].loaded}
        self._streaming() if self.streams else self._plain()
        lanes = self.nest.lanes
        pairs = zip(self.carried, self.totals, strict=True)
        totals = {one: Operand(name, one.dtype, lanes) for one, name in pairs}
        for node in self.reductions:
            self.nest.narrow[node.outputs[0]] = finish(self.code, totals, node)

    def _ahead(self, value: Value) -> str:
        """Bytes from what is read to what is asked for: in a later pass over a short row, to the next row."""
        if self.stage is self.nest.stages[0]:
            return str(AHEAD)
        row = self.code.let(f"mul i64 {self.nest.columns}, {value.dtype.itemsize}")
        near = self.code.let(f"icmp ult i64 {row}, {NEAR_ROW}")
        return self.code.let(f"select i1 {near}, i64 {row}, i64 {AHEAD}")

    # Control flow ----------------------------------------------------------------------------------------------------

    def _plain(self) -> None:
        code, lanes, n = self.code, self.nest.lanes, self.nest.columns
        here, tail, join, exit_ = (code.fresh(s) for s in ("here", "tail", "join", "exit"))
        code.line(f"br label %{here}")
        code.label(here)
        whole = code.let(f"and i64 {n}, {-lanes}")
        sums = (
            self._blocks(here, whole)
            if self.in_blocks
            else self._loop(here, "0", whole, self._initial(), join)
        )
        if self.in_blocks:
            code.line(f"br label %{join}")
            code.label(join)
        rest = code.let(f"sub i64 {n}, {whole}")
        any_ = code.let(f"icmp ne i64 {rest}, 0")
        code.line(f"br i1 {any_}, label %{tail}, label %{exit_}")
        code.label(tail)
        after = self._body(whole, sums, self._mask(rest))
        code.line(f"br label %{exit_}")
        code.label(exit_)
        self.totals = self._phis([(sums, join), (after, tail)])

    def _loop(self, before: str, start: str, stop: str, sums: list[str], join: str) -> list[str]:
        """A loop of whole vectors from start to stop, which ends in the block ``join``; the sums are there."""
        code = self.code
        loop = code.fresh("loop")
        any_ = code.let(f"icmp ult i64 {start}, {stop}")
        code.line(f"br i1 {any_}, label %{loop}, label %{join}")
        code.label(loop)
        index, following = f"%{code.fresh('i')}", f"%{code.fresh('i')}"
        code.line(f"{index} = phi i64 [ {start}, %{before} ], [ {following}, %{loop} ]")
        places = len(code.lines)
        names = [f"%{code.fresh('sum')}" for _ in sums]
        after = self._body(index, names, None)
        phis = [
            f"  {name} = phi {kind} [ {first}, %{before} ], [ {last}, %{loop} ]"
            for name, kind, first, last in zip(names, self._kinds(), sums, after, strict=True)
        ]
        code.lines[places:places] = phis
        code.line(f"{following} = add i64 {index}, {self.nest.lanes}")
        more = code.let(f"icmp ult i64 {following}, {stop}")
        code.line(f"br i1 {more}, label %{loop}, label %{join}")
        code.label(join)
        return self._phis([(sums, before), (after, loop)])

    def _blocks(self, before: str, stop: str) -> list[str]:
        """Loops over blocks of whole vectors, each of which begins with new sums."""
        code, step = self.code, self.nest.lanes * BLOCK
        head, inner, join, out = (code.fresh(s) for s in ("block", "inner", "added", "blocks"))
        any_ = code.let(f"icmp ne i64 {stop}, 0")
        code.line(f"br i1 {any_}, label %{head}, label %{out}")
        code.label(head)
        begin, end = f"%{code.fresh('b')}", f"%{code.fresh('b')}"
        code.line(f"{begin} = phi i64 [ 0, %{before} ], [ {end}, %{join} ]")
        names = [f"%{code.fresh('total')}" for _ in self.carried]
        places = len(code.lines)
        full = code.let(f"add i64 {begin}, {step}")
        less = code.let(f"icmp ult i64 {full}, {stop}")
        code.line(f"{end} = select i1 {less}, i64 {full}, i64 {stop}")
        code.line(f"br label %{inner}")
        code.label(inner)
        sums = self._loop(inner, begin, end, self._initial(), join)
        totals = self._merged(names, sums)
        code.lines[places:places] = [
            f"  {name} = phi {kind} [ {first}, %{before} ], [ {last}, %{join} ]"
            for name, kind, first, last in zip(names, self._kinds(), self._initial(), totals, strict=True)
        ]
        more = code.let(f"icmp ult i64 {end}, {stop}")
        code.line(f"br i1 {more}, label %{head}, label %{out}")
        code.label(out)
        return self._phis([(self._initial(), before), (totals, join)])

    def _streaming(self) -> None:
        """Masked up to where the outputs are aligned, whole vectors, and masked for the rest, by the same code."""
        code, lanes, n = self.code, self.nest.lanes, self.nest.columns
        entry, masked, head, loop, last, exit_ = (
            code.fresh(s) for s in ("entry", "masked", "head", "loop", "last", "exit")
        )
        out = self.nest.written[self.stage.outputs[0]]
        size = self.stage.outputs[0].dtype.itemsize
        code.line(f"br label %{entry}")
        code.label(entry)
        address = code.let(f"ptrtoint ptr {out} to i64")
        missing = code.let(
            f"and i64 {code.let(f'sub i64 0, {address}')}, {self.nest.target.vector_bytes - 1}"
        )
        missing = code.let(f"udiv i64 {missing}, {size}")
        few = code.let(f"icmp ult i64 {missing}, {n}")
        peel = code.let(f"select i1 {few}, i64 {missing}, i64 {n}")
        any_ = code.let(f"icmp ne i64 {peel}, 0")
        code.line(f"br i1 {any_}, label %{masked}, label %{head}")
        code.label(masked)
        start, count, final, whole, rest = (f"%{code.fresh('p')}" for _ in range(5))
        code.line(f"{start} = phi i64 [ 0, %{entry} ], [ {whole}, %{last} ]")
        code.line(f"{count} = phi i64 [ {peel}, %{entry} ], [ {rest}, %{last} ]")
        code.line(f"{final} = phi i1 [ false, %{entry} ], [ true, %{last} ]")
        self._body(start, [], self._mask(count))
        code.line(f"br i1 {final}, label %{exit_}, label %{head}")
        code.label(head)
        left = code.let(f"sub i64 {n}, {peel}")
        vectors = code.let(f"and i64 {left}, {-lanes}")
        code.line(f"{whole} = add i64 {peel}, {vectors}")
        code.line(f"br label %{loop}")
        code.label(loop)
        self._loop(loop, peel, whole, [], last)
        code.line(f"{rest} = sub i64 {n}, {whole}")
        any_ = code.let(f"icmp ne i64 {rest}, 0")
        code.line(f"br i1 {any_}, label %{masked}, label %{exit_}")
        code.label(exit_)

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

    def _mask(self, count: str) -> str:
        lanes = self.nest.lanes
        few = self.code.let(f"trunc i64 {count} to i32")
        self.code.lanes = 1
        wide = self.code.splat(Operand(few, "int32"), lanes)
        steps = ", ".join(f"i32 {n}" for n in range(lanes))
        return self.code.let(f"icmp ult <{lanes} x i32> <{steps}>, {wide.name}")

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

        What is read is asked for where most is computed; a row that is read several times is the next one there. What is written
        by a later pass is asked for there, too, and else where little is computed: otherwise the instructions for it take longer
        than they save.
        """
        nest = self.nest
        heaviest, last = nest.heaviest, nest.stages[-1]
        if self.stage is heaviest:
            for value in nest.stages[0].loaded:
                self._prefetch_one(nest.pointers[value], value, index, self.ahead[value])
        if nest.streams:
            return
        if heaviest is last and self.stage is last and weight_of(last) < MUCH:
            self._prefetch_written(index, str(AHEAD))
        elif heaviest is not last and self.stage is heaviest:
            self._prefetch_written(index, "0")

    def _prefetch_written(self, index: str, ahead: str) -> None:
        for value in self.nest.stages[-1].outputs:
            self._prefetch_one(self.nest.written[value], value, index, ahead, writes=1)

    def _prefetch_one(self, base: str, value: Value, index: str, ahead: str, writes: int = 0) -> None:
        code, size = self.code, bits_of(value.dtype.name) // 8
        code.declarations["declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"] = None
        start = code.let(f"getelementptr i{8 * size}, ptr {base}, i64 {index}")
        start = code.let(f"getelementptr i8, ptr {start}, i64 {ahead}")
        for offset in range(0, size * self.nest.lanes, CACHE_LINE):
            place = code.let(f"getelementptr i8, ptr {start}, i64 {offset}")
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

"""The loops of a region as LLVM IR: over rows, and within a row in passes of whole vectors, with a masked one for the rest.

The function is ``kernel(data, table, begin, end)``. ``data`` has the addresses of the inputs, the outputs and the scratch memory;
``table`` the length of a row, the sizes of the outer axes but the first, and for each array its strides, in bytes, along the
outer axes. It works on the rows from ``begin`` to ``end``; where there is one row only, on these elements of it. Where columns are
reduced, the rows are added to what the outputs hold.
"""

from __future__ import annotations

from opyard.graph import Node, Value
from opyard.region import Region

from . import mathematics, scalars
from .code import ELEMENTS, Code, bits_of
from .code import Value as Operand
from .machine import Processor
from .passes import Pass, from_memory, to_memory
from .space import Space, is_elementwise
from .stages import stages_of, weight_of

HEAVY = 16
"""Instructions from which on two vectors are enough to keep the processor busy, otherwise four; reductions wait for themselves."""


def arrays_of(region: Region) -> list[Value]:
    """What the function takes: inputs, constants of several elements, and outputs."""
    graph = region.graph
    constants = [value for value, array in graph.constants.items() if array.size != 1]
    return [*graph.inputs.values(), *constants, *graph.outputs.values()]


class Nest:
    """A region on its way to text. ``streams``: outputs go past the caches, and each row begins ``shift`` numbers behind a whole vector."""

    def __init__(self, region: Region, space: Space, target: Processor, streams: bool = False) -> None:
        self.region, self.target, self.streams = region, target, streams
        self.graph, self.space = region.graph, space
        self.stages, self.scratch = stages_of(self.graph, self.space)
        self.arrays = arrays_of(region)
        self.maker = {node.outputs[0]: node for node in self.graph.nodes}
        self.code = Code(scales=target.vector_bytes == 64, branches=True)
        self.is_heavy = any(scalars.weight(n.call) >= HEAVY for n in self._wide() if is_elementwise(n))
        self.lanes = self._lanes()
        self.heaviest = max(self.stages, key=weight_of)
        self.narrow: dict[Value, Operand] = {}
        self.splats: dict[Value, Operand] = {}
        self.divisors: dict[Value, tuple[Operand, Operand]] = {}
        self.pointers: dict[Value, str] = {}
        self.written: dict[Value, str] = {}
        self.kept: dict[Value, str] = {}
        self.columns = ""
        self.shift = "0"

    def _wide(self) -> list[Node]:
        """The ops that compute vectors."""
        return [n for n in self.graph.nodes if self.space.is_wide(n.outputs[0]) or not is_elementwise(n)]

    def _lanes(self) -> int:
        sizes = [v.dtype.itemsize for n in self._wide() for v in (*n.inputs, *n.outputs) if v is not None]
        unit = self.target.vector_bytes // max([4, *sizes])
        return unit * (2 if self.is_heavy and not self.space.reduces else 4)

    # Rows ------------------------------------------------------------------------------------------------------------

    def source(self) -> str:
        """The whole text."""
        code, outer = self.code, len(self.space.sizes) - 1
        code.label("entry")
        bases = [self._word("%data", number) for number in range(len(self.arrays) + bool(self.scratch))]
        if not outer:
            self.columns = code.let("sub i64 %end, %begin")
            self._row(self._shifted(bases))
        else:
            self.columns = self._number(0)
            sizes = [self._number(1 + axis) for axis in range(outer - 1)]
            strides = [
                [self._number(outer + number * outer + axis) for axis in range(outer)]
                for number in range(len(self.arrays))
            ]
            code.line("%any = icmp ult i64 %begin, %end")
            code.line("br i1 %any, label %rows, label %done")
            code.label("rows")
            code.line("%row = phi i64 [ %begin, %entry ], [ %next, %row.end ]")
            places = self._places("%row", sizes)
            pointers = [self._moved(b, places, s) for b, s in zip(bases, strides, strict=False)]
            self._row([*pointers, *bases[len(self.arrays) :]])
            code.line("br label %row.end")
            code.label("row.end")
            code.line("%next = add i64 %row, 1")
            code.line("%more = icmp ult i64 %next, %end")
            code.line("br i1 %more, label %rows, label %done")
            code.label("done")
        if self.streams and self.target.is_x86:
            code.declarations["declare void @llvm.x86.sse.sfence()"] = None
            code.line("call void @llvm.x86.sse.sfence()")
        code.line("ret void")
        return self._text()

    def _text(self) -> str:
        width = self.target.vector_bytes * 8
        attributes = f'"prefer-vector-width"="{width}" "min-legal-vector-width"="{width}"'
        head = f"define void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end) nounwind {attributes} {{"
        tail = ["}", *self.code.declarations, "!0 = !{i32 1}", ""]
        return "\n".join([head, *self.code.lines, *tail])

    def _word(self, base: str, number: int, kind: str = "ptr") -> str:
        place = self.code.let(f"getelementptr i64, ptr {base}, i64 {number}")
        return self.code.let(f"load {kind}, ptr {place}, align 8")

    def _number(self, number: int) -> str:
        return self._word("%table", number, "i64")

    def _shifted(self, bases: list[str]) -> list[str]:
        """The addresses of the first elements to work on, where there is one row."""
        found = []
        for value, base in zip(self.arrays, bases, strict=False):
            wide = self.space.is_wide(value)
            step = f"getelementptr i{bits_of(value.dtype.name)}, ptr {base}, i64 %begin"
            found.append(self.code.let(step) if wide else base)
        return [*found, *bases[len(self.arrays) :]]

    def _places(self, row: str, sizes: list[str]) -> list[str]:
        """The index along each outer axis of a row."""
        found: list[str] = []
        for size in reversed(sizes):
            found.append(self.code.let(f"urem i64 {row}, {size}"))
            row = self.code.let(f"udiv i64 {row}, {size}")
        return [row, *reversed(found)]

    def _moved(self, base: str, places: list[str], strides: list[str]) -> str:
        code = self.code
        for place, stride in zip(places, strides, strict=True):
            offset = code.let(f"mul i64 {place}, {stride}")
            base = code.let(f"getelementptr i8, ptr {base}, i64 {offset}")
        return base

    def _row(self, addresses: list[str]) -> None:
        """One row, from the addresses of its parts."""
        inputs = len(self.arrays) - len(self.graph.outputs)
        self.pointers = dict(zip(self.arrays[:inputs], addresses[:inputs], strict=True))
        self.written = {}
        for value, address in zip(self.arrays[inputs:], addresses[inputs : len(self.arrays)], strict=True):
            self.written.setdefault(value, address)
        scratch, offset = self._aligned(addresses[-1]) if self.streams else addresses[-1], ""
        for value in self.scratch:
            self.kept[value] = (
                self.code.let(f"getelementptr i8, ptr {scratch}, i64 {offset}") if offset else scratch
            )
            size = self.code.let(f"mul i64 {self.columns}, {value.dtype.itemsize}")
            size = self.code.let(f"add i64 {size}, {offset}") if offset else size
            offset = size
        for stage in self.stages:
            Pass(self, stage).write()
        for value, pointer in self.written.items():
            if not self.space.is_wide(value):
                self._store_number(self.number(value), pointer)

    def _aligned(self, scratch: str) -> str:
        """Finds how many numbers lie between a whole vector in memory and the first output; scratch memory that lies in the same way.

        The line where a row ends and the next one begins is written by usual stores, which wait for it, and those past the caches
        wait for them: so it is asked for in time.
        """
        code, output = self.code, self.stages[-1].outputs[0]
        size, pointer = output.dtype.itemsize, self.written[output]
        unit = min(self.target.vector_bytes, size * self.lanes)
        nbytes = code.let(f"and i64 {code.let(f'ptrtoint ptr {pointer} to i64')}, {unit - 1}")
        self.shift = code.let(f"udiv i64 {nbytes}, {size}")
        end = code.let(f"mul i64 {self.columns}, {size}")
        end = code.let(f"getelementptr i8, ptr {pointer}, i64 {end}")
        whole = code.let(f"icmp eq i64 {nbytes}, 0")
        end = code.let(f"select i1 {whole}, ptr {scratch}, ptr {end}")
        code.declarations["declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"] = None
        code.line(f"call void @llvm.prefetch.p0(ptr {end}, i32 1, i32 3, i32 1)")
        return code.let(f"getelementptr i8, ptr {scratch}, i64 {nbytes}")

    # One number for a row --------------------------------------------------------------------------------------------

    def number(self, value: Value) -> Operand:
        """A value that is the same in the whole row; the code is between two passes."""
        found = self.narrow.get(value)
        if found is None:
            array = self.graph.constants.get(value)
            node = self.maker.get(value)
            if array is not None and array.size == 1:
                found = self.code.constant(array.reshape(-1)[0].item(), value.dtype.name)
            elif node is None:
                found = self._load_number(value)
            elif is_elementwise(node):
                inputs = [self.number(v) for v in node.inputs if v is not None]
                found = scalars.translate(self.code, node.call, inputs)
            else:
                assert node.inputs[0] is not None
                found = self.number(node.inputs[0])  # another shape; a reduction is known already
            self.narrow[value] = found
        return found

    def splat(self, value: Value) -> Operand:
        """Such a value in all lanes."""
        if value not in self.splats:
            self.splats[value] = self.code.splat(self.number(value), self.lanes)
        return self.splats[value]

    def factors(self, value: Value) -> tuple[Operand, Operand]:
        """What to multiply by instead of dividing by a value that is the same in the whole row."""
        if value not in self.divisors:
            power, rest = mathematics.reciprocal(self.code, self.number(value))
            self.divisors[value] = (
                self.code.splat(power, self.lanes),
                self.code.splat(rest, self.lanes),
            )
        return self.divisors[value]

    def _load_number(self, value: Value) -> Operand:
        code, dtype = self.code, value.dtype.name
        kind = "i8" if dtype == "bool" else ELEMENTS[dtype]
        loaded = code.let(f"load {kind}, ptr {self.pointers[value]}, align {bits_of(dtype) // 8}")
        return from_memory(code, loaded, dtype)

    def _store_number(self, value: Operand, pointer: str) -> None:
        kind, name = to_memory(self.code, value)
        self.code.line(f"store {kind} {name}, ptr {pointer}, align {bits_of(value.dtype) // 8}")

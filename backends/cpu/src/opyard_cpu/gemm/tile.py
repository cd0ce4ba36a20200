"""A tile of a product in registers as LLVM IR: some rows of one matrix times some columns of another."""

from __future__ import annotations

from dataclasses import dataclass

from ..jit.code import Code, Value

UNROLLED, LINE = 4, 64
"""Steps of the innermost loop that are written out, bytes of a cache line."""


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
        kind = f"<{self.lanes} x i32>"
        few = self.code.let(f"icmp slt i64 {left}, {self.lanes}")
        count = self.code.let(f"select i1 {few}, i64 {left}, i64 {self.lanes}")
        count = self.code.let(f"trunc i64 {count} to i32")
        one = self.code.let(f"insertelement {kind} poison, i32 {count}, i64 0")
        every = self.code.let(f"shufflevector {kind} {one}, {kind} poison, {kind} zeroinitializer")
        numbers = ", ".join(f"i32 {n}" for n in range(self.lanes))
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


@dataclass(frozen=True, slots=True)
class Tile:
    """``height`` rows and ``vectors`` vectors of ``lanes`` columns.

    a_step, b_step, c_step  numbers from one row to the next
    ahead                   bytes that are fetched in each step for what comes next
    is_scaled               whether each row of b is multiplied with a number, the function's last argument has them
    """

    height: int
    vectors: int
    lanes: int
    a_step: int
    b_step: int
    c_step: int
    ahead: int = 0
    is_scaled: bool = False

    @property
    def name(self) -> str:
        """The name of the function."""
        return f"@tile_{self.height}x{self.vectors}_{self.a_step}_{self.b_step}_{self.c_step}"

    def text(self) -> tuple[Code, str]:
        """``tile(a, b, depth, c, first, ahead)``, without its head, and the head: c is, or unless ``first`` grows by, a @ b."""
        code = Code()
        loads, kind = Loads(code, self.lanes), f"<{self.lanes} x float>"
        places = [i * self.c_step + j * self.lanes for i in range(self.height) for j in range(self.vectors)]
        code.label("entry")
        code.line("br i1 %first, label %start, label %more")
        code.label("more")
        old = [loads.load(loads.moved("%c", place)).name for place in places]
        code.line("br label %start")
        code.label("start")
        sums = [code.let(f"phi {kind} [ zeroinitializer, %entry ], [ {name}, %more ]") for name in old]
        code.line(f"%whole = and i64 %depth, {-UNROLLED}")
        sums = self._steps(loads, "quad", sums, ("0", "%whole"), UNROLLED, "start")
        sums = self._steps(loads, "one", sums, ("%whole", "%depth"), 1, "quad.end")
        for place, name in zip(places, sums, strict=True):
            loads.store(Value(name, "float32", self.lanes), loads.moved("%c", place))
        code.line("ret void")
        arguments = (
            "ptr %a, ptr %b, i64 %depth, ptr %c, i1 %first, ptr %ahead" + ", ptr %scale" * self.is_scaled
        )
        return code, f"internal void {self.name}({arguments}) noinline"

    def _steps(
        self, loads: Loads, name: str, sums: list[str], span: tuple[str, str], count: int, before: str
    ) -> list[str]:
        """A loop over some of the depth, ``count`` rows of b at a time; the sums behind it."""
        code, kind, (begin, end) = loads.code, f"<{self.lanes} x float>", span
        any_ = code.let(f"icmp ult i64 {begin}, {end}")
        code.line(f"br i1 {any_}, label %{name}, label %{name}.end")
        code.label(name)
        code.line(f"%{name}.k = phi i64 [ {begin}, %{before} ], [ %{name}.next, %{name} ]")
        inner = [f"%{name}.sum{n}" for n in range(len(sums))]
        mark = len(code.lines)
        a = loads.moved("%a", f"%{name}.k")
        b = loads.moved("%b", code.let(f"mul i64 %{name}.k, {self.b_step}"))
        if count > 1 and self.ahead:
            self._fetch(code, f"%{name}.k")
        now = list(inner)
        for step in range(count):
            starts = [step * self.b_step + j * self.lanes for j in range(self.vectors)]
            columns = [loads.load(loads.moved(b, start)) for start in starts]
            if self.is_scaled:
                scale = loads.number(loads.moved("%scale", code.let(f"add i64 %{name}.k, {step}")))
                columns = [code.multiply(scale, column) for column in columns]
            for i in range(self.height):
                factor = loads.number(loads.moved(a, i * self.a_step + step))
                for n, column in enumerate(columns, i * self.vectors):
                    now[n] = code.multiply_add(factor, column, Value(now[n], "float32", self.lanes)).name
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
        """Asks for what comes next, as much as there is for the steps that are written out."""
        offset = code.let(f"mul i64 {k}, {self.ahead}")
        code.declarations["declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"] = None
        for line in range(0, UNROLLED * self.ahead, LINE):
            start = code.let(f"add i64 {offset}, {line}")
            place = code.let(f"getelementptr i8, ptr %ahead, i64 {start}")
            code.line(f"call void @llvm.prefetch.p0(ptr {place}, i32 0, i32 2, i32 1)")

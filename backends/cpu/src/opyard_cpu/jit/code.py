"""Text of LLVM IR for vectors: values with a dtype and a number of lanes, and the instructions on them.

Instructions are chosen so that NaN, infinities and, where ops promise it, signs of zeros are what NumPy makes of them.
Source: LLVM Language Reference Manual.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

ELEMENTS = {
    "bool": "i1",
    **{f"{sign}int{bits}": f"i{bits}" for bits in (8, 16, 32, 64) for sign in ("", "u")},
    "float16": "half",
    "bfloat16": "i16",
    "float32": "float",
    "float64": "double",
}
"""Types of LLVM by names of dtypes. In memory a bool is a byte. A bfloat16 is its bits, for the instructions of processors flush
subnormal numbers."""

_SUFFIXES = {"half": "f16", "float": "f32", "double": "f64"}


@dataclass(frozen=True, slots=True)
class Value:
    """A value of a dtype: ``name`` is that of LLVM, or ``constant`` is a number, which fits any number of lanes."""

    name: str
    dtype: str
    lanes: int = 1
    constant: Any = None


def is_float(dtype: str) -> bool:
    """Whether a dtype is one of floats."""
    return "float" in dtype


def is_signed(dtype: str) -> bool:
    """Whether a dtype is one of signed integers."""
    return dtype.startswith("int")


def bits_of(dtype: str) -> int:
    """Bits of a dtype; of a bool those in memory."""
    return 8 if dtype == "bool" else int("".join(c for c in dtype.removeprefix("b") if c.isdigit()))


def literal(number: Any, dtype: str) -> str:
    """A number as LLVM writes it."""
    if dtype == "float64":
        return f"0x{struct.unpack('<Q', struct.pack('<d', float(number)))[0]:016X}"
    if dtype == "bfloat16":
        import ml_dtypes  # only for programs that have such numbers
        import numpy as np

        return str(int(np.asarray(number, ml_dtypes.bfloat16).view(np.int16)))
    if is_float(dtype):
        import numpy as np

        with np.errstate(all="ignore"):
            rounded = float(np.asarray(number, np.float64).astype(dtype))
        return f"0x{struct.unpack('<Q', struct.pack('<d', rounded))[0]:016X}"
    if dtype == "bool":
        return "true" if number else "false"
    bits = bits_of(dtype)
    wrapped = int(number) & ((1 << bits) - 1)
    return str(wrapped - (1 << bits) if wrapped >> (bits - 1) else wrapped)


class Code:
    """The lines of one function as it grows. ``lanes`` is the width of the instructions that are written now.

    ``scales`` says whether the processor multiplies by powers of two in one instruction, ``branches`` whether what is written may
    have several basic blocks.
    """

    def __init__(self, scales: bool = False, branches: bool = False) -> None:
        self.scales, self.branches = scales, branches
        self.lines: list[str] = []
        self.declarations: dict[str, None] = {}
        self.lanes = 1
        self._count = 0

    # Text ------------------------------------------------------------------------------------------------------------

    def fresh(self, stem: str = "v") -> str:
        """A name that nothing has."""
        self._count += 1
        return f"{stem}{self._count}"

    def line(self, text: str) -> None:
        """An instruction without a result."""
        self.lines.append(f"  {text}")

    def label(self, name: str) -> None:
        """Begins a basic block."""
        self.lines.append(f"{name}:")

    def let(self, text: str) -> str:
        """The name of the result of an instruction."""
        name = f"%{self.fresh()}"
        self.lines.append(f"  {name} = {text}")
        return name

    def type(self, dtype: str, lanes: int | None = None) -> str:
        """The type of values of a dtype."""
        return self.vector(ELEMENTS[dtype], lanes)

    def vector(self, element: str, lanes: int | None = None) -> str:
        """The type of a vector, or of one number where there is one lane."""
        lanes = self.lanes if lanes is None else lanes
        return element if lanes == 1 else f"<{lanes} x {element}>"

    def text(self, value: Value) -> str:
        """An operand, at the present width."""
        if value.constant is None:
            assert value.lanes == self.lanes, (value, self.lanes)
            return value.name
        number = literal(value.constant, value.dtype)
        return number if self.lanes == 1 else f"splat ({ELEMENTS[value.dtype]} {number})"

    def make(self, text: str, dtype: str) -> Value:
        """The value of an instruction at the present width."""
        return Value(self.let(text), dtype, self.lanes)

    def intrinsic(self, name: str, dtype: str, *values: Value) -> Value:
        """A call of an intrinsic function that is overloaded by one type."""
        kind, element = self.type(dtype), ELEMENTS[dtype]
        suffix = _SUFFIXES.get(element, element)
        suffix = suffix if self.lanes == 1 else f"v{self.lanes}{suffix}"
        full = f"@llvm.{name}.{suffix}"
        flag = ", i1" if name in ("abs", "ctlz") else ""
        self.declarations[f"declare {kind} {full}({', '.join([kind] * len(values))}{flag})"] = None
        arguments = ", ".join(f"{kind} {self.text(v)}" for v in values) + (", i1 false" if flag else "")
        return self.make(f"call {kind} {full}({arguments})", dtype)

    # Arithmetic ------------------------------------------------------------------------------------------------------

    def constant(self, number: Any, dtype: str) -> Value:
        """A number."""
        return Value("", dtype, 1, number)

    def binary(self, instruction: str, a: Value, b: Value, dtype: str | None = None) -> Value:
        """An instruction with two operands of one type."""
        text = f"{instruction} {self.type(a.dtype)} {self.text(a)}, {self.text(b)}"
        return self.make(text, dtype or a.dtype)

    def add(self, a: Value, b: Value) -> Value:
        """Sum; integers wrap around."""
        return self.binary("fadd" if is_float(a.dtype) else "add", a, b)

    def subtract(self, a: Value, b: Value) -> Value:
        """Difference."""
        return self.binary("fsub" if is_float(a.dtype) else "sub", a, b)

    def multiply(self, a: Value, b: Value) -> Value:
        """Product."""
        return self.binary("fmul" if is_float(a.dtype) else "mul", a, b)

    def divide(self, a: Value, b: Value) -> Value:
        """Quotient of floats."""
        return self.binary("fdiv", a, b)

    def multiply_add(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c with one rounding where the processor does that."""
        return self.intrinsic("fmuladd", a.dtype, a, b, c)

    def negate(self, a: Value) -> Value:
        """The number with the opposite sign."""
        if is_float(a.dtype):
            return self.make(f"fneg {self.type(a.dtype)} {self.text(a)}", a.dtype)
        return self.subtract(self.constant(0, a.dtype), a)

    def absolute(self, a: Value) -> Value:
        """The absolute value; the least signed integer stays."""
        if is_float(a.dtype):
            return self.intrinsic("fabs", a.dtype, a)
        return self.intrinsic("abs", a.dtype, a) if is_signed(a.dtype) else a

    def compare(self, relation: str, a: Value, b: Value) -> Value:
        """A truth value: ``relation`` is eq, ne, lt, le, gt or ge; with NaN only ne holds."""
        if is_float(a.dtype):
            return self.binary(f"fcmp {'une' if relation == 'ne' else 'o' + relation}", a, b, "bool")
        sign = "" if relation in ("eq", "ne") else "s" if is_signed(a.dtype) else "u"
        return self.binary(f"icmp {sign}{relation}", a, b, "bool")

    def is_nan(self, a: Value) -> Value:
        """Whether a float is NaN."""
        return self.binary("fcmp uno", a, a, "bool")

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        """a where the condition is true, else b."""
        kind = self.type(a.dtype)
        text = (
            f"select {self.type('bool')} {self.text(condition)}, {kind} {self.text(a)}, {kind} {self.text(b)}"
        )
        return self.make(text, a.dtype)

    def extremum(self, relation: str, a: Value, b: Value) -> Value:
        """The greater ("gt") or the lesser ("lt") of two; NaN if one of them is NaN.

        The instructions of x86 give the second operand where one is NaN, so a number that is known goes first.
        """
        if not is_float(a.dtype):
            return self.select(self.compare(relation, a, b), a, b)
        if b.constant is not None and a.constant is None and b.constant == b.constant:
            a, b = b, a
        found = self.select(self.compare(relation, a, b), a, b)
        return found if a.constant is not None else self.select(self.is_nan(a), a, found)

    def clamp(self, x: Value, low: float, high: float) -> Value:
        """x limited to a range; NaN stays."""
        x = self.extremum("gt", self.constant(low, x.dtype), x)
        return self.extremum("lt", self.constant(high, x.dtype), x)

    def horner(self, x: Value, coefficients: Iterable[float]) -> Value:
        """A polynomial; the coefficient of the highest power comes first."""
        first, *rest = (self.constant(c, x.dtype) for c in coefficients)
        total = first
        for coefficient in rest:
            total = self.multiply_add(total, x, coefficient)
        return total

    def bitcast(self, a: Value, dtype: str) -> Value:
        """The same bits as another dtype."""
        return self.make(f"bitcast {self.type(a.dtype)} {self.text(a)} to {self.type(dtype)}", dtype)

    def splat(self, a: Value, lanes: int) -> Value:
        """One number in all lanes."""
        if a.constant is not None or lanes == 1:
            return a
        kind = self.type(a.dtype, lanes)
        one = self.let(f"insertelement {kind} poison, {self.type(a.dtype, 1)} {a.name}, i64 0")
        name = self.let(f"shufflevector {kind} {one}, {kind} poison, <{lanes} x i32> zeroinitializer")
        return Value(name, a.dtype, lanes)

    def convert(self, a: Value, dtype: str) -> Value:
        """The number in another dtype: rounded to the nearest, towards zero for integers, by truth for bool."""
        if a.dtype == dtype:
            return a
        if a.constant is not None:
            return self._converted_constant(a, dtype)
        if a.dtype == "bfloat16":
            return self.convert(self._from_bfloat16(a), dtype)
        if dtype == "bool":
            return self.compare("ne", a, self.constant(0, a.dtype))
        if dtype == "bfloat16":
            return self._to_bfloat16(self.convert(a, "float32"))
        if {a.dtype, dtype} == {"float16", "float64"}:
            return self._cast(self._cast(a, "float32"), dtype)
        return self._cast(a, dtype)

    def _from_bfloat16(self, a: Value) -> Value:
        wide = self.convert(Value(a.name, "uint16", a.lanes), "uint32")
        return self.bitcast(self.binary("shl", wide, self.constant(16, "uint32")), "float32")

    def _to_bfloat16(self, a: Value) -> Value:
        """The upper half of the bits, rounded to the nearest, of two the even one; of NaN no bit is lost that says so."""
        sixteen, bits = self.constant(16, "uint32"), self.bitcast(a, "uint32")
        upper = self.binary("lshr", bits, sixteen)
        odd = self.binary("and", upper, self.constant(1, "uint32"))
        rounded = self.add(self.add(bits, self.constant(0x7FFF, "uint32")), odd)
        rounded = self.binary("lshr", rounded, sixteen)
        quiet = self.binary("or", upper, self.constant(0x40, "uint32"))
        found = self.convert(self.select(self.is_nan(a), quiet, rounded), "uint16")
        return Value(found.name, "bfloat16", found.lanes)

    def _converted_constant(self, a: Value, dtype: str) -> Value:
        import numpy as np

        if is_float(dtype) or dtype == "bool":
            return self.constant(a.constant if is_float(dtype) else bool(a.constant), dtype)
        with np.errstate(all="ignore"):
            return self.constant(int(np.asarray(a.constant).astype(dtype)), dtype)

    def _cast(self, a: Value, dtype: str) -> Value:
        old, new = is_float(a.dtype), is_float(dtype)
        if old and new:
            instruction = "fpext" if bits_of(dtype) > bits_of(a.dtype) else "fptrunc"
        elif old:
            instruction = "fptosi" if is_signed(dtype) else "fptoui"
        elif new:
            instruction = "sitofp" if is_signed(a.dtype) else "uitofp"
        elif a.dtype != "bool" and bits_of(dtype) <= bits_of(a.dtype):
            if bits_of(dtype) == bits_of(a.dtype):
                return Value(a.name, dtype, a.lanes)
            instruction = "trunc"
        else:
            instruction = "sext" if is_signed(a.dtype) else "zext"
        return self.make(f"{instruction} {self.type(a.dtype)} {self.text(a)} to {self.type(dtype)}", dtype)

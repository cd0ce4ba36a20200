"""Exponentials, logarithms and their relatives on vectors, in float32 and float64: the same instructions for every number.

Arguments are reduced by powers of two, and polynomials do the rest. They were fitted on Chebyshev nodes, with mpmath's ``chebyfit``,
so that the error of the fit is below a tenth of the last place; the functions are at most 4 units of epsilon away.
Sources: W. J. Cody and W. Waite, "Software Manual for the Elementary Functions", 1980, for the reductions; W. Kahan for
``log1p`` by a correction of ``log``; N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2002.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..error_function import _DENOMINATOR, _NUMERATOR
from .code import Code, Value

LOG2_E = 1 / math.log(2)

_TANH_LIMIT = 9.02
"""From here on tanh(x) is 1 in float32."""

# tanh(x) = x * P(x * x) / Q(x * x) on [-9.02, 9.02] with a relative error below 2.1e-8, from an iteratively reweighted
# least-squares fit (C. L. Lawson, 1961) of the linearised rational problem.
_TANH_NUMERATOR = (
    *(0.9999999790105581, 0.1337971778829388, 0.0034940344026492894),
    *(2.0583479471361753e-05, 1.331907065884456e-08),
)
_TANH_DENOMINATOR = (
    *(1.0, 0.4671303302717135, 0.025871072542952258),
    *(0.00032830926186487374, 7.762018678637492e-07),
)


@dataclass(frozen=True, slots=True)
class _Format:
    """Numbers of a dtype: ``ln2`` in two parts, the first with zeros at its end; limits of exp; its polynomial and that of log."""

    integer: str
    mantissa: int
    bias: int
    smallest: float
    ln2: tuple[float, float]
    lowest: float
    highest: float
    exponential: tuple[float, ...]
    logarithm: tuple[float, ...]


_FORMATS = {
    "float32": _Format(
        "int32",
        23,
        127,
        2.0**-126,
        (0.693359375, -2.12194440e-4),
        -105.0,
        89.0,
        # (exp(r) - 1 - r) / r**2 for abs(r) < 0.35
        (*(0.0013926926614021907, 0.008363773874405574, 0.04166655011030512), 0.16666573381900845, 0.5),
        # (log(1 + f) - f + f**2 / 2) / f**3 for 1 + f from sqrt(0.5) to sqrt(2)
        (
            *(0.06971611471451178, -0.11479733846637635, 0.1168541992348674, -0.12425687331451106),
            *(0.1424905764569748, -0.16667802319501254, 0.200007157488921),
            *(-0.24999996957950882, 0.33333331180030046),
        ),
    ),
    "float64": _Format(
        "int64",
        52,
        1023,
        2.0**-1022,
        (0.693147180369123816490, 1.90821492927058770002e-10),
        -746.0,
        710.0,
        (
            *(2.0915442297780116e-09, 2.5106274733573296e-08, 2.75572718102198e-07, 2.755725283351691e-06),
            *(2.4801587327007187e-05, 0.00019841269876864356, 0.0013888888888883327),
            *(0.008333333333325544, 0.04166666666666667, 0.1666666666666667, 0.5),
        ),
        # (2 * atanh(s) / s - 2) / s**2 as a polynomial in s**2
        (
            *(0.131148348695975, 0.13266048812203002, 0.15386342449645143, 0.18181793732111753),
            *(0.22222222409750114, 0.2857142857072325, 0.40000000000001007, 0.6666666666666666),
        ),
    ),
}


def _reduced(code: Code, x: Value, form: _Format) -> tuple[Value, Value]:
    """n and r with ``x = n * ln(2) + r``, n a whole number as a float, below 2 to the power of ``mantissa - 1``."""
    n = _nearest(code, x, LOG2_E, form)
    r = code.multiply_add(n, code.constant(-form.ln2[0], x.dtype), x)
    return n, code.multiply_add(n, code.constant(-form.ln2[1], x.dtype), r)


def _nearest(code: Code, x: Value, factor: float, form: _Format) -> Value:
    """The whole number next to a product: adding a large number and taking it away leaves no places behind the point."""
    large = code.constant(1.5 * 2.0**form.mantissa, x.dtype)
    return code.subtract(code.multiply_add(x, code.constant(factor, x.dtype), large), large)


def _exponential(code: Code, r: Value, form: _Format) -> Value:
    """exp(r) for small r."""
    one = code.constant(1.0, r.dtype)
    tail = code.multiply_add(code.horner(r, form.exponential), r, one)
    return code.multiply_add(tail, r, one)


def _integer(code: Code, n: Value, form: _Format) -> Value:
    return code.make(f"fptosi {code.type(n.dtype)} {code.text(n)} to {code.type(form.integer)}", form.integer)


def _power_of_two(code: Code, n: Value, dtype: str, form: _Format) -> Value:
    """2 to the power of an integer from -bias + 1 to bias."""
    biased = code.add(n, code.constant(form.bias, form.integer))
    return code.bitcast(code.binary("shl", biased, code.constant(form.mantissa, form.integer)), dtype)


def _scaled(code: Code, p: Value, n: Value, form: _Format) -> Value:
    """p times 2 to the power of n; in two steps where the processor has no instruction, for the power alone may overflow."""
    if code.scales and code.lanes * (form.mantissa + 1 + 8) >= 512:
        return _scaled_at_once(code, p, n)
    whole = _integer(code, n, form)
    half = code.binary("ashr", whole, code.constant(1, form.integer))
    rest = code.subtract(whole, half)
    p = code.multiply(p, _power_of_two(code, half, p.dtype, form))
    return code.multiply(p, _power_of_two(code, rest, p.dtype, form))


def _scaled_at_once(code: Code, p: Value, n: Value) -> Value:
    """By the instruction of AVX-512, for as many registers as the vectors take."""
    lanes, name, mask = (16, "ps", "i16") if p.dtype == "float32" else (8, "pd", "i8")
    kind, whole = code.type(p.dtype, lanes), code.type(p.dtype)
    function = f"@llvm.x86.avx512.mask.scalef.{name}.512"
    code.declarations[f"declare {kind} {function}({kind}, {kind}, {kind}, {mask}, i32)"] = None
    parts = []
    for first in range(0, code.lanes, lanes):
        picked = ", ".join(f"i32 {first + number}" for number in range(lanes))
        x, y = (
            code.let(f"shufflevector {whole} {code.text(v)}, {whole} poison, <{lanes} x i32> <{picked}>")
            for v in (p, n)
        )
        parts.append(
            code.let(f"call {kind} {function}({kind} {x}, {kind} {y}, {kind} {x}, {mask} -1, i32 4)")
        )
    while len(parts) > 1:
        picked = ", ".join(f"i32 {number}" for number in range(2 * lanes))
        kind = code.type(p.dtype, lanes)
        parts = [
            code.let(f"shufflevector {kind} {left}, {kind} {right}, <{2 * lanes} x i32> <{picked}>")
            for left, right in zip(parts[::2], parts[1::2], strict=True)
        ]
        lanes *= 2
    return Value(parts[0], p.dtype, code.lanes)


def _power(code: Code, n: Value, r: Value, form: _Format) -> Value:
    """2 to the power of n, times exp(r).

    Where processors make a subnormal number, or a zero of one, they take a hundred cycles. The bits of such a number count the
    least of them, so it is computed as that count: added to a number whose last place is one, it stands in its bits.
    """
    p = _exponential(code, r, form)
    low = code.compare("lt", n, code.constant(1.0 - form.bias, n.dtype))
    if not code.branches or code.lanes == 1:
        return _counted(code, p, n, low, form)
    some, none, join = (code.fresh(stem) for stem in ("some", "none", "join"))
    bits = code.let(f"bitcast {code.type('bool')} {low.name} to i{code.lanes}")
    code.line(f"br i1 {code.let(f'icmp ne i{code.lanes} {bits}, 0')}, label %{some}, label %{none}")
    code.label(some)
    counted = _counted(code, p, n, low, form)
    code.line(f"br label %{join}")
    code.label(none)
    usual = _scaled(code, p, n, form)
    code.line(f"br label %{join}")
    code.label(join)
    return code.make(
        f"phi {code.type(n.dtype)} [ {counted.name}, %{some} ], [ {usual.name}, %{none} ]", n.dtype
    )


def _counted(code: Code, p: Value, n: Value, low: Value, form: _Format) -> Value:
    """p times 2 to the power of n, by counting the least numbers where ``low``."""
    raised = code.add(n, code.constant(float(form.bias - 1 + form.mantissa), n.dtype))
    found = _scaled(code, p, code.select(low, raised, n), form)
    counted = code.add(found, code.constant(2.0**form.mantissa, n.dtype))
    bits = code.bitcast(code.select(low, counted, found), form.integer)
    before = code.constant((form.bias + form.mantissa) << form.mantissa, form.integer)
    return code.bitcast(code.select(low, code.subtract(bits, before), bits), n.dtype)


def exp(code: Code, x: Value) -> Value:
    """e to the power of x."""
    form = _FORMATS[x.dtype]
    n, r = _reduced(code, code.clamp(x, form.lowest, form.highest), form)
    return _power(code, n, r, form)


def exp2(code: Code, x: Value) -> Value:
    """2 to the power of x."""
    form = _FORMATS[x.dtype]
    x = code.clamp(x, form.lowest * LOG2_E, form.highest * LOG2_E)
    n = _nearest(code, x, 1.0, form)
    r = code.multiply(code.subtract(x, n), code.constant(math.log(2), x.dtype))
    return _power(code, n, r, form)


def expm1(code: Code, x: Value) -> Value:
    """e to the power of x, less 1: with q = exp(r) - 1 it is ``2**n * (q + (1 - 2**-n))``, and q itself near zero."""
    form = _FORMATS[x.dtype]
    lowest = -(form.mantissa + 3) * math.log(2)
    n, r = _reduced(code, code.clamp(x, lowest, form.highest), form)
    q = code.multiply_add(code.multiply(r, r), code.horner(r, form.exponential), r)
    # below the smallest power the term vanishes anyway
    limited = code.extremum("lt", code.constant(float(form.bias - 1), x.dtype), n)
    inverse = _power_of_two(code, _integer(code, code.negate(limited), form), x.dtype, form)
    found = _scaled(code, code.add(q, code.subtract(code.constant(1.0, x.dtype), inverse)), n, form)
    # of zeros the sign, and of subnormal numbers all digits
    tiny = code.compare("lt", code.absolute(x), code.constant(form.smallest, x.dtype))
    return code.select(tiny, x, found)


def _split(code: Code, x: Value, form: _Format) -> tuple[Value, Value]:
    """k, a whole number as a float, and log(m) with ``x = 2**k * m`` and m from sqrt(0.5) to sqrt(2), for finite x > 0."""
    subnormal = code.compare("lt", x, code.constant(form.smallest, x.dtype))
    shift = form.mantissa + 2
    x = code.select(subnormal, code.multiply(x, code.constant(2.0**shift, x.dtype)), x)
    bits = code.bitcast(x, form.integer)
    import numpy as np

    root = int(np.asarray(math.sqrt(0.5), x.dtype).view(form.integer))
    places = code.constant(form.mantissa, form.integer)
    k = code.binary("ashr", code.subtract(bits, code.constant(root, form.integer)), places)
    f = code.bitcast(code.subtract(bits, code.binary("shl", k, places)), x.dtype)
    f = code.subtract(f, code.constant(1.0, x.dtype))
    power = code.make(f"sitofp {code.type(form.integer)} {code.text(k)} to {code.type(x.dtype)}", x.dtype)
    power = code.select(subnormal, code.subtract(power, code.constant(float(shift), x.dtype)), power)
    half = code.multiply(code.multiply(f, f), code.constant(0.5, x.dtype))
    if x.dtype == "float32":
        cube = code.multiply(code.multiply(f, f), f)
        rest = code.subtract(code.multiply(cube, code.horner(f, form.logarithm)), half)
        return power, code.add(f, rest)
    s = code.divide(f, code.add(f, code.constant(2.0, x.dtype)))
    square = code.multiply(s, s)
    rest = code.multiply(square, code.horner(square, form.logarithm))
    # 2 * s is f - s * f, and s * f is half - s * half
    return power, code.subtract(f, code.subtract(half, code.multiply(s, code.add(half, rest))))


def _logarithm(code: Code, x: Value, per_unit: tuple[float, float], scale: float) -> Value:
    """``log(x) * scale``; ``per_unit`` is log(2) * scale in two parts."""
    form = _FORMATS[x.dtype]
    power, log = _split(code, x, form)
    if scale != 1.0:
        log = code.multiply(log, code.constant(scale, x.dtype))
    low = code.multiply_add(power, code.constant(per_unit[1], x.dtype), log)
    found = code.multiply_add(power, code.constant(per_unit[0], x.dtype), low)
    zero, infinity = code.constant(0.0, x.dtype), code.constant(math.inf, x.dtype)
    found = code.select(code.compare("eq", x, infinity), x, found)
    found = code.select(code.compare("eq", x, zero), code.constant(-math.inf, x.dtype), found)
    unordered = code.binary("fcmp ult", x, zero, "bool")
    return code.select(unordered, code.constant(math.nan, x.dtype), found)


def log(code: Code, x: Value) -> Value:
    """Natural logarithm: NaN below zero, -inf at zero."""
    return _logarithm(code, x, _FORMATS[x.dtype].ln2, 1.0)


def log2(code: Code, x: Value) -> Value:
    """Logarithm to base 2; exact for powers of 2."""
    return _logarithm(code, x, (1.0, 0.0), LOG2_E)


def log10(code: Code, x: Value) -> Value:
    """Logarithm to base 10."""
    parts = (0.30102539062, 4.605038981195214e-06) if x.dtype == "float32" else (math.log10(2), 0.0)
    return _logarithm(code, x, parts, 1 / math.log(10))


def log1p(code: Code, x: Value) -> Value:
    """Natural logarithm of 1 + x: that of the rounded sum, and what the rounding left out, divided by the sum."""
    one = code.constant(1.0, x.dtype)
    total = code.add(x, one)
    lost = code.subtract(x, code.subtract(total, one))
    found = code.add(log(code, total), code.divide(lost, total))
    special = code.compare("eq", total, code.constant(0.0, x.dtype))
    special = code.binary("or", special, code.compare("eq", x, code.constant(math.inf, x.dtype)))
    found = code.select(special, log(code, total), found)
    return code.select(code.compare("eq", x, code.constant(0.0, x.dtype)), x, found)


def tanh(code: Code, x: Value) -> Value:
    """Hyperbolic tangent.

    In float32 it is x times a quotient of polynomials in x squared, whose denominator is from 1 to 420; beyond the limit it is 1.
    In float64, with t = expm1(-2 * abs(x)), it is -t / (t + 2), with the sign of x.
    """
    if x.dtype == "float32":
        return _rational(code, x, _TANH_LIMIT, _TANH_NUMERATOR, _TANH_DENOMINATOR)
    t = expm1(code, code.multiply(code.absolute(x), code.constant(-2.0, x.dtype)))
    found = code.divide(code.negate(t), code.add(t, code.constant(2.0, x.dtype)))
    return code.intrinsic("copysign", x.dtype, found, x)


def erf(code: Code, x: Value) -> Value:
    """Error function in float32: x times a quotient of polynomials in x squared, whose denominator is from 1 to 2,000."""
    return _rational(code, x, 4.0, _NUMERATOR, _DENOMINATOR)


def _rational(
    code: Code, x: Value, limit: float, numerator: Sequence[float], denominator: Sequence[float]
) -> Value:
    """x times a quotient of polynomials in x squared, the constant terms first, from -1 to 1, which it reaches at the limit."""
    most = code.constant(limit * limit, x.dtype)
    square = code.extremum("lt", most, code.multiply(x, x))  # one comparison instead of two of x
    above, below = (code.horner(square, reversed(terms)) for terms in (numerator, denominator))
    # no infinity and no NaN of its own, for the range is known, so an estimate of the reciprocal may be used
    text = f"fdiv arcp afn {code.type(x.dtype)} {code.text(above)}, {code.text(below)}"
    return code.clamp(code.multiply(code.make(text, x.dtype), x), -1.0, 1.0)


def pow(code: Code, x: Value, y: Value) -> Value:
    """x to the power of y in float32, by way of float64. Special values as in C11, F.10.4.4."""
    x, y = code.convert(x, "float64"), code.convert(y, "float64")
    one, zero = code.constant(1.0, "float64"), code.constant(0.0, "float64")
    size = code.absolute(x)
    found = exp(code, code.multiply(y, log(code, size)))
    unit = code.binary("and", code.compare("eq", size, one), code.binary("fcmp ord", y, y, "bool"))
    found = code.select(unit, one, found)
    whole = code.compare("eq", code.intrinsic("floor", "float64", y), y)
    half = code.multiply(y, code.constant(0.5, "float64"))
    odd = code.binary("and", whole, code.compare("ne", code.intrinsic("floor", "float64", half), half))
    negative = code.compare("lt", code.bitcast(x, "int64"), code.constant(0, "int64"))
    minus = code.binary("and", negative, odd)
    found = code.select(minus, code.negate(found), found)
    lost = code.binary(
        "and", code.compare("lt", x, zero), code.binary("xor", whole, code.constant(True, "bool"))
    )
    infinite = code.compare("eq", size, code.constant(math.inf, "float64"))
    lost = code.binary("and", lost, code.binary("xor", infinite, code.constant(True, "bool")))
    found = code.select(lost, code.constant(math.nan, "float64"), found)
    trivial = code.binary("or", code.compare("eq", x, one), code.compare("eq", y, zero))
    return code.convert(code.select(trivial, one, found), "float32")


def reciprocal(code: Code, x: Value) -> tuple[Value, Value]:
    """Two factors instead of a divisor: a power of two, and the reciprocal of what is left of x, which is from 1 to 2.

    Multiplying by the first and then by the second overflows and vanishes where the quotient does, and has its infinities and NaN.
    """
    form = _FORMATS[x.dtype]
    bits = code.binary("lshr", code.bitcast(x, form.integer), code.constant(form.mantissa, form.integer))
    biased = code.binary("and", bits, code.constant(2 * form.bias + 1, form.integer))
    exponent = code.subtract(biased, code.constant(form.bias - 1, form.integer))
    most = form.bias - 2
    exponent = code.extremum("lt", exponent, code.constant(most, form.integer))
    exponent = code.extremum("gt", exponent, code.constant(-most, form.integer))
    power = _power_of_two(code, code.negate(exponent), x.dtype, form)
    return power, code.divide(code.constant(1.0, x.dtype), code.multiply(x, power))

"""Families of cases: what an op is tried with, made from the op's own cases. The ids are the same on every machine.

smoke  the op's own cases
core   smoke, and around one base case of each kind of number: every dtype of that kind, odd sizes, unusual values and,
       for NumPy arrays, unusual strides
full   core, and every own case with every dtype, value family and layout
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, product

import ml_dtypes

from opyard.cases import Case, Draw
from opyard.errors import OpyardError
from opyard.operation import Call, Op
from opyard.ops.gradients import differentiated
from opyard.region import Region
from opyard.spec import as_dtype
from opyard_conformance.backward import BACKWARD, can_be_checked
from opyard_conformance.contracts import CONTRACTS
from opyard_conformance.memory import LAYOUTS
from opyard_conformance.values import ELEMENTWISE_VALUES, FLOAT_VALUES, INTEGER_VALUES, Array, arrays_of

LEVELS = ("smoke", "core", "full")
TAILS = (1, 3, 7, 17, 31, 33, 1023)
"""Sizes around those at which vectorized and tiled code changes its path."""

FLOATS = ("float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
INTEGERS = ("int32", "int64", "int8", "int16", "uint8", "uint16", "uint32", "uint64", "int4", "uint4")
COMPLEX = ("complex64", "complex128")
LARGEST = 200_000
"""Most elements of an input of a derived case: references are slow."""

_PAIRS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    *(((3, 1), (1, 4)), ((1, 4), (3, 4)), ((3, 4), (1, 1)), ((2, 1, 3), (4, 1)), ((4,), (2, 3, 4))),
    *(((1,), ()), ((2, 1, 3, 1, 2), (1, 5, 1, 4, 1)), ((1, 0), (5, 1)), ((1023,), (1,))),
)
_SINGLES: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (2, 0, 3), (2, 1, 3, 1, 2))


@dataclass(frozen=True, slots=True)
class Trial:
    """A case, with the names of a value family, of a layout and of a contract, or empty ones.

    own     whether the op states the case
    number  tells apart cases that differ in the limits of their numbers alone
    region  what is computed instead of a call of an op, and ``name`` what it is called
    """

    case: Case
    values: str = ""
    layout: str = ""
    own: bool = False
    number: int = 1
    contract: str = ""
    region: Region | None = None
    name: str = ""

    @property
    def id(self) -> str:
        """A stable name, such as ``float32[3,4]-axis=0@nan@reversed``; ``#2`` tells apart cases that differ in limits."""
        families = [f"@{name}" for name in (self.values, self.layout, self.contract) if name]
        parts = [self.name, ":" if self.name else "", self.case.id, *families]
        return "".join([*parts, f"#{self.number}" if self.number > 1 else ""])

    def arrays(self, seed: int) -> tuple[Array | None, ...]:
        """The inputs: the same for the same seed, on every machine."""
        return arrays_of(self.case, self.values, seed)


def trials(op: Op, level: str = "core") -> Iterator[Trial]:
    """The trials of an op, those of lower levels first, each once. Raises KeyError for an unknown level."""
    sources = {"smoke": (_own,), "core": (_own, _core), "full": (_own, _core, _full)}[level]
    cases = list(op.cases())
    seen: dict[str, list[Trial]] = {}
    for source in sources:
        for trial in source(op, cases):
            twins = seen.setdefault(trial.id, [])
            if any(twin.case == trial.case for twin in twins):
                continue
            twins.append(trial)
            yield replace(trial, number=len(twins))


def call_of(op: Op, trial: Trial) -> Call:
    """The call that a trial makes. Raises SpecError when the op does not take it."""
    specs = [draw.spec if draw else None for draw in trial.case.inputs]
    return op.call(*specs, **trial.case.attributes)


def _own(op: Op, cases: list[Case]) -> Iterator[Trial]:
    return (Trial(case, own=True) for case in cases)


def _core(op: Op, cases: list[Case]) -> Iterator[Trial]:
    for number, base in enumerate(_bases(cases)):
        derived = [*_dtypes(base), *_sizes(base)]
        if op.scalar is not None:
            derived += _broadcasts(base)
        yield from (Trial(case) for case in derived if _fits(op, case))
        yield from (Trial(base, values=name) for name in _value_names(op, base))
        yield from (Trial(base, layout=name) for name in LAYOUTS)
        if number == 0:
            larger = next((c for c in _sizes(base, (1023, 33)) if _fits(op, c)), base)
            yield from (Trial(larger if name == "threads" else base, contract=name) for name in CONTRACTS)
    yield from (Trial(case, contract=BACKWARD) for case in islice(_smooth(op, cases), 1))
    for other in islice((c for c in cases if _kind(c) == "float" and c.attributes), 1, 4):
        yield from (Trial(other, values=name) for name in _value_names(op, other))


def _smooth(op: Op, cases: list[Case]) -> Iterator[Case]:
    """The cases in float64, for differences of the numbers that ops with a gradient give."""
    if differentiated(op) in ("zero", "none"):
        return
    for case in (c for c in cases if _kind(c) in ("float", "")):
        wide = Case(
            tuple(d and _as(d, "float64") if d and d.dtype in FLOATS else d for d in case.inputs),
            case.attributes,
        )
        if _fits(op, wide) and can_be_checked(call_of(op, Trial(wide))):
            yield wide


def _full(op: Op, cases: list[Case]) -> Iterator[Trial]:
    for case in cases:
        variants = [case, *(c for c in (*_dtypes(case), *_sizes(case)) if _fits(op, c))]
        for variant in variants:
            for values, layout in product(("", *_value_names(op, variant)), ("", *LAYOUTS)):
                yield Trial(variant, values, layout)


def _kind(case: Case) -> str:
    """What the arrays of a case hold that are no booleans: "float", "integer", "complex", or "" for a mixture or nothing."""
    names = {draw.dtype for draw in case.inputs if draw is not None} - {"bool"}
    if len(names) != 1:
        return ""
    (name,) = names
    for kind, members in (("float", FLOATS), ("integer", INTEGERS), ("complex", COMPLEX)):
        if name in members:
            return kind
    return ""


def _bases(cases: Iterable[Case]) -> list[Case]:
    """The first case of each kind with more than one element, of moderate size and of rank one or more."""
    found: dict[str, Case] = {}
    for case in cases:
        shapes = [draw.shape for draw in case.inputs if draw is not None]
        sizes = [math.prod(shape) for shape in shapes]
        if _kind(case) and sizes and all(shapes) and min(sizes) > 0 and 1 < max(sizes) <= 10_000:
            found.setdefault(_kind(case), case)
    mixed = next((c for c in cases if not _kind(c) and any(d and d.dtype in FLOATS for d in c.inputs)), None)
    return [*found.values(), *([mixed] if mixed else [])]


def _dtypes(base: Case) -> Iterator[Case]:
    """The case in every other dtype of its kind; divisors and exponents keep their signs."""
    members = {"float": FLOATS, "integer": INTEGERS, "complex": COMPLEX}.get(_kind(base), ())
    for name in members:
        changed = tuple(_as(draw, name) for draw in base.inputs)
        if changed != base.inputs:
            yield Case(changed, base.attributes)


def _as(draw: Draw | None, name: str) -> Draw | None:
    if draw is None or draw.dtype in ("bool", name):
        return draw
    if name not in INTEGERS:
        return replace(draw, dtype=name)
    limits = ml_dtypes.iinfo(as_dtype(name))
    low = 1 if limits.min == 0 and draw.low < 0 else max(draw.low, int(limits.min))
    high = min(draw.high, int(limits.max))
    return replace(draw, dtype=name, low=min(low, high), high=high)


def _sizes(base: Case, sizes: tuple[int, ...] = (*TAILS, 0)) -> Iterator[Case]:
    """The case with one of its sizes replaced, everywhere alike, by odd ones and by zero."""
    if not _kind(base):  # indices among the inputs would leave their range
        return
    draws = [draw for draw in base.inputs if draw is not None]
    for old in dict.fromkeys(n for draw in draws for n in draw.shape if n > 1):
        for new in sizes:
            changed = tuple(
                draw and _resized(draw, tuple(new if n == old else n for n in draw.shape), len(draws) == 1)
                for draw in base.inputs
            )
            if new != old and all(math.prod(draw.shape) <= LARGEST for draw in changed if draw):
                yield Case(changed, base.attributes)


def _resized(draw: Draw, shape: tuple[int, ...], alone: bool) -> Draw:
    """The draw in another shape. Long arrays of floats become positive where they are the only input: sums of them that
    come near zero by cancellation say little, while products of two such arrays would grow."""
    default = Draw(())
    around_zero = draw.dtype in FLOATS and (draw.low, draw.high) == (default.low, default.high)
    if alone and around_zero and max(shape, default=0) > 100:
        return replace(draw, shape=shape, low=0.5)
    return replace(draw, shape=shape)


def _broadcasts(base: Case) -> Iterator[Case]:
    """Elementwise ops take any shapes: without dimensions, without elements, with five, and broadcast in every direction."""
    given = [draw for draw in base.inputs if draw is not None]
    if len(given) != len(base.inputs) or len(given) > 2:
        return
    if len(given) == 1:
        yield from (Case((replace(given[0], shape=shape),), base.attributes) for shape in _SINGLES)
        return
    for left, right in _PAIRS:
        inputs = (replace(given[0], shape=left), replace(given[1], shape=right))
        yield Case(inputs, base.attributes)


def _fits(op: Op, case: Case) -> bool:
    """Whether the op takes the case."""
    try:
        op.call(*(draw.spec if draw else None for draw in case.inputs), **case.attributes)
    except OpyardError:
        return False
    return True


def _value_names(op: Op, base: Case) -> tuple[str, ...]:
    if any(draw is not None and draw.dtype in FLOATS for draw in base.inputs):
        return (*FLOAT_VALUES, *(ELEMENTWISE_VALUES if op.scalar is not None else ()))
    return tuple(INTEGER_VALUES) if _kind(base) == "integer" else ()

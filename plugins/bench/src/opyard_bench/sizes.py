"""Which calls to time: the cases of an op, scaled to sizes worth timing, or the sizes that the user names."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from opyard.cases import Case, Cost
from opyard.errors import OpyardError, SpecError
from opyard.operation import Call, Op
from opyard.spec import TensorSpec, as_dtype

SMALL, MEDIUM, LARGE = Cost(1 << 20, 1 << 16), Cost(1 << 26, 1 << 22), Cost(1 << 31, 1 << 26)
"""The most work of a call of each size: arithmetic operations, and bytes."""

MOST_FACTOR = 1 << 24
GROWTH = 4.0
"""A scaling is one if it makes the bytes of a case at least this many times as many."""

_FLOATS = ("float32",)
_SIZED = ("shape", "sizes")
"""Attributes that hold sizes, which grow with those of the inputs."""


def call_of(op: Op, case: Case) -> Call:
    """The call that a case makes. Raises SpecError where the op cannot take it."""
    return op.call(*(draw.spec if draw else None for draw in case.inputs), **case.attributes)


def scaled_cases(op: Op, limits: Sequence[Cost], dtypes: Sequence[str]) -> Iterator[Case]:
    """For each dtype and each limit the first case of the op that can be scaled to it.

    An op none of whose cases can be scaled gives its first case as it is. Without ``dtypes`` the cases keep their own.
    """
    for dtype in dtypes or ("",):
        cases = [case for case in (_with_dtype(op, c, dtype) for c in op.cases()) if case is not None]
        found = next((made for made in (_ladder(op, case, limits) for case in cases) if made), cases[:1])
        yield from found


def _ladder(op: Op, case: Case, limits: Sequence[Cost]) -> list[Case]:
    """The case in each of the sizes; empty if it cannot be scaled."""
    for labels in _label_sets(case):
        made = [_largest(op, case, labels, limit) for limit in limits]
        found = list({m.id: m for m in made if m is not None}.values())
        if found:
            return found
    return []


def _label_sets(case: Case) -> Iterator[frozenset[int]]:
    """Sets of sizes to scale together, the likeliest first. Equal sizes are taken for the same size.

    Images grow in height and width; everything else in all sizes, or in one alone.
    """
    shapes = [draw.shape for draw in case.inputs if draw is not None]
    named = [case.attributes[name] for name in _SIZED if isinstance(case.attributes.get(name), tuple)]
    every = sorted({n for shape in (*shapes, *named) for n in shape if isinstance(n, int) and n > 1})
    if shapes and len(shapes[0]) >= 4:
        yield frozenset(n for n in shapes[0][2:] if n > 1)
    yield frozenset(every)
    yield from (frozenset([n]) for n in reversed(every))


def _largest(op: Op, case: Case, labels: frozenset[int], limit: Cost) -> Case | None:
    """The case with its sizes times the greatest power of two that keeps within the limit."""
    best, factor = None, 2
    try:
        first = call_of(op, case).bytes
        while labels and factor <= MOST_FACTOR:
            made = _scaled(case, labels, factor)
            call = call_of(op, made)
            if call.cost.bytes > limit.bytes or call.cost.flops > limit.flops or call.bytes > 4 * limit.bytes:
                break
            if call.bytes >= GROWTH * first:
                best = made
            factor *= 2
    except (OpyardError, ArithmeticError):  # such sizes do not go together
        return best
    return best


def _scaled(case: Case, labels: frozenset[int], factor: int) -> Case:
    def grown(shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(n * factor if n in labels else n for n in shape)

    inputs = tuple(draw and replace(draw, shape=grown(draw.shape)) for draw in case.inputs)
    attributes = {
        name: grown(value) if name in _SIZED and isinstance(value, tuple) else value
        for name, value in case.attributes.items()
    }
    return Case(inputs, attributes)


def _with_dtype(op: Op, case: Case, dtype: str) -> Case | None:
    """The case with ``dtype`` in the place of float32; None where the op cannot take it so, or it has no float32."""
    if not dtype:
        return case
    if not any(draw and draw.dtype in _FLOATS for draw in case.inputs):
        return None
    inputs = tuple(
        replace(draw, dtype=dtype) if draw and draw.dtype in _FLOATS else draw for draw in case.inputs
    )
    made = Case(inputs, case.attributes)
    try:
        call_of(op, made)
    except OpyardError:
        return None
    return made


# Sizes by name --------------------------------------------------------------------------------------------------


def parse_shapes(text: str) -> dict[str, tuple[int, ...]]:
    """``m=256:4096:x2,k=512`` as the values of each name: a number, or from a first to a last by a factor.

    A number may be written as a power, ``2^20``. Raises SpecError for anything else.
    """
    found: dict[str, tuple[int, ...]] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+)=([\d^]+)(?::([\d^]+):x(\d+))?\s*", part)
        if match is None:
            raise SpecError(
                f"--shapes {part!r} is no size; write a name and a number or a range with a factor, such as 'm=256:4096:x2,k=512'."
            )
        first = _number(match[2], part)
        last = _number(match[3], part) if match[3] else first
        step = int(match[4] or 2)
        if step < 2 or not 0 < first <= last:
            raise SpecError(
                f"--shapes {part!r} names no sizes: the first must be positive and at most the last, and the factor at least 2."
            )
        found[match[1]] = _powers(first, last, step)
    return found


def _powers(first: int, last: int, factor: int) -> tuple[int, ...]:
    values = [first]
    while values[-1] * factor <= last:
        values.append(values[-1] * factor)
    return tuple(values)


def _number(text: str, part: str) -> int:
    match = re.fullmatch(r"(\d{1,9})(?:\^(\d{1,2}))?", text)
    if match is None:
        raise SpecError(f"--shapes {part!r}: {text!r} is no number; write 1024 or 2^10.")
    base, power = int(match[1]), int(match[2] or 1)
    return int(base**power)


def size_names(op: Op) -> list[list[str]] | None:
    """The names of the sizes of each input, as the description of the op writes them; None where it does not.

    ``[..., m, k], [..., k, n] -> [..., m, n]`` gives [["m", "k"], ["k", "n"]]; an input of any shape, ``[...]``, has
    one size ``n``.
    """
    for form in re.findall(r"``([^`]+?) -> ", op.doc):
        texts = re.findall(r"\[([^\[\]]*)\]", form)
        inputs = [
            [name.strip() for name in text.split(",") if name.strip() != "..."] or ["n"] for text in texts
        ]
        if (
            inputs
            and len(inputs) <= len(op.signature.inputs)
            and all(n.isidentifier() for i in inputs for n in i)
        ):
            return inputs
    return None


def named_calls(op: Op, shapes: Mapping[str, Sequence[int]], dtypes: Sequence[str]) -> Iterator[Call]:
    """A call for each combination of the sizes, and each dtype; float32 unless the cases of the op say otherwise.

    Raises SpecError where the op does not name its sizes, or names one that is not given.
    """
    names = size_names(op)
    if names is None:
        raise SpecError(
            f"--shapes cannot be used with {op.name}: its description does not name the sizes of its inputs. Leave --shapes out to time its cases, scaled."
        )
    used = list(dict.fromkeys(name for row in names for name in row))
    missing = [name for name in used if name not in shapes]
    if missing:
        raise SpecError(
            f"--shapes lacks {', '.join(missing)}: the sizes of {op.name} are {', '.join(used)}. Write for example --shapes {','.join(f'{n}=256' for n in used)}."
        )
    for dtype in dtypes or ("float32",):
        for values in itertools.product(*(shapes[name] for name in used)):
            sizes = dict(zip(used, values, strict=True))
            specs = [
                TensorSpec([sizes[n] for n in row], _dtype_at(op, position, dtype))
                for position, row in enumerate(names)
            ]
            yield op.call(*specs)


def _dtype_at(op: Op, position: int, wanted: str) -> str:
    """The dtype wanted, unless this input takes integers or booleans, such as labels."""
    first: Any = next(iter(op.cases()), None)
    draw = first.inputs[position] if first is not None and position < len(first.inputs) else None
    return wanted if draw is None or as_dtype(draw.dtype).kind not in "biu" else str(draw.dtype)

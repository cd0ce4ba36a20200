"""Programs of elementwise kernels.

Where an implementation compiles a kernel when it is first started, most of what a program costs does not depend on the number
of its kernels. So one program has the kernels of all standard ops that take and give the same dtypes, and any other
expression has one program for all its ways to broadcast. Elsewhere each kernel has a program of its own.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

from opyard.errors import SpecError
from opyard.ops import STANDARD
from opyard.spec import TensorSpec
from opyard_codegen import OPENCL
from opyard_codegen.elementwise import Body, Entry, body_of, program
from opyard_codegen.expressions import has_expression

from .expressions import is_wide
from .formats import enabled

_MOST_INPUTS = 3  # of an expression whose ways to broadcast are all printed

Way = tuple[tuple[int, ...], bool]
"""Strides of the inputs along a row, and whether there is one row alone."""


@lru_cache(maxsize=1024)
def kernel(
    body: Body, strides: tuple[int, ...], flat: bool, grid: bool, shared: bool, lanes: int
) -> tuple[str, str]:
    """The program and the name of the kernel that computes ``body``, see Entry.

    shared  whether the program may have other kernels, too
    lanes   elements that are computed at once, see Entry
    """
    way = strides, flat
    if shared and not grid and len(set(body.dtypes[0])) == 1:
        text, known = _standard(*body.dtypes)
        if body in known:
            return text, _named(known[body], way)
    several = shared and not grid and len(strides) <= _MOST_INPUTS
    ways = _ways(len(strides)) if several else [way]
    entries = [Entry(_named("elementwise", own), body, *own, grid, lanes) for own in ways]
    return _program(entries), _named("elementwise", way)


@lru_cache(maxsize=64)
def _standard(dtypes: tuple[str, ...], targets: tuple[str, ...]) -> tuple[str, dict[Body, str]]:
    """The program of the standard ops with these dtypes, and what it computes: the name of an op by body."""
    named: dict[Body, str] = {}
    for op in (function.op for _, function in sorted(STANDARD.items())):
        if not has_expression(op) or len(op.signature.inputs) != len(dtypes):
            continue
        try:  # attributes are those that the op has by default
            call = op.call(*(TensorSpec((), dtype) for dtype in dtypes))
            body = body_of(call)
        except SpecError:
            continue  # not for these dtypes, or not without attributes
        wide = is_wide(body.steps[0][1]) and "float64" not in (*dtypes, *targets)
        if body.dtypes == (dtypes, targets) and not wide:
            named.setdefault(body, op.name)
    entries = [
        Entry(_named(name, way), body, *way) for body, name in named.items() for way in _ways(len(dtypes))
    ]
    return _program(entries) if entries else "", named


def _ways(inputs: int) -> list[Way]:
    """Strides and flatness of all kernels that an expression can need."""
    strides = [found for found in product((1, 0), repeat=inputs) if any(found)]
    return [(found, True) for found in strides] + [(found, False) for found in strides if inputs > 1]


def _named(stem: str, way: Way) -> str:
    strides, flat = way
    return f"{stem}_{'flat' if flat else 'rows'}_{''.join(map(str, strides))}"


def _program(entries: list[Entry]) -> str:
    wide = any(
        "float64" in (*entry.body.dtypes[0], *entry.body.dtypes[1])
        or any(is_wide(term) for _, term in entry.body.steps)
        for entry in entries
    )
    return enabled(wide) + program(OPENCL, entries)

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

from .codegen import Unprintable, variable
from .expressions import body_of, compute_of, has_expression, inputs_of
from .formats import FORMATS, functions, prelude

_MOST_INPUTS = 3  # of an expression whose ways to broadcast are all printed


@lru_cache(maxsize=1024)
def kernel(
    names: tuple[str, ...],
    dtypes: tuple[str, ...],
    target: str,
    compute: str,
    body: str,
    steps: tuple[int, ...],
    flat: bool,
    shared: bool,
) -> tuple[str, str]:
    """The program and the name of the kernel that computes ``body``, OpenCL C over inputs of these names and dtypes.

    steps   the inputs' strides along a row, 0 or 1: known to the compiler, it can use vectors
    flat    whether there is one row alone
    shared  whether the program may have other kernels, too
    """
    if shared and len(set(dtypes)) == 1:
        text, entries = _standard(dtypes, target, compute)
        if (names, body) in entries:
            return text, _named(entries[names, body], steps, flat)
    ways = _ways(len(names)) if shared and len(names) <= _MOST_INPUTS else [(steps, flat)]
    texts = (_text("elementwise", names, target, body, *way) for way in ways)
    return _head(dtypes, target, compute) + "".join(texts), _named("elementwise", steps, flat)


@lru_cache(maxsize=64)
def _standard(
    dtypes: tuple[str, ...], target: str, compute: str
) -> tuple[str, dict[tuple[tuple[str, ...], str], str]]:
    """The program of the standard ops with these dtypes, and what it computes: names of inputs and body, by op."""
    entries: dict[tuple[tuple[str, ...], str], str] = {}
    texts = [_head(dtypes, target, compute)]
    for op in (function.op for _, function in sorted(STANDARD.items())):
        if not has_expression(op) or len(op.signature.inputs) != len(dtypes):
            continue
        try:
            call = op.call(
                *(TensorSpec((), dtype) for dtype in dtypes)
            )  # its attributes are those it has by default
            if call.output.dtype.name != target or compute_of(call) != compute:
                continue
            body = body_of(call, compute)
        except (SpecError, Unprintable):
            continue  # not for these dtypes, or not without attributes
        names = tuple(name for name, _ in inputs_of(call))
        if (names, body) not in entries:
            entries[names, body] = op.name
            texts += (_text(op.name, names, target, body, *way) for way in _ways(len(names)))
    return "".join(texts), entries


def _ways(inputs: int) -> list[tuple[tuple[int, ...], bool]]:
    """Steps and flatness of all kernels that an expression can need."""
    steps = [found for found in product((1, 0), repeat=inputs) if any(found)]
    return [(found, True) for found in steps] + [(found, False) for found in steps if inputs > 1]


def _named(stem: str, steps: tuple[int, ...], flat: bool) -> str:
    return f"{stem}_{'flat' if flat else 'rows'}_{''.join(map(str, steps))}"


def _head(dtypes: tuple[str, ...], target: str, compute: str) -> str:
    ports = {f"P{i}": FORMATS[dtype] for i, dtype in enumerate(dtypes)}
    return prelude(compute, None, **ports, OUT=FORMATS[target]) + functions()


def _text(
    stem: str, names: tuple[str, ...], target: str, body: str, steps: tuple[int, ...], flat: bool
) -> str:
    """The text of one kernel."""
    parameters = [f"global const P{i} *restrict p{i}" for i in range(len(names))]
    parameters.append("global OUT *restrict out")
    places = [("o{i}" if step == 0 else "o{i} + i").format(i=i) for i, step in enumerate(steps)]
    reads = [
        f"const T {variable(name)} = (T)LOAD_P{i}(p{i}, {place});"
        for i, (name, place) in enumerate(zip(names, places, strict=True))
    ]
    fixed = [read for read, step in zip(reads, steps, strict=True) if not step]
    moving = [read for read, step in zip(reads, steps, strict=True) if step]
    # a truth value is asked of the number itself: conversion to an integer first would lose 0.5
    result = body if FORMATS[target].kind == "b" else f"({FORMATS[target].compute})({body})"
    return (_FLAT if flat else _ROWS).format(
        name=_named(stem, steps, flat),
        parameters=", ".join(parameters),
        starts="".join(f", o{i} = 0" for i in range(len(names))),
        advance="\n            ".join(
            f"o{i} += index * table[{i + 1} * rank + axis];" for i in range(len(names))
        ),
        fixed="\n        ".join(fixed),
        moving="\n            ".join(moving),
        result=result,
    )


_FLAT = """
kernel void {name}({parameters}, long count, long step) {{
    const long first = get_global_id(0) * step, last = min(first + step, count), o = 0{starts};
    if (first < count) {{
        {fixed}
        for (long i = first; i < last; i++) {{
            {moving}
            STORE_OUT(out, o + i, {result});
        }}
    }}
}}
"""

_ROWS = """
kernel void {name}({parameters}, long rows, long width, long step, int rank, global const long *restrict table) {{
    const long first = get_global_id(0) * step, last = min(first + step, rows);
    for (long r = first; r < last; r++) {{
        long rest = r, o = r * width{starts};
        for (int axis = rank - 1; axis >= 0; axis--) {{
            const long index = rest % table[axis];
            rest /= table[axis];
            {advance}
        }}
        {fixed}
        for (long i = 0; i < width; i++) {{
            {moving}
            STORE_OUT(out, o + i, {result});
        }}
    }}
}}
"""

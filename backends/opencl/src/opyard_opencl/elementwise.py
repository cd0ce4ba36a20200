"""Kernels of elementwise ops, generated from their scalar expressions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call
from opyard.scalar import Scalar
from opyard.spec import TensorSpec, promote

from .array import Array
from .codegen import Unprintable, expression, variable
from .device import OpenCLDevice
from .formats import FORMATS, functions, prelude, refusal
from .launch import Launch, exact, partition, table
from .layout import broadcast_strides, collapsed, sizes_of

_GRAIN = 4096  # elements: about a microsecond of the simplest operation
_LONGS = np.int64


def accepts(call: Call, device: Device) -> str | None:
    """Why the expression of the call's op cannot be generated for its dtypes, or None."""
    reason = refusal(call, device)
    if reason is not None:
        return reason
    try:
        _body(call, _compute(call))
    except Unprintable as error:
        return str(error)
    return None


@exact
def prepare(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs an op with a scalar expression. See ``prepare_expression``."""
    return prepare_expression(call, device, _body(call, _compute(call)))


def prepare_expression(call: Call, device: OpenCLDevice, body: str) -> Callable[..., Array]:
    """A function that computes ``body``, OpenCL C over the variables of the inputs, for each element of the output.

    Inputs broadcast. Where every input has the output's shape, or one element, the elements are numbered through;
    else rows of the last axes are run through, whose places are worked out from a table of sizes and strides.
    """
    output = call.output
    shape = sizes_of(output)
    names = tuple(name for name, spec in _inputs(call))
    specs = tuple(spec for _, spec in _inputs(call))
    sizes, strides = collapsed(shape, [broadcast_strides(shape, sizes_of(spec)) for spec in specs])
    width, steps = sizes[-1], tuple(own[-1] for own in strides)
    rows = math.prod(sizes[:-1])
    source = _source(
        *(names, tuple(spec.dtype.name for spec in specs), output.dtype.name),
        *(_compute(call), body, steps, len(sizes) == 1),
    )
    if len(sizes) == 1:
        items, step = partition(device, width, _GRAIN)
        bound: tuple[Any, ...] = (_LONGS(width), _LONGS(step))
    else:
        items, step = partition(device, rows, max(1, _GRAIN // max(1, width)))
        values = [*sizes[:-1], *(s for own in strides for s in own[:-1])]
        bound = (_LONGS(rows), _LONGS(width), _LONGS(step), np.int32(len(sizes) - 1), table(device, values))
    launch = Launch(device, source, "elementwise", items, bound) if width * rows else None
    given = tuple(spec is not None for spec in call.inputs)

    def run(*arrays: Array, out: Array | None = None) -> Array:
        result = device.empty(output) if out is None else out
        if launch is not None:
            launch(*(array for array, there in zip(arrays, given, strict=False) if there), result)
        return result

    return run


def _inputs(call: Call) -> list[tuple[str, TensorSpec]]:
    """Names and specs of the inputs that are given."""
    return [
        (name, spec)
        for name, spec in zip(call.op.signature.inputs, call.inputs, strict=True)
        if spec is not None
    ]


def _compute(call: Call) -> str:
    """The type to compute in: that of the inputs' common dtype."""
    common = promote(*(spec.dtype for spec in call.inputs if spec is not None))
    return FORMATS[common.name].compute


def _body(call: Call, compute: str) -> str:
    truth = frozenset(name for name, spec in _inputs(call) if spec.dtype.kind == "b")
    return expression(_scalar(call), compute, call.attrs, truth)


def _scalar(call: Call) -> Scalar:
    """The op's own expression, or the one that stands here for the inputs and attributes given."""
    if call.op.scalar is not None:
        return call.op.scalar
    return _parsed(_EXPRESSIONS[call.op.name](call), call.op.signature.inputs)


@lru_cache(maxsize=64)
def _parsed(text: str, names: tuple[str, ...]) -> Scalar:
    return Scalar(text, names)


def _clip(call: Call) -> str:
    """NaN in any input gives NaN. The functions min and max cannot be called: inputs have their names."""
    _, low, high = call.inputs
    text = "x" if low is None else "(x if x >= min or x != x else min)"
    return text if high is None else f"({text} if {text} <= max or {text} != {text} else max)"


def _gelu(call: Call) -> str:
    if call.attrs["approximate"] == "tanh":
        return "0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))"
    return "0.5 * x * (1 + erf(x * 0.7071067811865476))"


def _nan_to_num(call: Call) -> str:
    """NaN and infinities replaced; left out they become the greatest and the least number of the dtype."""
    import ml_dtypes  # its finfo knows bfloat16

    limits, given = ml_dtypes.finfo(call.output.dtype), call.attrs
    above = float(limits.max) if given["posinf"] is None else float(given["posinf"])
    below = float(limits.min) if given["neginf"] is None else float(given["neginf"])
    bounded = f"({above!r} if isinf(x) and x > 0 else ({below!r} if isinf(x) else x))"
    return f"({float(given['nan'])!r} if isnan(x) else {bounded})"


def _nextafter(call: Call) -> str:
    if call.output.dtype.itemsize < 4:
        raise Unprintable(
            f"steps from one float32 or float64 to the next, not between those of {call.output.dtype.name}"
        )
    return "nextafter(x1, x2)"


_EXPRESSIONS: dict[str, Callable[[Call], str]] = {
    "cast": lambda call: "x",
    "clip": _clip,
    "gelu": _gelu,
    "nan_to_num": _nan_to_num,
    "nextafter": _nextafter,
}
"""Ops that are elementwise without one expression for all their calls."""


@lru_cache(maxsize=1024)
def _source(
    names: tuple[str, ...],
    dtypes: tuple[str, ...],
    target: str,
    compute: str,
    body: str,
    steps: tuple[int, ...],
    flat: bool,
) -> str:
    """The program; ``steps`` are the inputs' strides along a row, 0 or 1: known to the compiler, it can use vectors."""
    ports = {f"P{i}": FORMATS[dtype] for i, dtype in enumerate(dtypes)}
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
    template = _FLAT if flat else _ROWS
    text = template.format(
        parameters=", ".join(parameters),
        starts="".join(f", o{i} = 0" for i in range(len(names))),
        advance="\n            ".join(
            f"o{i} += index * table[{i + 1} * rank + axis];" for i in range(len(names))
        ),
        fixed="\n        ".join(fixed),
        moving="\n            ".join(moving),
        result=result,
    )
    return prelude(compute, None, **ports, OUT=FORMATS[target]) + functions() + text


_FLAT = """
kernel void elementwise({parameters}, long count, long step) {{
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
kernel void elementwise({parameters}, long rows, long width, long step, int rank, global const long *restrict table) {{
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

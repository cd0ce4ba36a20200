"""Reductions over any axes: sum, mean, prod, min, max, any, all, argmin, argmax, global pooling.

The axes are brought into the form ``[outer, length, width]``, reduced over ``length``: one pass for each run of reduced
axes, and two where a long axis is cut into chunks so that all workers have work.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from opyard.infer import normalize_axes
from opyard.operation import Call
from opyard.spec import TensorSpec

from .array import Array
from .device import OpenCLDevice
from .formats import FORMATS, format_of, program_of_parts
from .launch import Launch, Single, exact, partition
from .layout import sizes_of

_COLUMNS = 64  # as in kernels/reduce.cl
_CHUNK = 1 << 14  # elements: the least that is worth another pass
_GRAIN = 4096  # elements for each work item
_LONGS = np.int64

_SUM = {
    "START": "((T)0)",
    "COMBINE(a, b)": "((T)((a) + (b)))",
    "MAP(v)": "((T)(v))",
    "FINISH(v, count)": "(v)",
}
_TRUTH = {"MAP(v)": "((T)((v) != 0))", "FINISH(v, count)": "(v)"}
_MACROS: dict[str, dict[str, Any]] = {
    "sum": _SUM,
    "mean": {**_SUM, "FINISH(v, count)": "((v) / (T)(count))"},
    "prod": {**_SUM, "START": "((T)1)", "COMBINE(a, b)": "((T)((a) * (b)))"},
    "max": {**_SUM, "START": "T_LEAST", "COMBINE(a, b)": "greatest_of(a, b)"},
    "min": {**_SUM, "START": "T_GREATEST", "COMBINE(a, b)": "least_of(a, b)"},
    "any": {**_TRUTH, "START": "((T)0)", "COMBINE(a, b)": "((T)((a) | (b)))"},
    "all": {**_TRUTH, "START": "((T)1)", "COMBINE(a, b)": "((T)((a) & (b)))"},
}
_FAMILIES = (("sum", "mean", "prod", "max", "min"), ("any", "all"))
"""Kinds whose kernels take and give the same dtypes."""
_BETTER = {"argmax": "((a) > (b))", "argmin": "((a) < (b))"}
_SAME_AS = {"global_average_pool": "mean", "global_max_pool": "max"}
_INTERMEDIATE = {
    found.compute: name
    for name, found in FORMATS.items()
    if found.storage == found.compute and found.kind != "b"
}


@dataclass(frozen=True, slots=True)
class _Pass:
    """One launch: ``[outer, length, width] -> [outer, chunks, width]``."""

    outer: int
    length: int
    width: int
    chunks: int

    @property
    def outputs(self) -> int:
        return self.outer * self.chunks * self.width


@exact
def prepare(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs a reduction in one launch for each pass; its last pass writes the output."""
    spec = call.inputs[0]
    assert spec is not None
    kind = _SAME_AS.get(call.op.name, call.op.name)
    axes = _axes(call, spec)
    passes = _passes(_runs(sizes_of(spec), axes), device)
    count = math.prod(sizes_of(spec)[axis] for axis in axes)
    compute = "uchar" if kind in ("any", "all") else format_of(call.output).compute
    middle = _INTERMEDIATE[compute]
    launches = []
    for number, step in enumerate(passes):
        last = number == len(passes) - 1
        source = spec if number == 0 else TensorSpec((), middle)
        target = call.output if last else TensorSpec((step.outputs,), middle)
        part = kind if last or kind != "mean" else "sum"
        text = program_of_parts(
            "reduce", compute, _parts(device, part, compute), X=format_of(source), OUT=format_of(target)
        )
        launches.append((_launch(device, text, part, step, count), target))
    if len(launches) == 1:
        return Single(device, call.output, launches[0][0])

    def run(x: Array, *, out: Array | None = None) -> Array:
        for launch, target in launches:
            result = out if out is not None and target is call.output else device.empty(target)
            if launch is not None:
                launch(x, result)
            x = result
        return x

    return run


@exact
def prepare_position(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs argmax or argmin."""
    spec = call.inputs[0]
    assert spec is not None
    sizes, axis = sizes_of(spec), call.attrs["axis"]
    if axis is None:
        outer, length, width = 1, math.prod(sizes), 1
    else:
        place = axis % len(sizes)
        outer, length, width = math.prod(sizes[:place]), sizes[place], math.prod(sizes[place + 1 :])
    found = format_of(spec)
    names = tuple(_BETTER) if device.quirks.compiles_late else (call.op.name,)
    parts = {name: {"BETTER(a, b)": _BETTER[name]} for name in names}
    text = program_of_parts("position", found.compute, parts, X=found)
    units = outer * width
    items, step = partition(device, units, max(1, _GRAIN // length))
    launch = (
        Launch(
            device,
            text,
            f"find_position_{call.op.name}",
            items,
            tuple(map(_LONGS, (units, length, width, step))),
        )
        if units
        else None
    )
    return Single(device, call.output, launch)


def _parts(device: OpenCLDevice, kind: str, compute: str) -> dict[str, dict[str, Any]]:
    """The macros of a kind of reduction, and of those that its program may have beside it, by kind."""
    family = next(found for found in _FAMILIES if kind in found)
    return {
        found: {
            **_MACROS[found],
            "COMPENSATED": int(found in ("sum", "mean") and compute in ("float", "double")),
        }
        for found in (family if device.quirks.compiles_late else (kind,))
    }


def _launch(device: OpenCLDevice, text: str, kind: str, step: _Pass, count: int) -> Launch | None:
    if not step.outputs:
        return None
    rows = step.width == 1
    chunk = -(-step.length // step.chunks)
    units = step.outer * step.chunks * (1 if rows else -(-step.width // _COLUMNS))
    work = max(1, chunk * min(step.width, _COLUMNS))
    items, each = partition(device, units, max(1, _GRAIN // work))
    bound = (units, step.length, step.width, step.chunks, chunk, each, count)
    name = f"{'reduce_rows' if rows else 'reduce_columns'}_{kind}"
    return Launch(device, text, name, items, tuple(map(_LONGS, bound)))


def _axes(call: Call, spec: TensorSpec) -> tuple[int, ...]:
    """The axes that a call reduces, counted from the front."""
    if call.op.name in _SAME_AS:
        return tuple(range(2, spec.ndim))
    return normalize_axes(call.attrs["axis"], spec.ndim)


def _runs(sizes: tuple[int, ...], axes: tuple[int, ...]) -> list[tuple[int, bool]]:
    """Neighbouring axes that are all reduced, or all kept, as one: its size, and whether it is reduced."""
    runs: list[tuple[int, bool]] = []
    for axis, size in enumerate(sizes):
        reduced = axis in axes
        if size == 1:
            continue
        if runs and runs[-1][1] == reduced:
            runs[-1] = (runs[-1][0] * size, reduced)
        else:
            runs.append((size, reduced))
    return runs


def _passes(runs: list[tuple[int, bool]], device: OpenCLDevice) -> list[_Pass]:
    """The launches for runs of axes: the last run of reduced axes first."""
    passes: list[_Pass] = []
    left = list(runs)
    while any(reduced for _, reduced in left):
        place = max(i for i, (_, reduced) in enumerate(left) if reduced)
        outer = math.prod(size for size, _ in left[:place])
        width = math.prod(size for size, _ in left[place + 1 :])
        length = left[place][0]
        chunks = _chunks(device, outer * -(-width // _COLUMNS), length, min(width, _COLUMNS))
        passes.append(_Pass(outer, length, width, chunks))
        if chunks > 1:
            passes.append(_Pass(outer, chunks, width, 1))
        del left[place]
    if not passes:  # nothing to reduce but axes of size 1: every element is its own result
        passes.append(_Pass(1, 1, math.prod(size for size, _ in left), 1))
    return passes


def _chunks(device: OpenCLDevice, units: int, length: int, width: int) -> int:
    if not width or units >= 4 * device.workers or length * width < 2 * _CHUNK:
        return 1
    return min(-(-length * width // _CHUNK), 8 * device.workers, length)

"""conv_transpose, by the register tiles of kernels/product.cl."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

from opyard.operation import Call
from opyard.ops import windows

from .array import Array
from .device import OpenCLDevice
from .formats import FORMATS, format_of, program
from .launch import Launch, exact, partition, table
from .product import COMPILER_OPTIONS, panel_macros, slots

_GRAIN = 64  # pairs of channels for each work item
_LONGS = np.int64
_PLAIN = {"float": FORMATS["float32"], "double": FORMATS["float64"]}


@dataclass(frozen=True, slots=True)
class _Line:
    """The places of one remainder along one axis: how many, the first, and (tap, shift to x) of the taps that reach them."""

    count: int
    first: int
    taps: tuple[tuple[int, int], ...]


@exact
def prepare(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs conv_transpose over one to three spatial axes; axes that are missing have size 1."""
    x, weight, bias = call.inputs
    assert x is not None and weight is not None
    groups, rows, batch = call.attrs["groups"], int(weight.shape[1]), int(x.shape[0])
    channels = int(weight.shape[0]) // groups
    sizes, results, strides, lines = _geometry(call)
    compute = format_of(call.output).compute
    macros, panel, itemsize = panel_macros(device, compute)
    macros |= {"CONVOLUTION": 0, "TRANSPOSED": 1, "BIAS_ROW": int(bias is not None), "BIAS_COLUMN": 0}
    ports = {"A": _PLAIN[compute], "B": format_of(x), "W": format_of(weight), "OUT": format_of(call.output)}
    if bias is not None:
        ports["BIAS"] = format_of(bias)
    text = program("product", compute, macros, **ports)
    phases, taps, panels, most = _tables(lines, tuple(map(int, weight.shape[2:])), panel)
    units = batch * groups * panels if rows else 0
    slot = channels * most * panel
    items, step, slot_bytes = slots(device, units, slot * itemsize)
    behind = -(-weight.size // panel) * panel
    facts = (units, groups, panels, rows, channels, len(taps), behind, slot, step)
    tap_table = table(device, taps)
    bound = (*map(_LONGS, facts), table(device, (sizes, results, strides)), table(device, phases), tap_table)
    pairs = groups * channels * rows
    arrange_items, each = partition(device, pairs, _GRAIN)
    order = (*map(_LONGS, (pairs, rows, channels, len(taps), each)), tap_table)
    if units:
        run_taps = Launch(device, text, "convolve_transposed", items, bound, COMPILER_OPTIONS)
        arrange = Launch(device, text, "arrange", arrange_items, order, COMPILER_OPTIONS) if pairs else None

    def run(x: Array, weight: Array, bias_array: Array | None = None, *, out: Array | None = None) -> Array:
        result = device.empty(call.output) if out is None else out
        if units:
            scratch = device.scratch(int(behind) * itemsize + slot_bytes)
            if arrange is not None:
                arrange(weight, scratch)
            operands = (x,) if bias is None or bias_array is None else (x, bias_array)
            run_taps(*operands, result, scratch)
        return result

    return run


_Three = tuple[int, ...]


def _geometry(call: Call) -> tuple[_Three, _Three, _Three, list[list[_Line]]]:
    """Sizes of x and of the output, strides, and the lines of each axis, for three axes each."""
    x, weight, _ = call.inputs
    assert x is not None and weight is not None
    sizes, kernel = tuple(map(int, x.shape[2:])), tuple(map(int, weight.shape[2:]))
    rank, attributes = len(sizes), call.attrs
    strides = windows.per_axis(attributes["strides"], rank, "strides")
    dilations = windows.per_axis(attributes["dilations"], rank, "dilations")
    extra = windows.per_axis(attributes["output_padding"], rank, "output_padding", least=0)
    results, pairs = windows.transposed_sizes(sizes, kernel, strides, attributes["padding"], extra, dilations)
    lines = [[_Line(1, 0, ((0, 0),))]] * (3 - rank)
    for size, k, stride, gap, (before, _) in zip(results, kernel, strides, dilations, pairs, strict=True):
        lines.append(_lines(int(size), k, stride, gap, before))
    ones = (1,) * (3 - rank)
    return (*ones, *sizes), (*ones, *map(int, results)), (*ones, *strides), lines


def _lines(size: int, kernel: int, stride: int, dilation: int, before: int) -> list[_Line]:
    found = []
    for first in range(min(stride, size)):
        # place first + stride * q meets element q + shift of x at the tap
        reached = [(tap, first + before - tap * dilation) for tap in range(kernel)]
        taps = tuple((tap, far // stride) for tap, far in reached if far % stride == 0)
        found.append(_Line(-(-(size - first) // stride), first, taps))
    return found


def _tables(
    lines: list[list[_Line]], kernel: tuple[int, ...], panel: int
) -> tuple[list[int], list[tuple[int, ...]], int, int]:
    """What kernels/product.cl calls phases and taps, the number of panels, and the most taps of a phase."""
    _, rows, columns = (1,) * (3 - len(kernel)) + kernel
    phases: list[int] = []
    taps: list[tuple[int, ...]] = []
    panels = most = 0
    for phase in product(*lines):
        places = tuple(line.count for line in phase)
        reached = list(product(*(line.taps for line in phase)))
        phases += (panels, *places, *(line.first for line in phase), len(taps), len(reached))
        for axes in reached:
            (z, far), (y, down), (c, along) = axes
            number = (z * rows + y) * columns + c
            taps.append((number, phases[-2], len(reached), far, down, along))
        panels += -(-math.prod(places) // panel)
        most = max(most, len(reached))
    return [*phases, panels], taps, panels, most

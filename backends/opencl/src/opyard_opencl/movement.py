"""Ops that only move elements: views, copies between strided places, joining, padding, repeating, constants.

Where the elements of the result lie is asked of NumPy: the op's reference is applied to an array of the right shape whose
elements are never read, and the strides of the view that comes back are those to copy by.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call
from opyard.spec import TensorSpec

from .array import Array
from .device import OpenCLDevice
from .formats import program
from .launch import Launch, Single, exact, partition, table
from .layout import broadcast_strides, collapsed, sizes_of

UNITS = {1: "uchar", 2: "ushort", 4: "uint", 8: "ulong"}
"""The type that elements of so many bytes are moved as."""
_GRAIN = 8192  # elements for each work item
_LONGS = np.int64


def accepts(call: Call, device: Device) -> str | None:
    """Why elements cannot be moved, or None: they have 1, 2, 4 or 8 bytes."""
    for spec in (*call.inputs, *call.outputs):
        if spec is not None and spec.dtype.itemsize not in UNITS:
            return f"moves elements of {', '.join(map(str, UNITS))} bytes, not of {spec.dtype.itemsize} ({spec.dtype.name})"
    return None


def accepts_join(call: Call, device: Device) -> str | None:
    """Why arrays cannot be joined, or None: they have one dtype."""
    if len({spec.dtype for spec in call.inputs if spec is not None}) > 1:
        return "joins arrays of one dtype; cast them first"
    return accepts(call, device)


@exact
def prepare_view(call: Call, device: OpenCLDevice) -> Callable[..., Any]:
    """A function that runs an op whose result is one view of its input, or several.

    A view that is the whole input in order shares its buffer, every other is copied.
    """
    spec = call.inputs[0]
    assert spec is not None
    stand_in = np.empty(sizes_of(spec), spec.dtype)
    views = _views(call, stand_in)
    runs = [_view(device, stand_in, view, output) for view, output in zip(views, call.outputs, strict=True)]
    if call.is_tuple:
        return lambda x: tuple(run(x) for run in runs)
    return runs[0]


def _views(call: Call, stand_in: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], ...]:
    if call.op.name == "unstack":  # the reference gives numbers for a vector, and a number is no view
        axis = call.attrs["axis"]
        return tuple(np.squeeze(part, axis) for part in np.split(stand_in, stand_in.shape[axis], axis))
    found = call.op.reference(stand_in, **call.attrs)
    views = found if call.is_tuple else (found,)
    return tuple(view if isinstance(view, np.ndarray) else stand_in for view in views)


def _view(
    device: OpenCLDevice, whole: np.ndarray[Any, Any], view: np.ndarray[Any, Any], output: TensorSpec
) -> Callable[[Array], Array]:
    offset = _offset(whole, view) if view.size else 0
    if view.size == whole.size and view.flags.c_contiguous and not offset:
        return lambda x: x.view(sizes_of(output))
    copy = (
        _mover(device, view.itemsize, _layout(view, offset), _layout(np.empty(view.shape, view.dtype), 0))
        if view.size
        else None
    )

    def run(x: Array) -> Array:
        result = device.empty(output)
        if copy is not None:
            copy(x, result)
        return result

    return run


@exact
def prepare_join(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs concat or stack: one copy for each array into its part of the result."""
    whole = np.empty(sizes_of(call.output), call.output.dtype)
    axis = call.attrs["axis"] % whole.ndim
    copies, start = [], 0
    for spec in call.inputs:
        assert spec is not None
        source = np.empty(sizes_of(spec), spec.dtype)
        if call.op.name == "stack":
            source = np.expand_dims(source, axis)
        part = whole[(slice(None),) * axis + (slice(start, start + source.shape[axis]),)]
        start += source.shape[axis]
        copies.append(_into(device, source, whole, part))

    def run(*arrays: Array, out: Array | None = None) -> Array:
        result = device.empty(call.output) if out is None else out
        for copy, array in zip(copies, arrays, strict=True):
            if copy is not None:
                copy(array, result)
        return result

    return run


@exact
def prepare_pad(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs pad: fills the result, then copies the input into it; or picks elements, in the other modes."""
    spec = call.inputs[0]
    assert spec is not None
    if call.attrs["mode"] != "constant" and call.attrs["pads"]:
        return _prepare_pick(call, device, spec)
    whole = np.empty(sizes_of(call.output), call.output.dtype)
    source = np.empty(sizes_of(spec), spec.dtype)
    inside: Any = (
        *(slice(before, before + n) for (before, _), n in zip(call.attrs["pads"], source.shape, strict=True)),
        ...,  # keeps it a view for rank 0
    )
    fill = _filler(device, call.output, call.attrs["value"])
    copy = _into(device, source, whole, whole[inside])

    def run(x: Array, *, out: Array | None = None) -> Array:
        result = device.empty(call.output) if out is None else out
        if fill is not None:
            fill(result)
        if copy is not None:
            copy(x, result)
        return result

    return run


def _prepare_pick(call: Call, device: OpenCLDevice, spec: TensorSpec) -> Callable[..., Array]:
    """Pads with elements of the input: where they stand is a table for each axis, in elements."""
    sizes, shape = sizes_of(spec), sizes_of(call.output)
    strides = broadcast_strides(sizes, sizes)
    picked = [
        np.pad(np.arange(size), pair, call.attrs["mode"]) * stride
        for size, pair, stride in zip(sizes, call.attrs["pads"], strides, strict=True)
    ]
    starts = np.cumsum([0, *shape[:-1]]) + 2 * len(shape)
    rows, width = math.prod(shape[:-1]), shape[-1]
    items, step = partition(device, rows, max(1, _GRAIN // max(1, width)))
    text = program("move", "int", {"U": UNITS[spec.dtype.itemsize]})
    bound = (*map(_LONGS, (rows, width, step)), np.int32(len(shape)))
    places = table(device, np.concatenate([shape, starts, *picked]))
    launch = Launch(device, text, "pick", items, (*bound, places)) if call.output.size else None
    return Single(device, call.output, launch)


@exact
def prepare_tile(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs tile: reads the input again and again by strides of 0."""
    spec = call.inputs[0]
    assert spec is not None
    source = np.empty(sizes_of(spec), spec.dtype)
    repetitions = call.attrs["repetitions"]
    rank = max(len(repetitions), source.ndim)
    times = (1,) * (rank - len(repetitions)) + tuple(repetitions)
    sizes = (1,) * (rank - source.ndim) + source.shape
    interleaved = tuple(n for pair in zip(times, sizes, strict=True) for n in pair)
    spread = source.reshape(tuple(n for size in sizes for n in (1, size)))
    return _view(device, source, np.broadcast_to(spread, interleaved), call.output)


@exact
def prepare_repeat(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs repeat: reads each element again and again by strides of 0."""
    spec = call.inputs[0]
    assert spec is not None
    source = np.empty(sizes_of(spec), spec.dtype)
    axis, repeats = call.attrs["axis"], call.attrs["repeats"]
    place = source.ndim if axis is None else axis % source.ndim + 1
    apart = np.expand_dims(source, place)
    shape = (*apart.shape[:place], repeats, *apart.shape[place + 1 :])
    return _view(device, source, np.broadcast_to(apart, shape), call.output)


@exact
def prepare_blocks(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs depth_to_space or space_to_depth."""
    spec, block = call.inputs[0], call.attrs["block_size"]
    assert spec is not None
    source = np.empty(sizes_of(spec), spec.dtype)
    batch, channels, height, width = source.shape
    if call.op.name == "space_to_depth":
        apart = source.reshape(batch, channels, height // block, block, width // block, block)
        return _view(device, source, apart.transpose(0, 3, 5, 1, 2, 4), call.output)
    depth = channels // (block * block)
    if call.attrs["mode"] == "DCR":
        view = source.reshape(batch, block, block, depth, height, width).transpose(0, 3, 4, 1, 5, 2)
    else:
        view = source.reshape(batch, depth, block, block, height, width).transpose(0, 1, 4, 2, 5, 3)
    return _view(device, source, view, call.output)


@exact
def prepare_roll(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs roll: a copy for each part that stays together, two for each axis that is shifted."""
    spec = call.inputs[0]
    assert spec is not None
    axis, shift = call.attrs["axis"], call.attrs["shift"]
    source = np.empty(sizes_of(spec) if axis is not None else (math.prod(sizes_of(spec)),), spec.dtype)
    axes = (0,) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    shifts = shift if isinstance(shift, tuple) else (shift,) * len(axes)
    total = [0] * source.ndim
    for place, by in zip(axes, shifts, strict=True):
        total[place % source.ndim] += by
    moves = [_rolled(n, by % n if n else 0) for n, by in zip(source.shape, total, strict=True)]
    copies = [
        _copy(device, source, source[tuple(old for old, _ in part)], source[tuple(new for _, new in part)])
        for part in product(*moves)
    ]

    def run(x: Array, *, out: Array | None = None) -> Array:
        result = device.empty(call.output) if out is None else out
        for copy in copies:
            if copy is not None:
                copy(x, result)
        return result

    return run


def _rolled(size: int, shift: int) -> list[tuple[slice, slice]]:
    """The parts of an axis that stay together: where they were, and where they go."""
    if not shift:
        return [(slice(0, size), slice(0, size))]
    return [(slice(0, size - shift), slice(shift, size)), (slice(size - shift, size), slice(0, shift))]


@exact
def prepare_triangle(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs tril or triu."""
    output = call.output
    *_, height, width = sizes_of(output)
    rows = math.prod(sizes_of(output)[:-1]) if width else 0
    items, step = partition(device, rows, max(1, _GRAIN // max(1, width)))
    text = program("move", "int", {"U": UNITS[output.dtype.itemsize]})
    numbers = map(_LONGS, (rows, height, width, call.attrs["k"], step))
    bound = (*numbers, np.int32(call.op.name == "triu"))
    launch = Launch(device, text, "triangle", items, bound) if rows else None
    return Single(device, output, launch)


@exact
def prepare_constant(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs an op whose result depends on shapes and attributes alone, worked out here by its reference."""
    values = call.reference(
        *(None if spec is None else np.empty(sizes_of(spec), spec.dtype) for spec in call.inputs)
    )[0]
    first = values.reshape(-1)[:1]
    if values.size and bool((values == first).all()):
        fill = _filler(device, call.output, first[0])

        def run_fill(*_: Array, out: Array | None = None) -> Array:
            result = device.empty(call.output) if out is None else out
            if fill is not None:
                fill(result)
            return result

        return run_fill
    constant = device.upload(np.ascontiguousarray(values).reshape(values.shape))
    copy = _into(device, values, values, values)

    def run_copy(*_: Array, out: Array | None = None) -> Array:
        result = device.empty(call.output) if out is None else out
        if copy is not None:
            copy(constant, result)
        return result

    return run_copy


_Layout = tuple[tuple[int, ...], tuple[int, ...], int]
"""Sizes, strides in elements, and the number of the first element."""


def _layout(view: np.ndarray[Any, Any], offset: int) -> _Layout:
    return view.shape, tuple(stride // view.itemsize for stride in view.strides), offset


def _into(
    device: OpenCLDevice,
    source: np.ndarray[Any, Any],
    whole: np.ndarray[Any, Any],
    part: np.ndarray[Any, Any],
) -> Launch | None:
    """A copy of a dense array into a part of another; None if it is empty."""
    if not source.size:
        return None
    dense = np.empty(source.shape, source.dtype)
    return _mover(device, dense.itemsize, _layout(dense, 0), _layout(part, _offset(whole, part)))


def _copy(
    device: OpenCLDevice,
    whole: np.ndarray[Any, Any],
    source: np.ndarray[Any, Any],
    target: np.ndarray[Any, Any],
) -> Launch | None:
    """A copy of a part of one array into a part of another, both laid out as ``whole``; None if it is empty."""
    if not source.size:
        return None
    layouts = (_layout(part, _offset(whole, part)) for part in (source, target))
    return _mover(device, whole.itemsize, *layouts)


def _offset(whole: np.ndarray[Any, Any], part: np.ndarray[Any, Any]) -> int:
    """The number of the first element of ``part``, which is not empty, in ``whole``."""
    return (part.ctypes.data - whole.ctypes.data) // whole.itemsize


def _mover(device: OpenCLDevice, itemsize: int, source: _Layout, target: _Layout) -> Launch:
    """The launch that copies one layout to another of the same sizes, which are not 0."""
    (shape, from_strides, from_offset), (_, to_strides, to_offset) = source, target
    sizes, strides = collapsed(shape, (from_strides, to_strides))
    axes = list(zip(sizes, *strides, strict=True))
    width, from_step, to_step = axes.pop()
    if not axes and width > _GRAIN:  # one long row: cut it, so that all workers have work
        axes = [_factor(width, from_step, to_step)]
        width //= axes[0][0]
    rows = math.prod(size for size, _, _ in axes)
    items, step = partition(device, rows, max(1, _GRAIN // width))
    values = [axis[part] for part in range(3) for axis in axes]
    numbers = map(_LONGS, (rows, width, from_step, to_step, from_offset, to_offset, step))
    text = program("move", "int", {"U": UNITS[itemsize]})
    return Launch(device, text, "move", items, (*numbers, np.int32(len(axes)), table(device, values)))


def _factor(width: int, from_step: int, to_step: int) -> tuple[int, int, int]:
    """Rows to cut a long row into, the most up to 64 that divide it, and their strides."""
    rows = next(n for n in range(64, 0, -1) if width % n == 0)
    return rows, width // rows * from_step, width // rows * to_step


def _filler(device: OpenCLDevice, output: TensorSpec, value: Any) -> Launch | None:
    count = int(output.size)
    if not count:
        return None
    text = program("move", "int", {"U": UNITS[output.dtype.itemsize]})
    items, step = partition(device, count, _GRAIN)
    return Launch(device, text, "fill", items, (_LONGS(count), _LONGS(step), pattern(value, output)))


def pattern(value: Any, output: TensorSpec) -> np.generic:
    """The bits of a value of the output's dtype as an unsigned integer."""
    bits = np.asarray(value).astype(output.dtype).reshape(1).view(f"u{output.dtype.itemsize}")
    found: np.generic = bits[0]
    return found

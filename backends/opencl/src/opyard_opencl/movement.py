"""Ops that only move elements: views, copies between strided places, joining, padding, constants, reading by position.

Where the elements of the result lie is asked of NumPy: the op's reference is applied to an array of the right shape whose
elements are never read, and the strides of the view that comes back are those to copy by.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call
from opyard.spec import TensorSpec

from .array import Array
from .device import OpenCLDevice
from .formats import FORMATS, format_of, program
from .launch import Launch, exact, partition, table

_UNITS = {1: "uchar", 2: "ushort", 4: "uint", 8: "ulong"}
_GRAIN = 8192  # elements for each work item
_LONGS = np.int64


def accepts(call: Call, device: Device) -> str | None:
    """Why elements cannot be moved, or None: they have 1, 2, 4 or 8 bytes."""
    for spec in (*call.inputs, *call.outputs):
        if spec is not None and spec.dtype.itemsize not in _UNITS:
            return f"moves elements of {', '.join(map(str, _UNITS))} bytes, not of {spec.dtype.itemsize} ({spec.dtype.name})"
    return None


def accepts_join(call: Call, device: Device) -> str | None:
    """Why arrays cannot be joined, or None: they have one dtype."""
    if len({spec.dtype for spec in call.inputs if spec is not None}) > 1:
        return "joins arrays of one dtype; cast them first"
    return accepts(call, device)


def accepts_pad(call: Call, device: Device) -> str | None:
    """Why an array cannot be padded, or None: only with a constant."""
    if call.attrs["mode"] != "constant":
        return f"pads with mode='constant', not {call.attrs['mode']!r}"
    return accepts(call, device)


def accepts_positions(call: Call, device: Device) -> str | None:
    """Why elements cannot be read by position, or None."""
    for spec in call.inputs:
        if spec is not None and spec.dtype.kind in "iu" and spec.dtype.name not in FORMATS:
            return f"takes indices of the dtypes int8 to uint64, not {spec.dtype.name}"
    return accepts(call, device)


@exact
def prepare_view(call: Call, device: OpenCLDevice) -> Callable[..., Any]:
    """A function that runs an op whose result is one view of its input, or several.

    A view that is the whole input in order shares its buffer, every other is copied.
    """
    spec = call.inputs[0]
    assert spec is not None
    stand_in = np.empty(_sizes(spec), spec.dtype)
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
    offset = (view.ctypes.data - whole.ctypes.data) // whole.itemsize if view.size else 0
    if view.size == whole.size and view.flags.c_contiguous and not offset:
        return lambda x: x.view(_sizes(output))
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
    whole = np.empty(_sizes(call.output), call.output.dtype)
    axis = call.attrs["axis"] % whole.ndim
    copies, start = [], 0
    for spec in call.inputs:
        assert spec is not None
        source = np.empty(_sizes(spec), spec.dtype)
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
    """A function that runs pad with a constant: fills the result, then copies the input into it."""
    spec = call.inputs[0]
    assert spec is not None
    whole = np.empty(_sizes(call.output), call.output.dtype)
    source = np.empty(_sizes(spec), spec.dtype)
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


@exact
def prepare_tile(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs tile: reads the input again and again by strides of 0."""
    spec = call.inputs[0]
    assert spec is not None
    source = np.empty(_sizes(spec), spec.dtype)
    repetitions = call.attrs["repetitions"]
    rank = max(len(repetitions), source.ndim)
    times = (1,) * (rank - len(repetitions)) + tuple(repetitions)
    sizes = (1,) * (rank - source.ndim) + source.shape
    interleaved = tuple(n for pair in zip(times, sizes, strict=True) for n in pair)
    spread = source.reshape(tuple(n for size in sizes for n in (1, size)))
    return _view(device, source, np.broadcast_to(spread, interleaved), call.output)


@exact
def prepare_constant(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs an op whose result depends on shapes and attributes alone, worked out here by its reference."""
    values = call.reference(
        *(None if spec is None else np.empty(_sizes(spec), spec.dtype) for spec in call.inputs)
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


@exact
def prepare_gather(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs gather along one axis, or embedding. Positions out of range give NaN, or -1 (all bits one)."""
    swapped = call.op.name == "embedding"
    x, indices = reversed(call.inputs) if swapped else call.inputs
    assert x is not None and indices is not None
    sizes, axis = _sizes(x), 0 if swapped else call.attrs["axis"] % x.ndim
    count, width = math.prod(_sizes(indices)), math.prod(sizes[axis + 1 :])
    units = math.prod(sizes[:axis]) * count if width else 0
    text = program("gather", "int", {"U": _UNITS[x.dtype.itemsize]}, INDEX=format_of(indices))
    items, step = partition(device, units, max(1, _GRAIN // max(1, width)))
    bound = tuple(map(_LONGS, (units, sizes[axis], count, width, step)))
    launch = Launch(device, text, "gather", items, bound) if units else None

    def run(x: Array, indices: Array, *, out: Array | None = None) -> Array:
        result = device.empty(call.output) if out is None else out
        if launch is not None:
            launch(*((indices, x) if swapped else (x, indices)), result)
        return result

    return run


@exact
def prepare_one_hot(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs one_hot."""
    indices, output = call.inputs[0], call.output
    assert indices is not None
    sizes, axis = _sizes(indices), call.attrs["axis"] % output.ndim
    outer, width, depth = math.prod(sizes[:axis]), math.prod(sizes[axis:]), int(output.shape[axis])
    text = program("gather", "int", {"U": _UNITS[output.dtype.itemsize]}, INDEX=format_of(indices))
    units = outer * depth
    items, step = partition(device, units, max(1, _GRAIN // max(1, width)))
    values = (_pattern(call.attrs[name], output) for name in ("on_value", "off_value"))
    bound = (*map(_LONGS, (units, depth, width, step)), *values)
    launch = Launch(device, text, "one_hot", items, bound) if output.nbytes else None

    def run(indices: Array, *, out: Array | None = None) -> Array:
        result = device.empty(output) if out is None else out
        if launch is not None:
            launch(indices, result)
        return result

    return run


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
    offset = (part.ctypes.data - whole.ctypes.data) // whole.itemsize
    dense = np.empty(source.shape, source.dtype)
    return _mover(device, dense.itemsize, _layout(dense, 0), _layout(part, offset))


def _mover(device: OpenCLDevice, itemsize: int, source: _Layout, target: _Layout) -> Launch:
    """The launch that copies one layout to another of the same sizes, which are not 0."""
    (shape, from_strides, from_offset), (_, to_strides, to_offset) = source, target
    axes: list[tuple[int, int, int]] = []
    for size, one, other in zip(shape, from_strides, to_strides, strict=True):
        if size == 1:
            continue
        if axes and axes[-1][1] == one * size and axes[-1][2] == other * size:
            axes[-1] = (axes[-1][0] * size, one, other)  # both run through the two axes in one stride
        else:
            axes.append((size, one, other))
    width, from_step, to_step = axes.pop() if axes else (1, 1, 1)
    if not axes and width > _GRAIN:  # one long row: cut it, so that all workers have work
        axes = [_factor(width, from_step, to_step)]
        width //= axes[0][0]
    rows = math.prod(size for size, _, _ in axes)
    items, step = partition(device, rows, max(1, _GRAIN // width))
    values = [axis[part] for part in range(3) for axis in axes]
    numbers = map(_LONGS, (rows, width, from_step, to_step, from_offset, to_offset, step))
    text = program("move", "int", {"U": _UNITS[itemsize]})
    return Launch(device, text, "move", items, (*numbers, np.int32(len(axes)), table(device, values)))


def _factor(width: int, from_step: int, to_step: int) -> tuple[int, int, int]:
    """Rows to cut a long row into, the most up to 64 that divide it, and their strides."""
    rows = next(n for n in range(64, 0, -1) if width % n == 0)
    return rows, width // rows * from_step, width // rows * to_step


def _filler(device: OpenCLDevice, output: TensorSpec, value: Any) -> Launch | None:
    count = int(output.size)
    if not count:
        return None
    text = program("move", "int", {"U": _UNITS[output.dtype.itemsize]})
    items, step = partition(device, count, _GRAIN)
    return Launch(device, text, "fill", items, (_LONGS(count), _LONGS(step), _pattern(value, output)))


def _pattern(value: Any, output: TensorSpec) -> np.generic:
    """The bits of a value of the output's dtype as an unsigned integer."""
    bits = np.asarray(value).astype(output.dtype).reshape(1).view(f"u{output.dtype.itemsize}")
    found: np.generic = bits[0]
    return found


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(int(n) for n in spec.shape)

"""Joining, cutting and reordering. What NumPy can give as a view stays one: the result shares the input's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call

Array = np.ndarray[Any, Any]

VIEW_SECONDS = 5e-7


def view_cost(call: Call, device: Device) -> float:
    """Seconds to make a view: no element is touched, whatever the size."""
    return VIEW_SECONDS


def reshape(x: Array, *, shape: tuple[int, ...]) -> Array:
    """The same elements under another shape; a copy only where strides forbid a view."""
    return x.reshape(shape)


def permute_dims(x: Array, *, axes: tuple[int, ...]) -> Array:
    """A view with the axes in another order."""
    return x.transpose(axes)


def concat(*arrays: Array, axis: int, out: Array | None = None) -> Array:
    """Joins arrays along an axis that they have."""
    return np.concatenate(arrays, axis=axis, out=out)


def stack(*arrays: Array, axis: int, out: Array | None = None) -> Array:
    """Joins arrays along a new axis."""
    return np.stack(arrays, axis=axis, out=out)


def prepare_flatten(call: Call, device: Device) -> Callable[[Array], Array]:
    """Makes a matrix of any array, in the shape that the call promises."""
    shape = tuple(map(int, call.output.shape))
    return lambda x: x.reshape(shape)


def prepare_split(call: Call, device: Device) -> Callable[[Array], tuple[Array, ...]]:
    """Cuts an array into views whose sizes the call promises."""
    x = call.inputs[0]
    assert x is not None
    axis = call.attrs["axis"] % x.ndim
    indices, start = [], 0
    for spec in call.outputs:
        size = int(spec.shape[axis])
        indices.append((slice(None),) * axis + (slice(start, start + size),))
        start += size
    return lambda x: tuple(x[index] for index in indices)


def unstack(x: Array, *, axis: int) -> tuple[Array, ...]:
    """All ``x[i]`` along ``axis``, as views."""
    moved = np.moveaxis(x, axis, 0)
    return tuple(moved[i, ...] for i in range(len(moved)))  # the ellipsis keeps 0-d parts arrays


def prepare_slice(call: Call, device: Device) -> Callable[[Array], Array]:
    """Takes a view; the limits are worked out once."""
    x, attributes = call.inputs[0], call.attrs
    assert x is not None
    axes = attributes["axes"] or range(len(attributes["starts"]))
    steps = attributes["steps"] or (1,) * len(attributes["starts"])
    index = [slice(None)] * x.ndim
    for axis, start, stop, step in zip(axes, attributes["starts"], attributes["stops"], steps, strict=True):
        size = int(x.shape[axis])
        if start is not None:
            start = max(
                start, -size
            )  # ONNX begins at the first element then, also backwards, where NumPy has nothing
        index[axis] = slice(start, stop, step)
    key: tuple[Any, ...] = (*index, ...)
    return lambda x: x[key]

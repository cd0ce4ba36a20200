"""NumPy arrays in guarded memory, with any strides: a write outside of an array, and a read that matters, are seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

GUARD = 64
"""Guard bytes on either side."""

_FILL = 0xFF
"""In guards and gaps: a NaN in every float dtype, -1 in integers."""

LAYOUTS = ("transposed", "strided", "reversed", "offset")
"""Memory orders of an input: Fortran's, every second element, backwards along every axis, and one element into a buffer."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """An array inside of a larger buffer, and what the buffer was filled with."""

    array: Array
    buffer: Array
    before: Array

    def is_intact(self) -> bool:
        """Whether the buffer, array and guards, is as it was."""
        return bool(np.array_equal(self.buffer, self.before))

    def guards_intact(self) -> bool:
        """Whether the guards before and behind a dense array are as they were; the array itself may have changed."""
        for part in (slice(GUARD), slice(GUARD + self.array.nbytes, None)):
            if not np.array_equal(self.buffer[part], self.before[part]):
                return False
        return True


def guarded(contents: Array, layout: str = "") -> Guarded:
    """A copy of ``contents`` in guarded memory and in the layout given; dense and in C order without one."""
    shape, item = contents.shape, contents.dtype.itemsize
    order = list(range(contents.ndim))
    step = 2 if layout == "strided" else 1
    strides = [0] * contents.ndim
    size = item
    for axis in order if layout == "transposed" else reversed(order):
        strides[axis] = size * step if axis == contents.ndim - 1 else size
        size *= max(shape[axis], 1) * (step if axis == contents.ndim - 1 else 1)
    start = GUARD + (item if layout == "offset" else 0)
    buffer = np.full(start + size + GUARD, _FILL, np.uint8)
    array: Array = np.ndarray(shape, contents.dtype, buffer, start, strides)
    if layout == "reversed" and contents.ndim:
        array = array[(slice(None, None, -1),) * contents.ndim]
    array[...] = contents
    return Guarded(array, buffer, buffer.copy())


def output(shape: tuple[int, ...], dtype: np.dtype[Any], pattern: int) -> Guarded:
    """A dense array for a kernel to write into, every byte of it ``pattern``, between guards."""
    size = math.prod(shape) * dtype.itemsize
    buffer = np.full(size + 2 * GUARD, _FILL, np.uint8)
    buffer[GUARD : GUARD + size] = pattern
    array: Array = np.ndarray(shape, dtype, buffer, GUARD)
    return Guarded(array, buffer, buffer.copy())


def leave_behind(nbytes: int, pattern: int) -> None:
    """Frees a block full of ``pattern``, which the next block of this size most likely gets: what is not written shows."""
    np.full(nbytes, pattern, np.uint8)


def same_bits(left: Array, right: Array) -> bool:
    """Whether two arrays have equal shapes, dtypes and bytes, NaN included; zeros of either sign differ."""
    left, right = np.ascontiguousarray(left), np.ascontiguousarray(right)
    return left.shape == right.shape and left.dtype == right.dtype and left.tobytes() == right.tobytes()

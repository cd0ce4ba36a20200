"""Where the data of NumPy arrays lie."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from ctypes import c_void_p
from typing import Any

import numpy as np

from ..allocation import KEPT_BYTES, MOST_BYTES

Array = np.ndarray[Any, Any]

ALIGNMENT = 64
"""Bytes of a cache line and of the widest register."""

ROOM = 1.25
"""Times the bytes that are asked for, which a block may have that was used before."""

FLOAT32 = np.dtype(np.float32)

_OFFSET = object.__basicsize__
"""Where in an array object the pointer to its data lies: behind the head that all objects have, see NumPy's C API."""


def address(array: Array) -> int:
    """Where the data of an array begin. ``array.ctypes.data`` says the same in seven times the time, 0.8 microseconds."""
    return c_void_p.from_address(id(array) + _OFFSET).value or 0


def dense(array: Array) -> Array:
    """The array itself where it is dense, else a copy that is."""
    return array if array.flags.c_contiguous else array.copy()


def addresses_are_right() -> bool:
    """Whether arrays of this NumPy are laid out as ``address`` believes."""
    probe = np.zeros(8)
    return all(address(part) == part.ctypes.data for part in (probe, probe[3:]))


def aligned(nbytes: int) -> Array:
    """So many bytes that begin at a cache line, zeroed."""
    raw = np.zeros(nbytes + ALIGNMENT, np.uint8)
    begin = -address(raw) % ALIGNMENT
    return raw[begin : begin + nbytes]


class Memory(np.ndarray[Any, Any]):
    """Bytes that one array fills, with what is known of its float32 numbers: the sum of their squares is at most ``square``."""

    square: float = math.inf


_free: dict[int, Array] = {}
"""Blocks for large arrays that nobody uses, by their identities, the one last used at the end. Each step on it is atomic: no lock is needed."""


def _large(nbytes: int) -> Memory:
    """A Memory of more than the C library keeps when it is freed, in a block that is used again.

    A new one has all its pages mapped and cleared, which takes as long as a 1x1 convolution that fills it.
    """
    fitting = [block for block in tuple(_free.values()) if nbytes <= block.nbytes <= ROOM * nbytes]
    taken = (_free.pop(id(block), None) for block in sorted(fitting, key=lambda block: block.nbytes))
    block = next((found for found in taken if found is not None), None)
    new, kind = np.ndarray.__new__, np.dtype(np.uint8)
    if block is None:
        block = new(
            Memory, nbytes, kind
        )  # were it no Memory, NumPy would make it the base of arrays, and forget the other
    memory = new(Memory, nbytes, kind, block)
    weakref.finalize(memory, _keep, block).atexit = False
    return memory


def _keep(block: Array) -> None:
    """Keeps a block for the next one, and gives the oldest back where these are too many."""
    _free[id(block)] = block
    for number in tuple(_free):
        if sum(other.nbytes for other in tuple(_free.values())) <= KEPT_BYTES:
            return
        _free.pop(number, None)


def images_maker(shape: tuple[int, ...], dtype: Any = FLOAT32) -> Callable[[], Array]:
    """A function that makes arrays of a shape, not initialized, that begin at a cache line and lie in a Memory.

    NumPy's own begin a quarter of a line behind, so that each wide register lies in two: some 8 % of MobileNetV2's time.
    """
    nbytes, new, make = dtype.itemsize * math.prod(shape) + ALIGNMENT, np.ndarray.__new__, np.ndarray
    kind = np.dtype(np.uint8)
    if nbytes > MOST_BYTES:
        return lambda: _inside(_large(nbytes), shape, dtype)

    def run() -> Array:
        memory = new(Memory, nbytes, kind)
        return make(shape, dtype, memory, -address(memory) % ALIGNMENT)

    return run


def _inside(memory: Memory, shape: tuple[int, ...], dtype: Any) -> Array:
    """The array of a shape that begins at the first cache line of a Memory."""
    return np.ndarray(shape, dtype, memory, -address(memory) % ALIGNMENT)


def square(array: Array) -> float:
    """The sum of the squares: infinite or NaN where an element is, or is next to it."""
    return float(np.vdot(array, array))


def known_square(array: Array) -> float:
    """What the sum of the squares is at most, infinite where nothing is known. A view of an array has no Memory for base."""
    memory = array.base
    return memory.square if type(memory) is Memory else math.inf


def measured_square(array: Array) -> float:
    """The sum of the squares, which is known afterwards."""
    found, memory = square(array), array.base
    if type(memory) is Memory and found < math.inf:
        memory.square = found
    return found


def note_square(array: Array, bound: float) -> None:
    """Says that the sum of the squares is at most so much."""
    memory = array.base
    if type(memory) is Memory:
        memory.square = bound

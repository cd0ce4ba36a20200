"""Where the data of NumPy arrays lie."""

from __future__ import annotations

from ctypes import c_void_p
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

ALIGNMENT = 64
"""Bytes of a cache line and of the widest register."""

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

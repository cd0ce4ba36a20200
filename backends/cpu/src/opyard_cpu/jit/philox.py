"""Philox4x32-10 in machine code: the words of a few thousand blocks at a time. See opyard.ops.random."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from opyard import (
    TensorSpec,
    add,
    bitwise_and,
    bitwise_right_shift,
    bitwise_xor,
    less,
    multiply,
    simplify,
    trace,
)
from opyard.driver import Device
from opyard.region import Region

from .machine import missing
from .region import prepare

BLOCKS = 1 << 13
"""Blocks that are made at once: some 50 microseconds, too few for several threads. Callers divide the blocks among these."""

_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85


def _comparisons(number: Any, first: Any, k0: Any, k1: Any, bound: Any) -> tuple[Any, ...]:
    """Whether each of the four words of the blocks ``first + number`` is below a bound; all are 32-bit numbers in uint64."""
    index = add(number, first)
    c0, c1 = bitwise_and(index, _LOW), bitwise_right_shift(index, _HALF)
    c2 = c3 = bitwise_and(number, np.uint64(0))
    for round_number in range(10):
        keys = [
            bitwise_and(add(key, np.uint64(round_number * step)), _LOW)
            for key, step in zip((k0, k1), _WEYL, strict=True)
        ]
        product, other = multiply(c0, _MULTIPLIERS[0]), multiply(c2, _MULTIPLIERS[1])
        c0 = bitwise_xor(bitwise_xor(bitwise_right_shift(other, _HALF), c1), keys[0])
        c2 = bitwise_xor(bitwise_xor(bitwise_right_shift(product, _HALF), c3), keys[1])
        c1, c3 = bitwise_and(other, _LOW), bitwise_and(product, _LOW)
    return tuple(less(word, bound) for word in (c0, c1, c2, c3))


@cache
def comparisons(device: Device) -> Callable[..., tuple[np.ndarray[Any, Any], ...]] | None:
    """``function(numbers, first, k0, k1, bound)`` for BLOCKS numbers, or None where nothing can be compiled."""
    if missing():
        return None
    one = TensorSpec((), "uint64")
    graph = simplify(trace(_comparisons, TensorSpec((BLOCKS,), "uint64"), one, one, one, one))
    return prepare(Region(graph), device)

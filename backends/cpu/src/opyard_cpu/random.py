"""Random bits in blocks that stay in the cache; the numbers are those of opyard.ops.random."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call

from .blocks import write_dense
from .elementwise import BLOCK
from .jit.philox import BLOCKS, comparisons
from .threads import in_parts

Array = np.ndarray[Any, Any]

LEAP = 1 << 13
"""Blocks of four words that are made at a time: each array of them takes 64 KiB."""

OPERATIONS = 25
"""Of each word, by NumPy."""

COMPILED = 4
"""The same in machine code."""

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def _words(key: Array, first: int, out: Array) -> None:
    """Writes the words of the blocks from number ``first`` on into ``out``, uint64 ``[4, n]``. Philox4x32-10, see the op."""
    count = out.shape[1]
    c0, c1, c2, c3 = out
    number = np.arange(first, first + count, dtype=np.uint64)
    np.bitwise_and(number, _LOW, out=c0)
    np.right_shift(number, _HALF, out=c1)
    out[2:] = 0
    product, other = np.empty(count, np.uint64), number
    k0, k1 = int(key[0]), int(key[1])
    for _ in range(10):
        np.multiply(c0, _MULTIPLIERS[0], out=product)
        np.multiply(c2, _MULTIPLIERS[1], out=other)
        np.right_shift(other, _HALF, out=c0)
        c0 ^= c1
        c0 ^= np.uint64(k0)
        np.right_shift(product, _HALF, out=c2)
        c2 ^= c3
        c2 ^= np.uint64(k1)
        np.bitwise_and(other, _LOW, out=c1)
        np.bitwise_and(product, _LOW, out=c3)
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF


Below = Callable[[Array, int, Array], None]
"""Writes into the booleans ``out [n]`` whether the top 24 bits of a word of a key are less than a limit."""


def _prepare_below(device: Device) -> Below:
    found = comparisons(device)
    return _below if found is None else partial(_below_compiled, found)


def _below_compiled(compare: Callable[..., tuple[Array, ...]], key: Array, limit: int, out: Array) -> None:
    numbers, k0, k1, bound = _numbers(), *(np.array(n, np.uint64) for n in (key[0], key[1], limit << 8))

    def part(first: int, last: int) -> None:
        for number in range(first, last):
            found = compare(numbers, np.array(number * BLOCKS, np.uint64), k0, k1, bound)
            target = out[4 * BLOCKS * number : 4 * BLOCKS * (number + 1)]
            whole = len(target) // 4
            for place, words in enumerate(found):
                target[place : 4 * whole : 4] = words[:whole]
            for place in range(len(target) % 4):
                target[4 * whole + place] = found[place][whole]

    in_parts(part, -(-len(out) // (4 * BLOCKS)), COMPILED * len(out))


@cache
def _numbers() -> Array:
    return np.arange(BLOCKS, dtype=np.uint64)


def _below(key: Array, limit: int, out: Array) -> None:
    """By NumPy."""
    bound = np.uint64(limit << 8)

    def part(first: int, last: int) -> None:
        words = np.empty((4, min(LEAP, last - first)), np.uint64)
        for start in range(first, last, LEAP):
            made = words[:, : min(LEAP, last - start)]
            _words(key, start, made)
            target = out[4 * start : 4 * (start + made.shape[1])]
            target[...] = np.less(made, bound).T.reshape(-1)[: len(target)]

    in_parts(part, -(-len(out) // 4), OPERATIONS * len(out))


def _limit(probability: float) -> int:
    return math.ceil(probability * 2**24)


def prepare_random_bernoulli(call: Call, device: Device) -> Callable[..., Array]:
    """True with a probability."""
    shape, limit = tuple(map(int, call.output.shape)), _limit(call.attrs["probability"])
    below = _prepare_below(device)

    def run(key: Array, out: Array | None = None) -> Array:
        return write_dense(out, shape, np.bool_, lambda target: below(key, limit, target.reshape(-1)))

    return run


def prepare_dropout(call: Call, device: Device) -> Callable[..., Array]:
    """Zero, or the scaled element, by the same words."""
    rate, dtype = call.attrs["rate"], call.output.dtype
    shape, limit = tuple(map(int, call.output.shape)), _limit(1 - rate)
    scale, integer = dtype.type(1 / (1 - rate)), np.dtype(f"i{dtype.itemsize}")
    below = _prepare_below(device)

    def run(x: Array, key: Array, out: Array | None = None) -> Array:
        values = np.ascontiguousarray(x).reshape(-1)
        keep = np.empty(values.size, np.bool_)
        below(key, limit, keep)

        def write(target: Array) -> None:
            found, mask = target.reshape(-1), np.empty(BLOCK, integer)
            for start in range(0, values.size, BLOCK):
                part = found[start : start + BLOCK]
                block, bits = mask[: part.size], part.view(integer)
                np.copyto(block, keep[start : start + BLOCK])
                np.negative(block, out=block)
                np.multiply(values[start : start + BLOCK], scale, out=part)
                np.bitwise_and(bits, block, out=bits)

        return write_dense(out, shape, dtype, write)

    return run

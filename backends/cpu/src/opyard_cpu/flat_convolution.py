"""Convolution of unit strides, and its gradients: in a padded image laid out flat, the columns of im2col are whole runs.

Output element p of a flat row meets the elements p + offset of the flat input, with one offset for each tap of the kernel. So each
row of the matrix of columns is one copy of consecutive elements, and not one for each row of the image. What is computed beyond the
end of each row of the output is left out again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .geometry import Geometry
from .taps import last_axes
from .threads import in_parts

Array = np.ndarray[Any, Any]

COLUMN_BYTES = 1 << 20
"""Size of a block of columns, which is written and read again at once: it should stay in the second-level cache."""

MOST_WASTE = 1.8
"""Elements that are computed for each one that is wanted; beyond it the ordinary columns are better."""


@dataclass(frozen=True, slots=True)
class Block:
    """Some images, and some rows of their outputs: ``counts`` are those of the first spatial axis."""

    images: slice
    rows: slice

    @property
    def size(self) -> tuple[int, int]:
        """How many images and rows."""
        return self.images.stop - self.images.start, self.rows.stop - self.rows.start


@dataclass(frozen=True, slots=True)
class Flat:
    """The layout of a convolution. ``room`` are the padded sizes, ``steps`` how far apart neighbours along an axis are."""

    g: Geometry
    room: tuple[int, ...]
    steps: tuple[int, ...]

    @staticmethod
    def of(g: Geometry) -> Flat | None:
        """The layout; None where strides, sizes or padding forbid it."""
        room = tuple(before + n + after for n, (before, after) in zip(g.sizes, g.pairs, strict=True))
        if set(g.strides) != {1} or not g.work or min(min(pair) for pair in g.pairs) < 0:
            return None
        if math.prod(room[1:]) > MOST_WASTE * math.prod(g.counts[1:]):
            return None
        return Flat(g, room, tuple(math.prod(room[axis + 1 :]) for axis in range(len(room))))

    @property
    def beyond(self) -> int:
        """Elements behind the last that the last tap of the last row meets: what is read there is not used."""
        return sum(
            (k - 1) * d * s for k, d, s in zip(self.g.kernel, self.g.dilations, self.steps, strict=True)
        )

    def blocks(self, first: int, last: int, itemsize: int) -> Iterator[Block]:
        """The images from ``first`` to ``last`` in blocks whose columns fit."""
        g = self.g
        most = max(1, COLUMN_BYTES // (g.groups * g.depth * self.steps[0] * itemsize))  # rows
        images, rows = max(1, most // g.counts[0]), min(most, g.counts[0])
        for image in range(first, last, images):
            for row in range(0, g.counts[0], rows):
                yield Block(slice(image, min(image + images, last)), slice(row, min(row + rows, g.counts[0])))

    def wanted(self, products: Array, block: Block) -> Array:
        """The part of ``products [o, images * length]`` that is output: a view ``[o, images, *counts]``."""
        whole = products.reshape(len(products), *block.size, *self.room[1:])
        found: Array = whole[last_axes((slice(None), *(slice(n) for n in self.g.counts[1:])))]
        return found


class Columns:
    """Makes the columns of one block after the other, in arrays that are used again."""

    def __init__(self, flat: Flat, dtype: np.dtype[Any]) -> None:
        self.flat = flat
        self.dtype = dtype
        self._padded: Array | None = None
        self._images = slice(0)
        self._columns: dict[tuple[int, int], Array] = {}

    def of(self, x: Array, block: Block) -> Array:
        """``[groups, depth, images * length]`` of ``x [n, c, *sizes]``; written over by the next block."""
        flat, g = self.flat, self.flat.g
        count, rows = block.size
        padded = self._filled(x, block.images)
        length, item = rows * flat.steps[0], self.dtype.itemsize
        taps = tuple(d * s * item for d, s in zip(g.dilations, flat.steps, strict=True))
        view = as_strided(
            padded[:, :, block.rows.start * flat.steps[0] :],
            (g.channels, *g.kernel, count, length),
            (padded.strides[1], *taps, padded.strides[0], item),
        )
        if (count, rows) not in self._columns:
            self._columns[count, rows] = np.empty(view.shape, self.dtype)
        columns = self._columns[count, rows]
        np.copyto(columns, view)
        return columns.reshape(g.groups, g.depth, count * length)

    def _filled(self, x: Array, images: slice) -> Array:
        """The images, padded and flat: ``[images, c, room + beyond]``."""
        flat, g = self.flat, self.flat.g
        count, size = images.stop - images.start, math.prod(flat.room)
        if self._padded is None:
            self._padded = np.zeros((count, g.channels, size + flat.beyond), self.dtype)
        if self._images != images:
            body = self._padded[:count, :, :size].reshape(count, g.channels, *flat.room)
            inside = (slice(before, before + n) for n, (before, _) in zip(g.sizes, g.pairs, strict=True))
            body[last_axes(inside)] = x[images]
            self._images = images
        return self._padded


def convolve(flat: Flat, x: Array, weight: Array, bias: Array | None, out: Array) -> None:
    """Writes the convolution into ``out [n, o, *counts]``."""
    g = flat.g
    matrix = weight.reshape(g.groups, g.outputs // g.groups, g.depth)
    each = None if bias is None else bias.reshape(-1, *(1,) * (1 + len(g.counts)))

    def part(first: int, last: int) -> None:
        columns = Columns(flat, out.dtype)
        for block in flat.blocks(first, last, out.itemsize):
            found = flat.wanted(np.matmul(matrix, columns.of(x, block)).reshape(g.outputs, -1), block)
            target = np.moveaxis(out[block.images, :, block.rows], 0, 1)
            if each is None:
                target[...] = found
            else:
                np.add(found, each, out=target)

    in_parts(part, g.batch, g.work)


class Spaced:
    """Outputs in the layout of products, one block after the other: zeros stand where nothing is wanted."""

    def __init__(self, flat: Flat, dtype: np.dtype[Any]) -> None:
        self.flat = flat
        self.dtype = dtype
        self._arrays: dict[tuple[int, int], Array] = {}

    def of(self, outputs: Array, block: Block) -> Array:
        """``[groups, o / groups, images * length]`` of ``outputs [n, o, *counts]``; written over by the next block."""
        g = self.flat.g
        if block.size not in self._arrays:
            shape = (g.outputs, math.prod(block.size) * self.flat.steps[0])
            self._arrays[block.size] = np.zeros(shape, self.dtype)
        spaced = self._arrays[block.size]
        self.flat.wanted(spaced, block)[...] = np.moveaxis(outputs[block.images, :, block.rows], 0, 1)
        return spaced.reshape(g.groups, g.outputs // g.groups, -1)


def weight_gradient(flat: Flat, x: Array, cotangent: Array, out: Array) -> None:
    """Writes the gradient by the weights into ``out [o, c / groups, *kernel]``, from ``cotangent [n, o, *counts]``."""
    g = flat.g
    totals: dict[int, Array] = {}

    def part(first: int, last: int) -> None:
        columns, spaced = Columns(flat, out.dtype), Spaced(flat, out.dtype)
        total = np.zeros(
            (g.groups, g.depth, g.outputs // g.groups), out.dtype
        )  # BLAS is quicker this way around
        for block in flat.blocks(first, last, out.itemsize):
            total += np.matmul(columns.of(x, block), spaced.of(cotangent, block).swapaxes(1, 2))
        totals[first] = total

    in_parts(part, g.batch, g.work)
    total = np.sum([totals[first] for first in sorted(totals)], axis=0)
    out.reshape(g.groups, -1, g.depth)[...] = total.swapaxes(1, 2)


def scatter(flat: Flat, x: Array, weight: Array, bias: Array | None, out: Array) -> None:
    """The transpose of a convolution: writes into ``out [n, c, *sizes]`` what ``x [n, o, *counts]`` came from.

    Each tap of the kernel adds whole runs to the flat image. The weights have to be finite, for they meet zeros.
    """
    g = flat.g
    matrix = weight.reshape(g.groups, g.outputs // g.groups, g.depth).swapaxes(1, 2)
    each = None if bias is None else bias.reshape(-1, *(1,) * (1 + len(g.sizes)))
    taps = product(
        *(range(0, k * d * s, d * s) for k, d, s in zip(g.kernel, g.dilations, flat.steps, strict=True))
    )
    offsets = [sum(tap) for tap in taps]
    size = math.prod(flat.room)
    inside = last_axes(slice(before, before + n) for n, (before, _) in zip(g.sizes, g.pairs, strict=True))

    def part(first: int, last: int) -> None:
        spaced, images = Spaced(flat, out.dtype), np.empty(0, out.dtype)
        for block in flat.blocks(first, last, out.itemsize):
            count, rows = block.size
            length, start = rows * flat.steps[0], block.rows.start * flat.steps[0]
            terms = np.matmul(matrix, spaced.of(x, block)).reshape(g.channels, len(offsets), count, length)
            if block.rows.start == 0:
                images = np.zeros((g.channels, count, size + flat.beyond), out.dtype)
            for number, offset in enumerate(offsets):
                images[:, :, start + offset : start + offset + length] += terms[:, number]
            if block.rows.stop == g.counts[0]:
                found = images[:, :, :size].reshape(g.channels, count, *flat.room)[inside]
                target = np.moveaxis(out[block.images], 0, 1)
                if each is None:
                    target[...] = found
                else:
                    np.add(found, each, out=target)

    in_parts(part, g.batch, g.work)

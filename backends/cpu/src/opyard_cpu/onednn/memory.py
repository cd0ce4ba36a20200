"""Memory descriptors: how the numbers of a tensor lie in memory, as strides, or in blocks that a primitive chose."""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Sequence
from ctypes import c_int, c_int64, c_void_p
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from . import api
from .library import library

_numbers: dict[tuple[object, ...], int] = {}


@dataclass(frozen=True, eq=False)
class Descriptor:
    """A memory descriptor of oneDNN, destroyed with this object."""

    handle: c_void_p
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.handle:
            weakref.finalize(self, library().held["memory_desc_destroy"], self.handle).atexit = False

    @cached_property
    def nbytes(self) -> int:
        """Bytes of such a memory, its padding included; 0 for a memory that is not needed."""
        return int(library().held["memory_desc_get_size"](self.handle))

    @cached_property
    def strides(self) -> tuple[int, ...] | None:
        """Distances in elements of the axes, or None where the layout has blocks."""
        if self._number(api.QUERY_FORMAT_KIND, c_int) != api.FORMAT_BLOCKED or self._blocks:
            return None
        return self._sizes(api.QUERY_STRIDES, len(self.shape))

    @property
    def is_dense(self) -> bool:
        """Whether it is the plain layout: the last axis is contiguous, and nothing lies between."""
        return self.strides is not None and _order(self.shape, self.strides) == _order(
            self.shape, contiguous(self.shape)
        )

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Equal for descriptors of the same layout and dtype."""
        rank, blocks = len(self.shape), self._blocks
        kind = self._number(api.QUERY_FORMAT_KIND, c_int)
        if kind != api.FORMAT_BLOCKED:
            return (kind, self.shape, id(self))
        return (
            self._number(api.QUERY_DATA_TYPE, c_int),
            *(self.shape, self._sizes(api.QUERY_PADDED_DIMS, rank), self._sizes(api.QUERY_STRIDES, rank)),
            *(self._sizes(api.QUERY_BLOCK_SIZES, blocks), self._sizes(api.QUERY_BLOCK_AXES, blocks)),
        )

    @cached_property
    def number(self) -> int:
        """A small number in place of ``key``, which takes no time to look up."""
        return _numbers.setdefault(self.key, len(_numbers))

    @property
    def _blocks(self) -> int:
        return self._number(api.QUERY_BLOCKS, ctypes.c_int32)

    def _number(self, query: int, kind: Any) -> int:
        number = kind()
        library().held["memory_desc_query"](self.handle, query, ctypes.byref(number))
        return int(number.value)

    def _sizes(self, query: int, count: int) -> tuple[int, ...]:
        found = ctypes.POINTER(c_int64)()
        library().held["memory_desc_query"](self.handle, query, ctypes.byref(found))
        return tuple(found[:count])


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides in elements of a dense array whose last axis is contiguous."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def channels_last(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides in elements of ``[n, c, *spatial]`` whose channels lie next to each other."""
    _, channels, *spatial = shape
    inner = contiguous((*spatial, channels))
    return (math.prod(shape[1:]), 1, *inner[:-1])


def _order(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """The strides of the axes that have any."""
    return tuple(stride for size, stride in zip(shape, strides, strict=True) if size > 1)


def strided(shape: Sequence[int], strides: Sequence[int] | None = None, dtype: str = "float32") -> Descriptor:
    """A memory of these sizes and strides in elements; without strides a dense one."""
    steps = contiguous(shape) if strides is None else strides
    return _described("memory_desc_create_with_strides", shape, dtype, api.Dims(*steps))


def any_layout(shape: Sequence[int], dtype: str = "float32") -> Descriptor:
    """A memory whose layout the primitive chooses."""
    return _described("memory_desc_create_with_tag", shape, dtype, api.FORMAT_ANY)


def _described(function: str, shape: Sequence[int], dtype: str, layout: Any) -> Descriptor:
    sizes = tuple(int(size) for size in shape)
    found = library().make(function, len(sizes), api.Dims(*sizes), api.DATA_TYPES[dtype], layout)
    return Descriptor(found, sizes)

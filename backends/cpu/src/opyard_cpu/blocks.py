"""Working through large arrays in blocks that stay in the cache, and writing into the caller's array."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BLOCK_BYTES = 1 << 18
"""A block and its temporaries fit into the second-level cache of current processors."""


def row_blocks(rows: int, row_bytes: int) -> Iterator[slice]:
    """Slices of ``rows`` rows, each of about BLOCK_BYTES, and of one row at least."""
    step = max(1, BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def write_dense(
    out: Array | None, shape: tuple[int, ...], dtype: Any, write: Callable[[Array], None]
) -> Array:
    """Calls ``write`` with a dense array of ``shape``: ``out`` itself where it is one. Returns ``out`` if it was given."""
    target = np.empty(shape, dtype) if out is None or not out.flags.c_contiguous else out
    write(target)
    if out is None or out is target:
        return target
    out[...] = target
    return out

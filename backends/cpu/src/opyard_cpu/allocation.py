"""The memory of arrays, which the C library shall keep when they are freed."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Parameters of ``mallopt``. Source: malloc.h of the GNU C Library."""

MOST_BYTES = 32 << 20
"""The largest block that glibc does not have to map by itself."""

KEPT_BYTES = 512 << 20
"""Free memory up to which nothing goes back to the system."""

HUGE_PAGE = 2 << 20
"""Bytes of a huge page on x86-64, and on Arm with pages of 4 kB."""

HUGE_BYTES = 256 << 20
"""Memory at the end of the heap that is to have huge pages. It is taken when it is used: until then it is addresses only."""

MOST_MAPPED = 65536
"""How many blocks glibc maps by themselves, by default."""


def keep_freed_memory() -> bool:
    """Lets the C library keep freed arrays of up to 32 MB for the next ones; gives whether it does.

    By default glibc gives blocks above a threshold back when they are freed, at first 128 kB. The next run of a plan then has all its
    pages mapped and cleared anew: half of the processor time of MobileNetV2. Whoever set something of this in the environment
    (such as MALLOC_MMAP_THRESHOLD_, or GLIBC_TUNABLES) is left alone, and so are other C libraries.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get(
        "GLIBC_TUNABLES", ""
    ):
        return False
    try:
        library = ctypes.CDLL(None)
        mallopt = library.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    if not (mallopt(MMAP_THRESHOLD, MOST_BYTES) and mallopt(TRIM_THRESHOLD, KEPT_BYTES)):
        return False
    _use_huge_pages(library)
    return True


def _use_huge_pages(library: Any) -> None:
    """Asks for huge pages at the end of the heap, where the next arrays come to lie.

    A network walks through all of its weights and images in each run, some thousand pages of 4 kB, more than the processor remembers the
    addresses of: with huge pages MobileNetV2 takes 9 % less, on a virtual machine. Where the system has none nothing changes.
    """
    advise = getattr(mmap, "MADV_HUGEPAGE", None)
    if advise is None:
        return
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes, library.free.argtypes = (ctypes.c_size_t,), (ctypes.c_void_p,)
    library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    library.mallopt(MMAP_MAX, 0)  # so that the block extends the heap
    try:
        block = library.malloc(HUGE_BYTES)
    finally:
        library.mallopt(MMAP_MAX, MOST_MAPPED)
    if block:
        begin = -(-block // HUGE_PAGE) * HUGE_PAGE
        library.madvise(begin, block + HUGE_BYTES - begin, advise)
        library.free(block)

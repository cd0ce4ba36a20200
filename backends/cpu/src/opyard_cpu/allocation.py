"""The memory of arrays, which the C library shall keep when they are freed."""

from __future__ import annotations

import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of ``mallopt``. Source: malloc.h of the GNU C Library."""

MOST_BYTES = 32 << 20
"""The largest block that glibc does not have to map by itself."""

KEPT_BYTES = 512 << 20
"""Free memory up to which nothing goes back to the system."""


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
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(MMAP_THRESHOLD, MOST_BYTES) and mallopt(TRIM_THRESHOLD, KEPT_BYTES))

"""In which dtype references and decompositions compute: float32 for floats that are narrower than it."""

from __future__ import annotations

from typing import Any

import numpy as np

from .selection import cast


def is_narrow(dtype: np.dtype[Any]) -> bool:
    """Whether ``dtype`` is a float with less precision than float32: float16, bfloat16, float8."""
    return dtype.kind in "fV" and dtype.itemsize < 4


def computing_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype to compute in for results of ``dtype``: sums in narrow dtypes lose their small terms."""
    return np.dtype(np.float32) if is_narrow(dtype) else dtype


def wide(x: Any) -> np.ndarray[Any, Any]:
    """``x`` as a NumPy array in its computing dtype."""
    array = np.asarray(x)
    return array.astype(computing_dtype(array.dtype), copy=False)


def cast_to(x: Any, dtype: np.dtype[Any]) -> Any:
    """``x``, an array or a graph's Value, in ``dtype``; recorded as a cast only where it is one."""
    return x if x.dtype == dtype else cast(x, dtype=dtype.name)

"""In which dtypes the references of elementwise ops compute."""

from __future__ import annotations

from typing import Any

import numpy as np


def precise(x: Any) -> np.ndarray[Any, Any]:
    """``x`` as a NumPy array in float64, or complex128 for complex numbers; integers and booleans as they are."""
    array = np.asarray(x)
    if array.dtype.kind == "c":
        return array.astype(np.complex128)
    return array if array.dtype.kind in "biu" else array.astype(np.float64)

"""Limits and conversions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call
from opyard.spec import as_dtype

Array = np.ndarray[Any, Any]


def clip(x: Array, min: Array | None = None, max: Array | None = None, out: Array | None = None) -> Array:
    """x limited to [min, max]; max wins where min is greater, NaN in any of the three gives NaN."""
    if min is not None:
        lower = np.maximum(x, min, out=out)
        return lower if max is None else np.minimum(lower, max, out=out)
    return np.positive(x, out=out) if max is None else np.minimum(x, max, out=out)


def prepare_cast(call: Call, device: Device) -> Callable[..., Array]:
    """Converts to a dtype that is looked up once; equal dtypes share the memory."""
    target = as_dtype(call.attrs["dtype"])

    def cast(x: Array, out: Array | None = None) -> Array:
        with np.errstate(
            all="ignore"
        ):  # a number that the dtype does not hold has an unspecified value, no warning
            if out is None:
                return x.astype(target, copy=False)
            np.copyto(out, x, casting="unsafe")
        return out

    return cast

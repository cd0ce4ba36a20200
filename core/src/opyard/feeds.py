"""Feeds: arrays and numbers that a user gives, as what a run can take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .driver import Device, plain_array, shares_arrays
from .errors import DeviceError, GraphError
from .registry import Registry
from .spec import TensorSpec


def as_host_array(array: Any, name: str, declared: TensorSpec, registry: Registry) -> Any:
    """An array of any device as NumPy's; numbers and lists take the dtype of the input if that loses no fractions.

    Raises GraphError for numbers that cannot.
    """
    if isinstance(array, (bool, int, float, complex, list, tuple)):
        try:
            found = np.asarray(array)
            if found.size and found.dtype.kind in "fc" and declared.dtype.kind in "biu":
                raise TypeError(f"it holds {found.dtype.name} numbers")
            return np.asarray(array, declared.dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise GraphError(f"feed {name!r} cannot become {declared!r}: {error}.") from None
    if not isinstance(array, (np.ndarray, np.generic)):
        owner = registry.device_of(array)
        array = owner.download(array) if owner else np.asarray(array)
    return np.asarray(plain_array(array))


def home_of(arrays: Iterable[Any], registry: Registry, host: Device) -> Device:
    """The device that all arrays live on; the host for none. Raises DeviceError for several, and for arrays of nobody's."""
    owners: list[Device] = []
    for array in arrays:
        owner = registry.device_of(array)
        if owner is None:
            raise DeviceError(
                f"no device here has arrays of type {type(array).__name__}; convert it to a NumPy array, or see `opyard devices`."
            )
        if not any(shares_arrays(owner, known) for known in owners):
            owners.append(owner)
    if len(owners) > 1:
        raise DeviceError(
            f"the arrays live on different devices ({', '.join(d.name for d in owners)}); move them to one first: opyard.to_device(x, {owners[0].name!r})."
        )
    return host if not owners or shares_arrays(owners[0], host) else owners[0]

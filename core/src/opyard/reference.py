"""The built-in backend that runs every op by its reference, on the host. The bare core runs everything with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .driver import HOST, Capabilities, Device
from .registry import REFERENCE


class ReferenceDevice(Device):
    """Runs references on NumPy arrays."""

    def __init__(self) -> None:
        super().__init__(
            REFERENCE,
            kind="cpu",
            memory=HOST,
            array_type=np.ndarray,
            description=f"references of the ops on NumPy {np.__version__}",
            capabilities=Capabilities(launch_seconds=5e-6, transfer_seconds=1e-6),
        )

    def owns(self, array: Any) -> bool:
        """Whether ``array`` is a NumPy array or scalar."""
        return isinstance(array, (np.ndarray, np.generic))

    def upload(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The array itself."""
        return array

    def download(self, array: Any) -> np.ndarray[Any, Any]:
        """The array itself."""
        return np.asarray(array)


class ReferenceBackend:
    """The backend called "reference"."""

    def devices(self) -> Sequence[Device]:
        """The one reference device."""
        return [ReferenceDevice()]

"""CuPy, seen from the kernels: the one place that names it, so that their logic also runs on an array module like it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, cast

from opyard.kernels import resolve

_resolved = lru_cache(maxsize=None)(resolve)


MODULE = "cupy"
"""The array module that kernels compute with."""


def xp() -> Any:
    """CuPy. It is imported here, when the first kernel runs, because the import takes a second."""
    return import_module(MODULE)


def device_of(arrays: tuple[Any, ...]) -> AbstractContextManager[Any]:
    """The device of the first array, which is the current one inside ``with``."""
    return cast("AbstractContextManager[Any]", next(array for array in arrays if array is not None).device)


def address(array: Any) -> int:
    """Where the first element of an array lies in the memory of its device."""
    return int(array.data.ptr)


@dataclass(frozen=True, slots=True)
class OnDevice:
    """A function on CuPy arrays, named "module:function", that runs on the device of its arrays.

    CuPy itself would compute on the thread's current device, and leave the result there.
    """

    target: str

    def __call__(self, *arrays: Any, **keywords: Any) -> Any:
        """Runs the function; it is imported on first use."""
        function = _resolved(self.target)
        with device_of(arrays):
            return function(*arrays, **keywords)

"""Array: the native array of OpenCL devices, a shape and a dtype on a buffer. Always dense, in row-major order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .device import OpenCLDevice


class Array:
    """A dense array on an OpenCL device.

    ``buffer`` is the ``pyopencl.Buffer``; several arrays may share one (see ``view``). On CPU devices ``host`` is a NumPy
    array over the same memory, else None: its contents are settled once the device has been synchronized.
    """

    __slots__ = ("__weakref__", "buffer", "device", "dtype", "host", "nbytes", "shape")

    def __init__(
        self,
        device: OpenCLDevice,
        buffer: Any,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        host: np.ndarray[Any, Any] | None = None,
    ) -> None:
        self.device = device
        self.buffer = buffer
        self.shape = shape
        self.dtype = dtype
        self.host = host
        self.nbytes = math.prod(shape) * dtype.itemsize  # stored: every launch asks for it

    def __repr__(self) -> str:
        return f"<Array {self.dtype.name}[{', '.join(map(str, self.shape))}] on {self.device.name}>"

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def view(self, shape: tuple[int, ...]) -> Array:
        """The same elements in the same order under another shape, without a copy. The sizes must agree."""
        host = None if self.host is None else self.host.reshape(shape)
        return Array(self.device, self.buffer, shape, self.dtype, host)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """The contents as a NumPy array, once all work on them is done: NumPy functions take an Array directly."""
        found = self.device.download(self)
        wanted = found.dtype if dtype is None else np.dtype(dtype)
        if wanted == found.dtype:
            return found.copy() if copy and self.host is not None else found
        if copy is False:
            raise ValueError(f"a view of {self!r} as {wanted.name} needs a copy; leave copy=False out.")
        return found.astype(wanted)

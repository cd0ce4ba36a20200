"""Array: the native array of OpenCL devices, a shape and a dtype on a buffer. Always dense, in row-major order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from opyard.errors import SpecError

if TYPE_CHECKING:
    from .device import OpenCLDevice


class Array:
    """A dense array on an OpenCL device.

    ``buffer`` is the ``pyopencl.Buffer``; several arrays may share one (see ``view``). On CPU devices ``host`` is a NumPy
    array over the same memory, else None: its contents are settled once the device has been synchronized.
    """

    __slots__ = ("__weakref__", "buffer", "device", "dtype", "handle", "host", "nbytes", "shape")

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
        self.handle = buffer.int_ptr  # stored, as are the bytes: every launch asks for them
        self.shape = shape
        self.dtype = dtype
        self.host = host
        self.nbytes = math.prod(shape) * dtype.itemsize

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

    def __getitem__(self, key: Any) -> Array:
        """A part that lies together in memory, such as ``x[2:5]`` or ``x[1, :, :]``, as a view; integers and slices alone.

        Raises IndexError for what is not there, and SpecError for a part that is scattered: the op ``slice`` copies it.
        """
        keys = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(one, (int, np.integer, slice)) or one is ... for one in keys):
            raise SpecError(f"{self!r} takes integers and slices in brackets; other reading is by gather.")
        whole = np.empty(self.shape, self.dtype) if self.host is None else self.host
        part = whole[keys if ... in keys else (*keys, ...)]
        if not part.flags.c_contiguous:
            raise SpecError(f"this part of {self!r} does not lie together in memory; opyard.slice copies it.")
        offset = part.ctypes.data - whole.ctypes.data if part.size else 0
        buffer = self.device.part_of(self.buffer, offset, part)
        return Array(self.device, buffer, part.shape, self.dtype, None if self.host is None else part)

    def __dlpack_device__(self) -> tuple[int, int]:
        """The type and number of the DLPack device: that of host memory, or OpenCL's."""
        return (1, 0) if self.host is not None else (4, 0)  # kDLCPU, kDLOpenCL

    def __dlpack__(self, **options: Any) -> Any:
        """The contents for another library, without a copy, once all work on them is done: CPU devices alone.

        Raises BufferError for other devices: a context belongs to its driver.
        """
        if self.host is None:
            raise BufferError(
                f"{self!r} is in memory of its own, which no other library can use; opyard.to_numpy(x) copies it."
            )
        return self.device.download(self).__dlpack__(**options)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """The contents as a NumPy array, once all work on them is done: NumPy functions take an Array directly."""
        found = self.device.download(self)
        wanted = found.dtype if dtype is None else np.dtype(dtype)
        if wanted == found.dtype:
            return found.copy() if copy and self.host is not None else found
        if copy is False:
            raise ValueError(f"a view of {self!r} as {wanted.name} needs a copy; leave copy=False out.")
        return found.astype(wanted)

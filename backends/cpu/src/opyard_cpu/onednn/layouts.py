"""The layouts of ports: "nhwc", channels next to each other, and "packed", weights in the forms that primitives want.

oneDNN's convolutions, poolings and sums are as fast on channels-last memory as on its own blocked layouts (measured with
AVX-512), so activations have this layout alone. An array in it is dense, of shape ``[n, *spatial, c]``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call

from .addresses import FLOAT32, Array, dense, images_maker
from .chains import SECONDS, Run
from .execution import reordered
from .held import on_dense
from .library import library, missing
from .memory import Descriptor, channels_last, strided
from .primitives import reorder

NHWC = "nhwc"
PACKED = "packed"

OPERATIONS = 10
"""Of a byte that is copied, in units of those of products."""


@dataclass(eq=False, slots=True)
class Packed:
    """An array together with the forms in which primitives asked for it, each made once.

    Which form a primitive wants depends on more than the shape of the array, so a conversion to "packed" keeps the array, and
    the first run of each primitive adds its form.
    """

    array: Array
    forms: dict[object, Array] = field(default_factory=dict)
    _square: float | None = None

    @property
    def square(self) -> float:
        """The sum of the squares of the elements, computed once."""
        if self._square is None:
            self._square = float(np.vdot(self.array, self.array))
        return self._square

    def form(self, source: Descriptor, target: Descriptor) -> Array:
        """The array, which lies as ``source`` says, in the layout ``target``."""
        found = self.forms.get(target.number)
        if found is None:
            found = self.forms[target.number] = reordered(self.array, source, target)
        return found


def concrete(shape: Any) -> tuple[int, ...]:
    """Sizes as integers."""
    return tuple(int(size) for size in shape)


def accepts_images(call: Call, device: Device) -> str | None:
    """Why a tensor has no channels-last layout here, or None."""
    spec = call.inputs[0]
    assert spec is not None
    if reason := missing():
        return reason
    if not 3 <= spec.ndim <= 5:
        return f"channels-last layouts are for tensors of rank 3 to 5, [n, c, *spatial]; this one has rank {spec.ndim}"
    return None if spec.size else "an empty tensor has no need of layouts"


def accepts_weights(call: Call, device: Device) -> str | None:
    """Why a tensor cannot be packed for oneDNN, or None."""
    spec = call.inputs[0]
    assert spec is not None
    if reason := missing():
        return reason
    return None if spec.ndim >= 2 and spec.size else "weights have two axes at least, and elements"


def prepare_to_channels_last(call: Call, device: Device) -> Run:
    """``[n, c, *spatial]`` to a dense ``[n, *spatial, c]``."""
    return to_channels_last(concrete(call.output.shape), call.output.dtype)


def to_channels_last(shape: tuple[int, ...], dtype: Any = FLOAT32) -> Run:
    """A function that makes a dense ``[n, *spatial, c]`` of an array of this shape, ``[n, c, *spatial]``."""
    batch, channels, *spatial = shape
    plain, images = (strided(shape, steps, dtype.name) for steps in (None, channels_last(shape)))
    moved = (batch, *spatial, channels)
    if images.is_dense:
        return lambda x: x.reshape(moved)
    copy, make = _copying(plain, images), images_maker(moved, dtype)
    return lambda x: copy(x, make())


def _copying(source: Descriptor, target: Descriptor) -> Run:
    """A function of an array and a dense one for the result."""
    operations = OPERATIONS * source.nbytes
    with library().threads_for(operations):
        return on_dense(reorder(source, target), ("src", "dst"), operations)


def prepare_from_channels_last(call: Call, device: Device) -> Run:
    """A dense ``[n, *spatial, c]`` to ``[n, c, *spatial]``."""
    return from_channels_last(concrete(call.output.shape), call.output.dtype)


def from_channels_last(shape: tuple[int, ...], dtype: Any = FLOAT32) -> Run:
    """A function that makes an array of this shape, ``[n, c, *spatial]``, of a dense ``[n, *spatial, c]``."""
    plain, images = (strided(shape, steps, dtype.name) for steps in (None, channels_last(shape)))
    copy, empty = _copying(images, plain), np.empty
    is_same = images.is_dense

    def run(x: Array, out: Array | None = None) -> Any:
        if out is None:
            return x.reshape(shape) if is_same else copy(x, empty(shape, dtype))
        result = out if out.flags.c_contiguous else empty(shape, dtype)
        copy(x, result)
        if out is not result:
            np.copyto(out, result)
        return out

    return run


def prepare_packed(call: Call, device: Device) -> Run:
    """Keeps the array for primitives to ask for."""
    return lambda x: Packed(dense(x))


def prepare_unpacked(call: Call, device: Device) -> Run:
    """The array that was kept."""
    return lambda x: x.array


def conversion_seconds(call: Call, device: Device) -> float:
    """Estimated seconds of a reorder: each byte is read and written once."""
    return call.cost.bytes / device.capabilities.bandwidth + SECONDS

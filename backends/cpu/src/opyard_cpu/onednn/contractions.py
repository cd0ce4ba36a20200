"""Products of matrices that lie by rows or by columns, without a copy of either: the gradients of dense layers, as ``einsum``."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from opyard.driver import Device
from opyard.errors import KernelError
from opyard.operation import Call
from opyard.settings import num_threads

from .addresses import Array
from .chains import SECONDS
from .layouts import concrete
from .library import missing
from .memory import strided
from .plain import into, on_arrays
from .primitives import Primitive, matmul

Sizes = tuple[int, int, int]

PEAK, STREAMING = 0.88, 0.9
"""Fractions of the device's peak and bandwidth that these products reach."""


def _turned(call: Call) -> tuple[bool, bool] | None:
    """Whether the first and the second factor lie by columns; None for what is no product of two matrices."""
    found = re.fullmatch(r"(\w)(\w),(\w)(\w)->(\w)(\w)", call.attrs["equation"].replace(" ", ""))
    if found is None:
        return None
    first, second, (row, column) = found.group(1, 2), found.group(3, 4), found.group(5, 6)
    summed = {*first} & {*second}
    if len({*first, *second}) != 3 or len(summed) != 1 or {row, column} & summed:
        return None
    if row not in first or column not in second:
        return None
    return first[1] == row, second[0] == column


@lru_cache(maxsize=1024)
def _primitive(sizes: Sizes, turned: tuple[bool, bool], threads: int) -> Primitive | str:
    rows, depth, columns = sizes
    first = strided((rows, depth), (1, rows) if turned[0] else None)
    second = strided((depth, columns), (1, depth) if turned[1] else None)
    try:
        return matmul(first, second, strided((rows, columns)))
    except KernelError as error:
        return str(error)


def _described(call: Call) -> Primitive | str:
    turned = _turned(call)
    if turned is None:
        return f"{call.attrs['equation']!r} is no product of two matrices"
    first = call.inputs[0]
    assert first is not None
    rows, columns = concrete(call.output.shape)
    return _primitive((rows, int(first.size) // rows, columns), turned, num_threads())


def accepts(call: Call, device: Device) -> str | None:
    """Why oneDNN does not compute this, or None."""
    if reason := missing():
        return reason
    specs = [spec for spec in call.inputs if spec is not None]
    if any(not spec.size for spec in specs):
        return "an empty tensor is nothing for oneDNN"
    if any(1 in spec.shape for spec in specs):
        return "axes of size 1 may broadcast, and vectors are as quick on BLAS"
    found = _described(call)
    return found if isinstance(found, str) else None


def prepare(call: Call, device: Device) -> Callable[..., Array]:
    """``run(x1, x2)``."""
    primitive = _described(call)
    if isinstance(primitive, str):
        raise KernelError(primitive)
    roles = ("src", "weights", "dst")
    run = on_arrays(primitive, roles, [primitive.memories[role] for role in roles])
    return into(run, concrete(call.output.shape))


def cost(call: Call, device: Device) -> float:
    """Estimated seconds."""
    work, abilities = call.cost, device.capabilities
    streamed = work.bytes / abilities.bandwidth / STREAMING
    return max(work.flops / abilities.flops / PEAK, streamed) + SECONDS

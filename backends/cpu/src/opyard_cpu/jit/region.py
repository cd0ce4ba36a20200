"""The region compiler ``jit``: connected elementwise ops and reductions of rows as one function in machine code."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call
from opyard.region import Region

from ..threads import LEAST_WORK, in_parts
from . import scalars
from .code import ELEMENTS
from .launch import KERNEL, address, built_in
from .machine import Module, compiler, host, missing
from .nest import Nest, arrays_of
from .scalars import Untranslatable
from .space import REDUCTIONS, RESHAPES, Space, space_of

Array = np.ndarray[Any, Any]

CALL_SECONDS = 3e-7
"""What one call takes beside the arithmetic."""

EFFICIENCY = 0.95
"""Of the bandwidth."""

INSTRUCTIONS_PER_SECOND = 2e9
"""Of vectors, on one thread."""

SMALL_SECONDS = 2e-5
"""Below this the interpreter's lock is not released."""

STREAM_BYTES = 1 << 22
"""Outputs from this size on go past the caches."""

UNIT = 1024
"""Elements that threads do not divide further."""


def claims(call: Call, device: Device) -> str | None:
    """Why a call cannot be a part of a region here, or None."""
    if reason := missing():
        return reason
    name = call.op.name
    specs = [spec for spec in (*call.inputs, *call.outputs) if spec is not None]
    if any(int(spec.size) == 0 for spec in specs):
        return "an array without elements needs no compiler"
    if call.op.scalar is not None or name in scalars.PLAIN:
        return scalars.refusal(call)
    if name not in REDUCTIONS and name not in RESHAPES:
        return f"{name} is neither elementwise nor a reduction that is compiled here"
    unknown = next((s.dtype.name for s in specs if s.dtype.name not in ELEMENTS), None)
    if unknown is not None:
        return f"{unknown} is not among the dtypes that are compiled here"
    if name in REDUCTIONS and specs[0].dtype.name in (*scalars.NARROW, "bool"):
        return f"sums of {specs[0].dtype.name} are not compiled here"
    return None


def accepts(region: Region, device: Device) -> str | None:
    """Why a region cannot be compiled, or None."""
    outputs = list(region.graph.outputs.values())
    if len(dict.fromkeys(outputs)) < len(outputs):
        return "an output is given twice"
    if all(node.op.name in RESHAPES for node in region.graph.nodes):
        return "nothing is to be computed"
    try:
        space = _space(region)
    except Untranslatable as error:
        return str(error)
    if space.reduces and len(space.sizes) == 1 and space.sizes[0] > 1 << 16:
        return "one long row is not divided among threads"
    return None


@lru_cache(maxsize=256)
def _space(region: Region) -> Space:
    return space_of(region.graph)


def cost(region: Region, device: Device) -> float:
    """Estimated seconds: what memory takes, or what the arithmetic takes, whichever is longer."""
    abilities, space = device.capabilities, _space(region)
    elements, vector = math.prod(space.sizes), host().vector_bytes / 4
    weight = sum(scalars.weight(n.call) for n in region.graph.nodes if space.is_wide(n.outputs[0]))
    arithmetic = elements * weight / vector / INSTRUCTIONS_PER_SECOND
    if arithmetic > SMALL_SECONDS:
        arithmetic /= max(1.0, abilities.bandwidth / 1.5e10)
    memory = region.cost.bytes / abilities.bandwidth / EFFICIENCY
    rows = math.prod(space.sizes[:-1]) * 1e-8
    return max(arithmetic, memory) + rows + CALL_SECONDS


def prepare(region: Region, device: Device) -> Callable[..., Any]:
    """The function of a region; it writes into ``out`` where there is one output."""
    return Compiled(region, device).function()


class Compiled:
    """A region in machine code, and how it is called."""

    def __init__(self, region: Region, device: Device) -> None:
        nest = Nest(region, host())
        self.region = region
        self.sizes = nest.space.sizes
        self.reduces = nest.space.reduces
        self.module = compiler().function(nest.source())
        self.kernel = KERNEL(self.module.address)
        self.seconds = cost(region, device)
        self.scratch_bytes = sum(v.dtype.itemsize for v in nest.scratch) * self.sizes[-1]
        self.specs = region.outputs
        self.constants = [np.ascontiguousarray(a) for a in region.graph.constants.values() if a.size != 1]
        self.table = self._table(nest.space, arrays_of(region))
        self.streaming = self._streaming(region)
        self.end = math.prod(self.sizes[:-1]) if len(self.sizes) > 1 else 1 if self.reduces else self.sizes[0]

    def _streaming(self, region: Region) -> Any:
        """The same with outputs that go past the caches, where they are large and alike; else None."""
        sizes = {spec.dtype.itemsize for spec in self.specs}
        wide = all(spec.size == math.prod(self.sizes) for spec in self.specs)
        if len(sizes) > 1 or not wide or sum(spec.nbytes for spec in self.specs) < STREAM_BYTES:
            return None
        module: Module = compiler().function(Nest(region, host(), True).source())
        return KERNEL(module.address), module

    def _table(self, space: Space, arrays: list[Any]) -> Array:
        outer = len(self.sizes) - 1
        words = [self.sizes[-1], *self.sizes[1:-1]]
        for value in arrays:
            step, strides = value.dtype.itemsize, []
            for size, present in zip(reversed(self.sizes), reversed(space.present[value]), strict=True):
                strides.append(step if present else 0)
                step *= size if present else 1
            words += strides[:0:-1]
        assert len(words) == max(1, outer) + outer * len(arrays) or not outer
        return np.array(words, np.int64)

    def function(self) -> Callable[..., Any]:
        """What a plan calls."""
        if self.seconds > SMALL_SECONDS:
            return self.run
        count = len(arrays_of(self.region))
        native = built_in(self.module, count, self.table, self.end, self.scratch_bytes, self.run)
        if native == self.run:
            return native
        if len(self.specs) == 1 and not self.constants:
            return self._allocating(native, count)
        return self._bound(native)

    def _allocating(self, native: Callable[..., Any], count: int) -> Callable[..., Any]:
        return native  # without an output array it calls ``run``

    def _bound(self, native: Callable[..., Any]) -> Callable[..., Any]:
        """With the constants, and new arrays for the outputs."""
        constants, specs = self.constants, [(spec.shape, spec.dtype) for spec in self.specs]
        is_tuple, empty = self.region.is_tuple, np.empty

        def run(*arrays: Any, out: Array | None = None) -> Any:
            if out is not None:
                return native(*arrays, *constants, out)
            made = [empty(shape, dtype) for shape, dtype in specs]
            native(*arrays, *constants, *made)
            return tuple(made) if is_tuple else made[0]

        return run

    def run(self, *arrays: Any, out: Array | None = None) -> Any:
        """Any arrays, on all threads."""
        specs, inputs = self.specs, len(self.region.graph.inputs)
        given = [a for a in arrays if a is not None]
        written = given[inputs + len(self.constants) :]  # called by the built-in function
        dense = [np.require(array, requirements=("C", "A")) for array in given[:inputs]]
        made: list[Array] = list(written)
        if not made:
            fits = out is not None and out.flags.c_contiguous and out.flags.aligned
            made = [out] if out is not None and fits else [np.empty(s.shape, s.dtype) for s in specs]
        self._compute([*dense, *self.constants, *made], made)
        if out is not None and made[0] is not out:
            out[...] = made[0]
            return out
        return tuple(made) if self.region.is_tuple else made[0]

    def _compute(self, arrays: list[Array], made: list[Array]) -> None:
        addresses = [address(array) for array in arrays]
        kernel = self.kernel
        if self.streaming is not None and len({a % 64 for a in addresses[len(arrays) - len(made) :]}) == 1:
            kernel = self.streaming[0]
        table, flat = address(self.table), len(self.sizes) == 1 and not self.reduces
        end, words = self.end, ctypes_array(len(addresses) + 1)

        def part(first: int, last: int) -> None:
            scratch = np.empty(self.scratch_bytes, np.uint8)
            data = words(*addresses, address(scratch))
            if flat:
                first, last = first * UNIT, min(last * UNIT, end)
            kernel(data, table, first, last)

        count = -(-end // UNIT) if flat else end
        in_parts(part, count, LEAST_WORK * self.seconds / 1e-4)


@lru_cache(maxsize=64)
def ctypes_array(count: int) -> Any:
    """The type of an array of so many addresses."""
    import ctypes

    return ctypes.c_void_p * count

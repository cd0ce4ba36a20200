"""Sums, means, products and extrema over neighbouring axes: ``kernels/reduce.cu``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.infer import normalize_axes
from opyard.operation import Call
from opyard.spec import TensorSpec

from ..sources import CudaSource
from .launch import BLOCK, LARGEST, TYPES, blocks, function, instance, pack, runner, sizes, text, wide

WAYS = {"sum": "Sum", "mean": "Sum", "prod": "Product", "max": "Greatest", "min": "Least"}
"""How each op combines two values."""

_BUSY = 1024
"""Blocks that keep a large GPU busy; fewer are cut into pieces."""

_SHORT = 1024
"""Elements of a row up to which a warp reduces it."""

_PIECE = 2048
"""The least elements of a piece of a row."""

_MOST_PIECES = 1024


@dataclass(frozen=True, slots=True)
class Extents:
    """``[outer, reduced, inner]``, of which the middle is reduced."""

    outer: int
    reduced: int
    inner: int

    @staticmethod
    def of(call: Call) -> Extents | None:
        """The axes of a call put together, or None where those that are reduced are no neighbours."""
        shape = sizes(call.inputs[0])
        axes = set(normalize_axes(call.attrs["axis"], len(shape)))
        counted = [axis for axis, size in enumerate(shape) if size != 1]
        reduced = [axis for axis in counted if axis in axes]
        kept = [axis for axis in counted if axis not in axes]
        if not reduced:
            return Extents(math.prod(shape), 1, 1)
        if any(reduced[0] < axis < reduced[-1] for axis in kept):
            return None
        outer = math.prod(shape[axis] for axis in kept if axis < reduced[0])
        inner = math.prod(shape[axis] for axis in kept if axis > reduced[-1])
        return Extents(outer, math.prod(shape[axis] for axis in reduced), inner)


def accepts(call: Call, device: Device) -> str | None:
    """Takes axes that lie side by side."""
    extents = Extents.of(call)
    if extents is None:
        return f"reduces axes that are neighbours, not {call.attrs['axis']} of {len(sizes(call.inputs[0]))}"
    groups = extents.outer * blocks(extents.inner, 32)
    if groups > LARGEST:
        return f"gives up to {LARGEST} rows, not {groups}"
    return None


@dataclass(frozen=True, slots=True)
class _Stage:
    """One launch, over ``[outer, reduced, inner]``."""

    extents: Extents
    pieces: int
    piece: int
    width: int

    @staticmethod
    def of(extents: Extents, dtype: np.dtype[Any], cut: bool) -> _Stage:
        outer, reduced, inner = extents.outer, extents.reduced, extents.inner
        width = pack(dtype, reduced) if inner == 1 else 1
        groups, least = (outer, _PIECE) if inner == 1 else (outer * blocks(inner, 32), 64)
        pieces = 1
        if cut and reduced > _SHORT:
            pieces = max(1, min(blocks(_BUSY, max(1, groups)), reduced // least, _MOST_PIECES))
        piece = max(width, blocks(blocks(reduced, pieces), width) * width)
        return _Stage(extents, max(1, blocks(reduced, piece)), piece, width)

    @property
    def group(self) -> int:
        """Threads that share a row."""
        return 32 if self.extents.reduced <= _SHORT else BLOCK

    def entry(self, way: str, given: str, gives: str) -> str:
        """The name of the instance."""
        if self.extents.inner == 1:
            return instance("reduce_rows", way, given, gives, self.width, self.group)
        return instance("reduce_columns", way, given, gives)

    def launcher(self, way: str, given: str, gives: str) -> Callable[[Any, Any, float], None]:
        """A function that reduces ``x`` into ``y`` and divides the result."""
        outer, reduced, inner = self.extents.outer, self.extents.reduced, self.extents.inner
        kernel = function("reduce", self.entry(way, given, gives))
        grid: tuple[int, ...]
        block: tuple[int, ...]
        if inner == 1:
            grid, block = (blocks(outer, BLOCK // self.group), self.pieces), (BLOCK,)
            extents = (np.int64(outer), np.int64(reduced), np.int64(self.piece))
        else:
            grid, block = (outer * blocks(inner, 32), self.pieces), (32, 8)
            extents = (np.int64(reduced), np.int64(inner), np.int64(self.piece))

        def launch(x: Any, y: Any, divisor: float) -> None:
            kernel(grid, block, (x, y, *extents, np.float64(divisor)))

        return launch


def prepare(call: Call, device: Any) -> Callable[..., Any]:
    """A function that reduces in one launch or, where that would leave the GPU idle, in two."""
    dtype, extents = call.output.dtype, Extents.of(call)
    assert extents is not None
    way, given, between = WAYS[call.op.name], TYPES[dtype.name], wide(dtype.name)
    divisor = float(extents.reduced) if call.op.name == "mean" else 1.0
    stage = _Stage.of(extents, dtype, cut=True)
    if stage.pieces == 1:
        only = stage.launcher(way, given, given)
        return runner(call, device, lambda arrays, result: only(arrays[0], result, divisor))
    partial = TensorSpec(
        (extents.outer, stage.pieces, extents.inner), "float64" if between == "double" else "float32"
    )
    first = stage.launcher(way, given, between)
    last = _Stage.of(Extents(*partial.shape), partial.dtype, cut=False).launcher(way, between, given)  # type: ignore[arg-type]

    def launch(arrays: Sequence[Any], result: Any) -> None:
        pieces = device.empty(partial)
        first(arrays[0], pieces, 1.0)
        last(pieces, result, divisor)

    return runner(call, device, launch)


def sources() -> Iterator[CudaSource]:
    """For each dtype rows in one stage and both of two, and columns; all ways of float32."""
    for dtype, name in TYPES.items():
        ways = dict.fromkeys(WAYS.values()) if dtype == "float32" else ("Sum", "Greatest")
        entries = []
        for extents in (Extents(1, 1024, 1), Extents(1, 2**20, 1), Extents(1, 64, 8)):
            stage = _Stage.of(extents, TensorSpec((1,), dtype).dtype, cut=True)
            entries += [stage.entry(way, name, name) for way in ways]
        entries += [stage.entry("Sum", name, wide(dtype)), stage.entry("Sum", wide(dtype), name)]
        yield CudaSource(f"reduce/{dtype}", text("reduce"), tuple(dict.fromkeys(entries)))

"""The region compiler ``jit_parts``: functions of elements of the parts of a row, such as the gates of an LSTM cell, as one loop.

A graph adds up a row and splits it into equal parts, which it then combines. The parts of a sum are the sums of the parts, so here
the loop runs over a part, and reads each array that has the whole row at several places. These are not made: a compiled function
turns the addresses of arrays into those of their parts, and calls the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from opyard import Graph, TensorSpec, reshape
from opyard.driver import Device
from opyard.graph import Value
from opyard.operation import Call
from opyard.region import Region

from . import region as whole
from .compiled import Compiled, pointers
from .launch import KERNEL, address, built_in
from .machine import Module, compiler
from .scalars import Untranslatable
from .space import RESHAPES, is_elementwise
from .steps import Step, steps_of

MOST = 16
"""Parts that a row is split into."""

_SOURCE = """
define void @kernel(ptr %data, ptr %table, i64 %begin, i64 %end) nounwind {
entry:
  %run = load ptr, ptr %table
  %at.words = getelementptr i64, ptr %table, i64 1
  %words = load ptr, ptr %at.words
  %at.last = getelementptr i64, ptr %table, i64 2
  %last = load i64, ptr %at.last
  %parts = alloca ptr, i64 %end
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %j, %loop ]
  %twice = shl i64 %i, 1
  %place = add i64 %twice, 3
  %at.number = getelementptr i64, ptr %table, i64 %place
  %number = load i64, ptr %at.number
  %at.offset = getelementptr i64, ptr %at.number, i64 1
  %offset = load i64, ptr %at.offset
  %at.array = getelementptr ptr, ptr %data, i64 %number
  %array = load ptr, ptr %at.array
  %part = getelementptr i8, ptr %array, i64 %offset
  %at.part = getelementptr ptr, ptr %parts, i64 %i
  store ptr %part, ptr %at.part
  %j = add i64 %i, 1
  %again = icmp ult i64 %j, %end
  br i1 %again, label %loop, label %go
go:
  call void %run(ptr %parts, ptr %words, i64 0, i64 %last)
  ret void
}
"""
"""``table``: the loop, its table, its end, and for each array of the loop the number of the array that it lies in, and where."""


def claims(call: Call, device: Device) -> str | None:
    """Why a call cannot be a part of a region here, or None."""
    x = call.inputs[0]
    if call.op.name != "split" or x is None:
        if call.op.scalar is None and call.op.name not in RESHAPES:
            return f"{call.op.name} is neither elementwise nor splits a row"
        return whole.claims(call, device)
    *outer, size = map(int, x.shape)
    sizes = {int(spec.shape[-1]) for spec in call.outputs if spec.ndim}
    if call.attrs["axis"] % x.ndim != x.ndim - 1 or any(n != 1 for n in outer) or not size:
        return "only a single row is split here"
    if len(sizes) > 1 or len(call.outputs) > MOST:
        return f"only up to {MOST} equal parts are made here"
    return None


class _Parts:
    """A region on its way to one without splits. ``sources``: for each input the number of the array, and the offset in bytes."""

    def __init__(self, region: Region) -> None:
        self.old, self.graph = region.graph, Graph()
        self.sources: list[tuple[int, int]] = []
        self._numbers = {value: number for number, value in enumerate(self.old.inputs.values())}
        self._makers = {value: node for node in self.old.nodes for value in node.outputs}
        self._known: dict[tuple[Value, int, int], Value] = {}

    def part(self, value: Value, begin: int, size: int) -> Value:
        """The elements of a row, from one on, so many of them; of a value that is one number, this number."""
        width = int(value.spec.shape[-1]) if value.spec.ndim else 1
        if width == 1:
            begin, size = 0, 1
        elif begin + size > width or int(value.spec.size) != width:
            raise Untranslatable("what is split is not a single row")
        key = (value, begin, size)
        if key not in self._known:
            self._known[key] = self._made(value, begin, size)
        return self._known[key]

    def whole(self, value: Value) -> Value:
        """A value as it is."""
        return self.part(value, 0, int(value.spec.shape[-1]) if value.spec.ndim else 1)

    def _made(self, value: Value, begin: int, size: int) -> Value:
        if value in self.old.constants:
            array = self.old.constants[value]
            return self.graph.constant(
                np.ascontiguousarray(array[..., begin : begin + size]) if array.ndim else array
            )
        if value in self._numbers:
            shape = (*value.spec.shape[:-1], size) if value.spec.ndim else ()
            self.sources.append((self._numbers[value], begin * value.spec.dtype.itemsize))
            return self.graph.input(f"part_{len(self.sources)}", TensorSpec(shape, value.spec.dtype))
        node = self._makers[value]
        source = node.inputs[0]
        assert source is not None
        if node.op.name == "split":
            number = next(n for n, output in enumerate(node.outputs) if output is value)
            return self.part(source, size_of(value) * number + begin, size)
        if is_elementwise(node):
            inputs = [None if v is None else self.part(v, begin, size) for v in node.inputs]
            made: Value = self.graph.apply(node.op, inputs, node.call.attrs)
            return made
        taken = self.part(source, begin, size)
        if taken.spec.size != size:
            raise Untranslatable("it changes the shape")
        found: Value = self.graph.apply(
            reshape.op, (taken,), {"shape": (*map(int, value.spec.shape[:-1]), size)}
        )
        return found


def size_of(value: Value) -> int:
    """Elements along the last axis."""
    return int(value.spec.shape[-1]) if value.spec.ndim else 1


@lru_cache(maxsize=512)
def _joined(region: Region) -> tuple[Step, tuple[tuple[int, int], ...]]:
    """The loop of a region, and where its inputs lie. Raises Untranslatable."""
    if all(node.op.name != "split" for node in region.graph.nodes):
        raise Untranslatable("nothing is split, so cpu/jit does the same")
    parts = _Parts(region)
    outputs = list(region.graph.outputs.values())
    if len(set(outputs)) < len(outputs):
        raise Untranslatable("an output is given twice")
    for number, value in enumerate(outputs):
        parts.graph.output(f"output_{number}", parts.whole(value))
    if all(node.op.name in RESHAPES for node in parts.graph.nodes):
        raise Untranslatable("nothing is to be computed")
    (step,) = steps_of(Region(parts.graph))  # without reductions there is one
    return step, tuple(parts.sources)


def accepts(region: Region, device: Device) -> str | None:
    """Why a region cannot be compiled, or None."""
    try:
        _joined(region)
    except Untranslatable as error:
        return str(error)
    return None


def cost(region: Region, device: Device) -> float:
    """Estimated seconds."""
    return whole.cost(_joined(region)[0].region, device)


@lru_cache(maxsize=1)
def _module() -> Module:
    return compiler().function(_SOURCE)


def prepare(region: Region, device: Device) -> Callable[..., Any]:
    """The function of a region."""
    step, sources = _joined(region)
    loop, given = Compiled(step, 0.0), len(region.graph.inputs)
    others = range(given, given + len(loop.constants) + len(loop.specs) + 1)  # the scratch memory is the last
    words = [loop.module.address, address(loop.table), loop.end]
    for number, offset in (*sources, *((number, 0) for number in others)):
        words += [number, offset]
    table, count = np.array(words, np.int64), len(sources) + len(others)
    kernel = KERNEL(_module().address)

    def by_ctypes(*arrays: Any) -> Any:
        dense = [np.require(array, requirements=("C", "A")) for array in arrays]
        scratch = np.empty(loop.scratch_bytes, np.uint8)
        data = pointers(len(arrays) + 1)(*map(address, dense), address(scratch))
        kernel(data, address(table), 0, count)
        return arrays[-1]

    arrays = given + len(others) - 1
    native = built_in(_module(), arrays, table, count, loop.scratch_bytes, by_ctypes, needed=(loop, step))
    outputs, constants, empty = [(s.shape, s.dtype) for s in loop.specs], loop.constants, np.empty
    is_tuple = region.is_tuple

    def run(*arrays: Any) -> Any:
        made = [empty(shape, dtype) for shape, dtype in outputs]
        native(*arrays, *constants, *made)
        return tuple(made) if is_tuple else made[0]

    return run

"""Elementwise ops on large arrays, alone and in chains, as one step: block by block through the cache, on all threads.

What a chain computes is what its ops' own kernels compute, by the same functions of NumPy, to the bit; only what lies between them
never reaches memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from opyard import Node, Value
from opyard.driver import Device
from opyard.operation import Call
from opyard.region import Region

from . import elementwise
from .plugin import ELEMENTWISE, FLOATS, UFUNCS
from .selection import choose
from .threads import in_parts

Array = np.ndarray[Any, Any]

BLOCK = 1 << 15
"""Elements of a block."""

CALL_SECONDS = 2e-5
"""What one call takes beside the arithmetic: for small arrays more than all of it."""

EFFICIENCY = 0.8
"""Of the roofline of what enters and leaves."""

OPERATIONS = 10
"""Of an element in one op, in units of those of matrix products."""


def claims(call: Call, device: Device) -> str | None:
    """Why a call cannot be a part of a chain, or None."""
    name, output = call.op.name, call.output
    if name not in UFUNCS and name not in ELEMENTWISE and name not in ("relu", "where"):
        return f"{name} is not among the elementwise ops that are fused here"
    if int(output.size) == 1:  # nor may it be broadcast to what else is in its region
        return "a single number is no array"
    specs = [spec for spec in call.inputs if spec is not None]
    if any(spec.shape != output.shape and int(spec.size) != 1 for spec in specs):
        return "an input is broadcast along some axes; only single numbers are broadcast here"
    if name in ELEMENTWISE and any(spec.dtype.name not in FLOATS for spec in specs):
        return f"{name} is fused for {' and '.join(FLOATS)}"
    if name == "relu" and output.dtype.kind not in "fiu":
        return "relu is fused for numbers that NumPy knows"
    if name == "where" and (output.dtype.itemsize > 8 or any(s.dtype != output.dtype for s in specs[1:])):
        return "where is fused for two inputs of one dtype of at most 64 bits"
    return None


def cost(region: Region, device: Device) -> float:
    """Estimated seconds."""
    work, abilities = region.cost, device.capabilities
    return max(work.flops / abilities.flops, work.bytes / abilities.bandwidth) / EFFICIENCY + CALL_SECONDS


def prepare(region: Region, device: Device) -> Callable[..., Any]:
    """The function that computes a chain; it writes into ``out`` where it has one output.

    All of its nodes have one shape: claimed calls take that, and single numbers.
    """
    graph = region.graph
    shape = tuple(map(int, graph.nodes[0].outputs[0].shape))
    size = int(graph.nodes[0].outputs[0].spec.size)
    part = _compiled(region)
    dtypes = [spec.dtype for spec in region.outputs]
    work = OPERATIONS * len(graph.nodes) * size

    def run(*arrays: Array, out: Array | None = None) -> Any:
        given = [np.ascontiguousarray(array).reshape(-1) for array in arrays]
        dense = out is None or not out.flags.c_contiguous
        made = [np.empty(shape, dtype) for dtype in dtypes] if dense else [out]
        flat = [array.reshape(-1) for array in made if array is not None]
        in_parts(lambda first, last: part(first, last, *given, *flat), size, work)
        if out is not None and dense:
            out[...] = flat[0].reshape(shape)
            return out
        return tuple(made) if region.is_tuple else made[0]

    return run


def _compiled(region: Region) -> Callable[..., None]:
    """``part(first, last, *inputs, *outputs)`` as straight-line code: one line for each op, for one block after the other."""
    graph, plan = region.graph, _Registers(region)
    scope: dict[str, Any] = {"empty": np.empty, "block": BLOCK}
    names: dict[Value, str] = {}
    slices, given = [], set(graph.inputs.values())
    for number, value in enumerate((*graph.inputs.values(), *graph.outputs.values())):
        single = value in given and int(value.spec.size) == 1
        names[value] = f"w{number}" if single else f"a{number}"
        if not single:
            slices.append(f"        a{number} = w{number}[start:end]")
    for number, (value, array) in enumerate(graph.constants.items()):
        names[value] = f"c{number}"
        scope[f"c{number}"] = np.ascontiguousarray(array).reshape(-1)
    lines = []
    for number, node in enumerate(graph.nodes):
        (output,) = node.outputs
        if output not in names:
            names[output] = f"t{plan.register[output]}"
        scope[f"f{number}"] = _function(node)
        inputs = ", ".join(names[value] for value in node.inputs if value is not None)
        lines.append(f"        f{number}({inputs}, out={names[output]})")
    parameters = (f"w{number}" for number in range(len(graph.inputs) + len(graph.outputs)))
    temporaries = []
    for number, dtype in enumerate(plan.dtypes):
        scope[f"d{number}"] = dtype
        temporaries.append(f"    u{number} = empty(block, d{number})")
        slices.append(f"        t{number} = u{number}[:end - start]")
    source = [f"def part(first, last, {', '.join(parameters)}):", *temporaries]
    source += ["    for start in range(first, last, block):", "        end = min(start + block, last)"]
    exec("\n".join([*source, *slices, *lines]), scope)
    found: Callable[..., None] = scope["part"]
    return found


class _Registers:
    """Which temporary holds which value: ``dtypes`` of the temporaries, and the number of that of each value."""

    def __init__(self, region: Region) -> None:
        graph = region.graph
        outputs = set(graph.outputs.values())
        last = {value: node for node in graph.nodes for value in node.inputs}
        self.dtypes: list[np.dtype[Any]] = []
        self.register: dict[Value, int] = {}
        free: list[int] = []
        for node in graph.nodes:
            (output,) = node.outputs
            if output not in outputs:
                self.register[output] = self._taken(output.dtype, free)
            # only now, for not every function may write over what it reads
            free += [self.register[v] for v in self._ending(node, last) if v in self.register]

    @staticmethod
    def _ending(node: Node, last: dict[Value | None, Node]) -> Iterator[Value]:
        for value in dict.fromkeys((*node.inputs, *node.outputs)):
            if value is not None and last.get(value, node) is node:
                yield value

    def _taken(self, dtype: np.dtype[Any], free: list[int]) -> int:
        found = next((number for number in free if self.dtypes[number] == dtype), None)
        if found is None:
            self.dtypes.append(dtype)
            return len(self.dtypes) - 1
        free.remove(found)
        return found


def _function(node: Node) -> Callable[..., Any]:
    """``function(*inputs, out=...)`` on flat arrays, as the kernel of the op."""
    name = node.op.name
    if name == "where":
        return choose
    function = getattr(np, name) if name in UFUNCS else getattr(elementwise, name)
    return partial(function, **node.call.attrs) if node.call.attrs else function

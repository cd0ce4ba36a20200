"""A region compiler for tests: elementwise regions as one generated Python function over NumPy, with buffers used again.

Large arrays are worked through in blocks that fit into a cache, which is why one pass over a region can be faster than one
pass for each of its ops. Blocks are cut from the first axis of flat arrays, so that all tensors of a region have one shape,
or a single element.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

import opyard as oy
from opyard.region import Region

UFUNCS: dict[str, np.ufunc] = {
    **{name: getattr(np, name) for name in ("add", "subtract", "multiply", "maximum", "minimum", "divide")},
    **{
        name: getattr(np, name) for name in ("exp", "negative", "abs", "sqrt", "square", "tanh", "sin", "cos")
    },
}

BLOCK = 1 << 14
"""Elements of a block: 64 KiB of float32."""


def claims(call: oy.Call, device: oy.Device) -> str | None:
    """Ops that are ufuncs, on operands of one shape or of a single element."""
    if call.op.name not in UFUNCS:
        return f"{call.op.name} is no ufunc"
    shape = call.output.shape
    odd = next((s for s in call.inputs if s is not None and s.shape != shape and s.size != 1), None)
    return None if odd is None else f"an operand has shape {odd.shape}, the result {shape}"


def accepts(region: Region, device: oy.Device) -> str | None:
    """Regions of which all outputs have one shape."""
    shapes = {spec.shape for spec in region.outputs}
    return None if len(shapes) == 1 else f"its outputs have {len(shapes)} shapes"


def source_of(region: Region) -> tuple[str, int]:
    """The function for one block, and the number of buffers it needs: each is taken again when its tensor is dead."""
    graph = region.graph
    names: dict[Any, str] = {value: f"x{number}" for number, value in enumerate(graph.inputs.values())}
    names |= {value: f"c{number}" for number, value in enumerate(graph.constants)}
    outputs = {value: f"y{number}" for number, value in enumerate(graph.outputs.values())}
    last = {value: number for number, node in enumerate(graph.nodes) for value in node.inputs}
    free: list[str] = []
    count, rows = 0, []
    for number, node in enumerate(graph.nodes):
        (made,) = node.outputs
        arguments = ", ".join(names[value] for value in node.inputs if value is not None)
        free += [name for v, name in names.items() if name.startswith("b") and last[v] == number]
        if made in outputs:
            names[made] = outputs[made]
        else:  # a buffer that an operand leaves here can take the result
            if not free:
                free.append(f"b{count}")
                count += 1
            names[made] = free.pop()
        rows.append(f"    {node.op.name}({arguments}, out={names[made]})")
    buffers = [f"b{number}" for number in range(count)]
    parameters = ", ".join([*(names[v] for v in graph.inputs.values()), *outputs.values(), *buffers])
    return "\n".join([f"def block({parameters}):", *rows]), count


def prepare(region: Region, device: oy.Device) -> Callable[..., Any]:
    """Compiles a region."""
    source, count = source_of(region)
    scope: dict[str, Any] = dict(UFUNCS)
    scope |= {f"c{number}": array.reshape(-1) for number, array in enumerate(region.graph.constants.values())}
    exec(source, scope)
    block: Callable[..., None] = scope["block"]
    shape, dtypes = region.outputs[0].shape, [spec.dtype for spec in region.outputs]
    size = int(np.prod(shape))
    local = threading.local()

    def run(*arrays: Any) -> Any:
        if not hasattr(local, "buffers"):
            local.buffers = [np.empty(min(size, BLOCK), dtypes[0]) for _ in range(count)]
        flat = [np.ascontiguousarray(array).reshape(-1) for array in arrays]
        results = [np.empty(shape, dtype) for dtype in dtypes]
        whole = [result.reshape(-1) for result in results]
        for start in range(0, size, BLOCK):
            part = slice(start, start + BLOCK)
            length = min(size, start + BLOCK) - start
            block(
                *(array if array.size == 1 else array[part] for array in flat),
                *(array[part] for array in whole),
                *(buffer[:length] for buffer in local.buffers),
            )
        return tuple(results) if region.is_tuple else results[0]

    return run

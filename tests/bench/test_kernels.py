"""Every kernel of some calls, on every device of this machine, beside the reference.

    uv run pytest tests/bench --benchmark-only --benchmark-group-by=group

A kernel is compared with the reference before it is timed; a wrong one fails.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest

import opyard as oy

FLOAT = "float32"
CALLS: dict[str, tuple[Any, list[tuple[int, ...]], dict[str, Any]]] = {
    "add 1M": (oy.add, [(1024, 1024), (1024, 1024)], {}),
    "exp 1M": (oy.exp, [(1024, 1024)], {}),
    "gelu 1M": (oy.gelu, [(1024, 1024)], {}),
    "sum rows": (oy.sum, [(1024, 1024)], {"axis": 1}),
    "sum columns": (oy.sum, [(1024, 1024)], {"axis": 0}),
    "softmax 1024": (oy.softmax, [(1024, 1024)], {}),
    "layer norm 1024": (oy.layer_normalization, [(1024, 1024), (1024,), (1024,)], {}),
    "matmul 256": (oy.matmul, [(256, 256), (256, 256)], {}),
    "matmul 1024": (oy.matmul, [(1024, 1024), (1024, 1024)], {}),
    "conv 3x3": (oy.conv, [(1, 64, 56, 56), (64, 64, 3, 3)], {"padding": 1}),
    "max pool 2x2": (oy.max_pool, [(1, 64, 56, 56)], {"kernel": 2}),
}


def cells() -> list[Any]:
    """One parameter for each accepted kernel of each call on each device; none unless benchmarks were asked for."""
    if "--benchmark-only" not in sys.argv:
        return []
    registry = oy.default_registry()
    rows = []
    for title, (function, shapes, attributes) in CALLS.items():
        call = function.op.call(*(oy.TensorSpec(shape, FLOAT) for shape in shapes), **attributes)
        for candidate in oy.candidates(call, registry.devices(), registry):
            if candidate.refusal is None:
                name = f"{title}-{candidate.kernel.id}-{candidate.device.name}"
                rows.append(pytest.param(title, call, candidate, id=name))
    return rows


@pytest.mark.parametrize(("title", "call", "candidate"), cells())
def test_kernel(opyard_bench: Any, benchmark: Any, title: str, call: oy.Call, candidate: Any) -> None:
    benchmark.group = title
    opyard_bench(call, kernel=candidate.kernel.id, device=candidate.device.name)

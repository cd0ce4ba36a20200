"""Products of matrices of float16 and bfloat16 with a bias and an activation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.region import Region

from ..kernels import epilogues
from ..kernels.epilogues import Work
from ..native.launch import LARGEST, blocks, runner, sizes
from .launch import Program, launcher, missing

GROUP = 8
"""Rows of tiles that run side by side."""


def accepts_product(work: Work, device: Device) -> str | None:
    """Takes what cuBLASLt takes, a weight that is a matrix and a bias that is a row, of up to 2^31 - 1 rows and columns."""
    reason = missing(device) or epilogues.accepts(work, device)
    if reason is None and max(extents := _extents(work)) > LARGEST:
        return f"takes up to {LARGEST} rows and columns, not {', '.join(map(str, extents))}"
    return reason


def _extents(work: Work) -> tuple[int, int, int]:
    """m, n and k."""
    x, weight = work.inputs[:2]
    k, n = sizes(weight)
    assert x is not None
    return int(x.size) // k, n, k


def _activation(work: Work) -> str:
    for node in work.graph.nodes if isinstance(work, Region) else ():
        if node.op.name == "gelu":
            return "gelu_tanh" if node.call.attrs["approximate"] == "tanh" else "gelu"
        if node.op.name in ("relu", "silu"):
            return node.op.name
    return ""


def program(work: Work) -> tuple[Program, tuple[int]]:
    """The program of a product, and its grid. Tiles are small where large ones would leave multiprocessors idle."""
    m, n, k = _extents(work)
    dtype = work.outputs[0].dtype.name
    has_bias = len(work.inputs) > 2 and work.inputs[2] is not None
    small = blocks(m, 128) * blocks(n, 128) < 100
    high, wide, warps = (64, 64, 4) if small else (128, 128, 8)
    made = Program.of(
        "product",
        {"x": dtype, "weight": dtype, "bias": dtype if has_bias else None, "result": dtype},
        {"m": m, "n": n, "k": k},
        {"ACTIVATION": _activation(work), "BLOCK_M": high, "BLOCK_N": wide, "BLOCK_K": 64, "GROUP": GROUP},
        warps=warps,
    )
    return made, (blocks(m, high) * blocks(n, wide),)


def prepare_product(work: Work, device: Any) -> Callable[..., Any]:
    """A function of the matrix or stack of rows ``x``, the weight and the bias."""
    made, grid = program(work)
    start, numbers = launcher(made, device, grid), tuple(map(np.int32, _extents(work)))

    def launch(arrays: Sequence[Any], result: Any) -> None:
        start(*(array for array in arrays if array is not None), result, *numbers)

    return runner(work, device, launch)

"""Runs the programs in Triton's language on NumPy arrays, by Triton's interpreter, and compares them with the reference.

The interpreter has to be chosen before Triton is imported: TRITON_INTERPRET=1 python -m tests.backends.cuda.triton_trials
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import ml_dtypes  # noqa: F401  NumPy knows bfloat16 by it
import numpy as np

import opyard as oy
from opyard.cases import Case, Draw
from opyard.kernels import Kernel, Work
from opyard.operation import Op
from opyard.ops import STANDARD
from opyard.placement.matching import find_matches
from opyard.placement.patterns import Pattern
from opyard.registry import Registry
from opyard.spec import TensorSpec
from opyard.testing import violation
from opyard_cuda import array_module, triton_kernels
from opyard_cuda.triton_kernels.launch import Program

from .conftest import HostDevice
from .native_trials import SPECIAL

ROWS = ((1,), (3, 1), (5, 33), (2, 3, 256), (2, 4100), (0, 4), (4, 0))

# m, k, n: single elements, odd sizes, whole tiles, more tiles below each other than a group has, and large tiles
PRODUCTS = ((1, 1, 1), (3, 5, 7), (70, 130, 65), (64, 64, 128), (650, 40, 130), (1270, 33, 1300))


class Hopper(HostDevice):
    """Stands for a GPU of compute capability 9.0 on which kernels of Triton run."""

    number = 0

    def __init__(self, feature: str = "sm_90") -> None:
        super().__init__()
        self.capabilities = replace(self.capabilities, features=frozenset({feature}))


class Tensor:
    """What the interpreter uses of PyTorch's tensors, over a NumPy array: on the CPU nothing is moved."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array
        self.dtype = array.dtype.name

    def data_ptr(self) -> int:
        return self.array.ctypes.data

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in (
            "untyped_storage",
            "cpu",
            "new_empty",
            "set_",
            "copy_",
            "storage_offset",
            "size",
            "stride",
        ):
            return lambda *_, **__: self
        raise AttributeError(name)


def interpreted(program: Program, device: Any, grid: tuple[int, ...]) -> Callable[..., None]:
    """Stands for ``launch.launcher``: it runs the program by the interpreter."""
    from opyard_cuda.triton_kernels import programs

    names = [name for name, kind in program.types if kind != "constexpr"]

    def launch(*arguments: Any) -> None:
        values = [Tensor(a) if isinstance(a, np.ndarray) else a.item() for a in arguments]
        given = dict(zip(names, values, strict=True))
        getattr(programs, program.entry)[grid](**given, **dict(program.constants))

    return launch


def works(registry: Registry, kernel: Kernel) -> Iterator[tuple[Work, list[Any]]]:
    """What the kernel is tried on, with its arrays."""
    for case in _cases(registry, kernel):
        specs = [None if draw is None else draw.spec for draw in case.inputs]
        arrays = list(case.arrays())
        if kernel.pattern is None:
            yield registry.get_op(kernel.op).call(*specs, **case.attributes), arrays
        else:
            for approximate in ("none", "tanh") if "gelu" in kernel.name else ("",):
                graph = _with_approximation(kernel, specs, approximate)
                (match,) = find_matches(Pattern.of(kernel), graph)
                yield match.work, arrays
    if "softmax" in kernel.op:
        yield registry.get_op(kernel.op).call(TensorSpec.of(SPECIAL), axis=-1), [SPECIAL]


def _with_approximation(kernel: Kernel, specs: list[Any], approximate: str) -> oy.Graph:
    if not approximate:
        return oy.trace(kernel.pattern, *specs)

    def function(x: Any, weight: Any, *bias: Any) -> Any:
        total = oy.matmul(x, weight)
        return oy.gelu(oy.add(total, *bias) if bias else total, approximate=approximate)

    return oy.trace(function, *specs)


def _cases(registry: Registry, kernel: Kernel) -> Iterator[Case]:
    op = registry.get_op(kernel.op) if kernel.op else None
    if op is None or op.name in ("matmul", "linear"):
        yield from _products(op, kernel)
        return
    given = {"softmax": 1, "log_softmax": 1, "rms_normalization": 2, "layer_normalization": 3}[op.name]
    for dtype in triton_kernels.FLOATS:
        yield from (_of(case, dtype) for case in op.cases())
        for shape in ROWS:
            parameters = (Draw(shape[-1:], "float32") for _ in range(given - 1))
            yield Case((Draw(shape, dtype), *parameters), {"axis": -1})


def _products(op: Op | None, kernel: Kernel) -> Iterator[Case]:
    """Of float16 alone: the interpreter multiplies the bits of bfloat16."""
    if op is not None:
        yield from (_of(case, "float16") for case in op.cases())
    with_bias = "linear" in kernel.op or "bias" in kernel.name
    for m, k, n in PRODUCTS if op is not None else PRODUCTS[1:3]:
        bias = [Draw((n,), "float16")] if with_bias else []
        yield Case((Draw((m, k), "float16"), Draw((k, n), "float16"), *bias))


def _of(case: Case, dtype: str) -> Case:
    return replace(case, inputs=tuple(draw and replace(draw, dtype=dtype) for draw in case.inputs))


def main() -> None:
    """Tries each kernel; prints how often, and exits with the first disagreement."""
    from opyard_cuda.triton_kernels import products, rows

    array_module.MODULE = "numpy"
    array_module.address = lambda array: array.ctypes.data  # type: ignore[assignment]
    products.launcher = rows.launcher = interpreted  # type: ignore[assignment]
    registry, device = Registry(), Hopper()
    registry.ops_from(STANDARD)
    triton_kernels.register(registry)
    for kernel in registry.all_kernels():
        tried = 0
        for work, arrays in works(registry, kernel):
            if kernel.refusal(work, device) is not None:
                continue
            found = kernel.bind(work, device)(*arrays)
            problem = violation(work, arrays, [found])
            if problem is not None:
                sys.exit(f"{kernel.title}: {work}: {problem}")
            tried += 1
        print(kernel.op or kernel.name, tried)


if __name__ == "__main__":
    main()

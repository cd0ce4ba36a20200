"""What the launches have in common: sources by file and instance, types, dense arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from opyard.kernels import Work
from opyard.spec import TensorSpec

from .. import array_module, sources
from ..sources import CudaSource

TYPES = {"float32": "float", "float64": "double", "float16": "float16", "bfloat16": "bfloat16"}
"""The types that the kernels compute with, by dtype."""

FLOATS = tuple(TYPES)

NULL = np.uint64(0)
"""The pointer that is given for an array that is left out."""

BLOCK = 256
"""Threads of a block, where every thread works for itself."""

LARGEST = 2**31 - 1
"""Sizes up to which a kernel counts with 32 bits, and the most blocks of a launch."""


@cache
def text(file: str) -> str:
    """The CUDA C++ of ``kernels/FILE.cu``, behind what all kernels share."""
    folder = files(__package__.rpartition(".")[0]) / "kernels"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in ("common.cuh", f"{file}.cu"))


def instance(template: str, *arguments: object) -> str:
    """The name of an instance of a kernel's template, such as "softmax<float, 4>"."""
    words = (str(a).lower() if isinstance(a, bool) else str(a) for a in arguments)
    return f"{template}<{', '.join(words)}>"


def function(file: str, entry: str) -> Any:
    """A kernel: a function of grid, block and arguments."""
    return sources.module(CudaSource(f"{file}/{entry}", text(file), (entry,))).get_function(entry)


def sizes(spec: TensorSpec | None) -> tuple[int, ...]:
    """The shape of what is known to be concrete."""
    assert spec is not None
    return tuple(int(n) for n in spec.shape)


def wide(dtype: str) -> str:
    """The type that a dtype is computed in."""
    return "double" if dtype == "float64" else "float"


def pack(dtype: np.dtype[Any], count: int) -> int:
    """How many elements one instruction moves: 16 bytes of them where rows of ``count`` elements all begin at such a place."""
    width = 16 // dtype.itemsize
    return 1 if count % width else width


def blocks(count: int, of: int) -> int:
    """How many blocks of ``of`` elements hold ``count``."""
    return -(-count // of)


def dense(array: Any) -> Any:
    """The array, or a copy of it, without gaps and at an address that 16 bytes can be loaded from."""
    if array is None:
        return None
    return array if is_dense(array) else array.copy("C")


def is_dense(array: Any) -> bool:
    """Whether elements follow each other in order, from a multiple of 16 bytes on."""
    return bool(array.flags.c_contiguous) and array_module.address(array) % 16 == 0


def runner(work: Work, device: Any, launch: Callable[[Sequence[Any], Any], None]) -> Callable[..., Any]:
    """A function of arrays that gives a new one, or writes into ``out``; ``launch(arrays, result)`` gets dense ones."""
    output = work.outputs[0]

    def run(*arrays: Any, out: Any = None) -> Any:
        with device.handle:
            result = device.empty(output) if out is None or not is_dense(out) else out
            if result.size:
                launch([dense(array) for array in arrays], result)
            if out is None or out is result:
                return result
            out[...] = result
            return out

    return run


def or_null(array: Any) -> Any:
    """The array, or what is given for one that is left out."""
    return NULL if array is None else array

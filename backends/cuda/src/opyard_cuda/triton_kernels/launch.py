"""Programs of Triton, compiled for a GPU's architecture and launched by CuPy."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.errors import KernelError

from .. import array_module

POINTERS = {"float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16"}
"""Triton's types of arrays, by dtype."""

LEAST = 80
"""The least compute capability, without its point, that the programs are compiled for: all have bfloat16."""

_WARP = 32
_ALIGNMENT = 16
"""Bytes that the programs may assume addresses to be multiples of, and what they are told of sizes that are multiples of it."""

_SCRATCH = (np.uint64(0),) * 2
"""Two pointers that Triton adds to the parameters of each kernel: to memory that these programs do not ask for."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program with all that it is compiled for but the architecture.

    entry      name of the function in ``programs``
    types      Triton's type of each argument by name, "constexpr" for those that are known
    constants  values of the arguments that are known
    multiples  names of integers that are multiples of 16
    warps      warps of a block
    stages     how many steps of a loop are loaded ahead
    """

    entry: str
    types: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    multiples: tuple[str, ...] = ()
    warps: int = 4
    stages: int = 3

    @staticmethod
    def of(
        entry: str,
        arrays: dict[str, str | None],
        sizes: dict[str, int],
        constants: dict[str, Any],
        *,
        floats: tuple[str, ...] = (),
        warps: int = 4,
        stages: int = 3,
    ) -> Program:
        """A program that takes arrays of these dtypes (None: left out), then sizes, floats and constants, in this order."""
        absent = {name: None for name, dtype in arrays.items() if dtype is None}
        types = {
            **{name: "constexpr" if dtype is None else POINTERS[dtype] for name, dtype in arrays.items()},
            **dict.fromkeys(sizes, "i32"),
            **dict.fromkeys(floats, "fp32"),
            **dict.fromkeys(constants, "constexpr"),
        }
        multiples = tuple(name for name, size in sizes.items() if size % _ALIGNMENT == 0)
        known = {**absent, **constants}
        return Program(entry, tuple(types.items()), tuple(known.items()), multiples, warps, stages)


def missing(device: Device) -> str | None:
    """Why programs of Triton cannot run on the device, or None."""
    if find_spec("triton") is None:
        return "Triton is not installed; pip install 'opyard-cuda[triton]'"
    capability = architecture(device)
    if capability < LEAST:
        return (
            f"its programs are compiled for compute capability {LEAST / 10} and later, not {capability / 10}"
        )
    return None


def architecture(device: Device) -> int:
    """The compute capability of a GPU, without its point: 90 for 9.0."""
    found = (re.fullmatch(r"sm_(\d+)", feature) for feature in device.capabilities.features)
    return max((int(match[1]) for match in found if match), default=0)


@cache
def compiled(program: Program, capability: int) -> Any:
    """What Triton makes of a program: ``asm["ptx"]``, ``asm["cubin"]`` and ``metadata``. No GPU takes part."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from . import programs

    names = [name for name, _ in program.types]
    aligned = (name for name, kind in program.types if kind.startswith("*") or name in program.multiples)
    attributes = {(names.index(name),): [["tt.divisibility", _ALIGNMENT]] for name in aligned}
    source = ASTSource(
        getattr(programs, program.entry), dict(program.types), dict(program.constants), attributes
    )
    options = {"num_warps": program.warps, "num_stages": program.stages, "enable_fp_fusion": True}
    found = triton.compile(source, target=GPUTarget("cuda", capability, _WARP), options=options)
    if found.metadata.global_scratch_size:
        raise KernelError(
            f"the program {program.entry!r} wants {found.metadata.global_scratch_size} bytes of scratch memory, which is not given to it."
        )
    return found


@cache
def _function(program: Program, capability: int, device_number: int) -> tuple[Any, int]:
    """The kernel for one GPU, which is the current one, and its bytes of shared memory."""
    found = compiled(program, capability)
    files: dict[str, str] = found.metadata_group
    file = next(Path(path) for name, path in files.items() if name.endswith(".cubin"))
    kernel = array_module.xp().RawModule(path=str(file)).get_function(found.metadata.name)
    shared = int(found.metadata.shared)
    if shared:
        kernel.max_dynamic_shared_size_bytes = shared
    return kernel, shared


def launcher(program: Program, device: Any, grid: tuple[int, ...]) -> Callable[..., None]:
    """A function of the arguments that are not known, which starts the program on CuPy's current stream."""
    with device.handle:
        kernel, shared = _function(program, architecture(device), device.number)
    block = (program.warps * _WARP,)

    def launch(*arguments: Any) -> None:
        kernel(grid, block, (*arguments, *_SCRATCH), shared_mem=shared)

    return launch

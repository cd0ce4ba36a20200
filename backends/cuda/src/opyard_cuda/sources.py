"""Every CUDA C++ source of this package in one list, so that all of them can be compiled and looked at without a GPU.

What a kernel launches comes from such a source, too: what is checked is what runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from opyard.errors import RegistryError
from opyard.kernels import resolve

from . import array_module

OPTIONS = ("--std=c++17",)
"""Options of NVRTC for all sources."""


@dataclass(frozen=True, slots=True)
class CudaSource:
    """One program in CUDA C++, and the kernels in it.

    name     unique among all sources, such as "rows/softmax": its key in the table of what compiles
    text     what NVRTC compiles; it includes headers of CUDA alone, such as cuda_fp16.h
    entries  the kernels: functions declared ``extern "C"``, and instances of templates such as "softmax<float, 4>"
    options  further options of NVRTC
    summed   whether its kernels have one line in the table, with ranges: those of generated texts, which are many
    """

    name: str
    text: str
    entries: tuple[str, ...]
    options: tuple[str, ...] = ()
    summed: bool = False


PROVIDERS: tuple[str, ...] = (
    "opyard_cuda.elementwise_sources:sources",
    "opyard_cuda.fused_sources:sources",
    "opyard_cuda.native.rows:sources",
    "opyard_cuda.native.reduce:sources",
    "opyard_cuda.native.move:sources",
    "opyard_cuda.native.windows:sources",
    "opyard_cuda.native.attention:sources",
)
"""Functions without arguments, as "module:function", that give sources; each module of kernels adds its own."""


def all_sources() -> Iterator[CudaSource]:
    """All sources, in the order of PROVIDERS. Raises RegistryError for two of one name."""
    names: set[str] = set()
    for provider in PROVIDERS:
        for source in resolve(provider)():
            if source.name in names:
                raise RegistryError(
                    f"two CUDA sources are called {source.name!r}; {provider} must give its own another name."
                )
            names.add(source.name)
            yield source


@cache
def module(source: CudaSource) -> Any:
    """The CuPy module of a source: ``module(source).get_function(entry)`` is a kernel. It is compiled on first use, for each GPU."""
    return array_module.xp().RawModule(
        code=source.text, options=(*OPTIONS, *source.options), name_expressions=source.entries
    )

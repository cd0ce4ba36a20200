"""Elementwise ops from their scalar expressions: one generated CUDA kernel for each op and each combination of dtypes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.errors import SpecError
from opyard.operation import Call
from opyard_codegen import CUDA, Printer, type_of, variable
from opyard_codegen.elementwise import variables
from opyard_codegen.expressions import inputs_of, lower_with, used
from opyard_codegen.kernels import HAND_WRITTEN, defines
from opyard_codegen.printing import variable_text
from opyard_codegen.terms import Kind

from . import array_module

C_TYPES = {name: found.compute for name, found in CUDA.formats.items() if name != "bfloat16"}
"""The C++ type that each dtype is computed in. CuPy's own kernels do not take bfloat16."""


@dataclass(frozen=True, slots=True)
class Source:
    """What ``cupy.ElementwiseKernel`` is made from; ``attributes`` names the numbers that follow the arrays."""

    inputs: str
    output: str
    operation: str
    functions: tuple[str, ...]
    attributes: tuple[str, ...]

    @property
    def preamble(self) -> str:
        """The functions that the operation calls, and what they are written with; nothing where there are none."""
        return "\n".join((MACROS, *self.functions)) if self.functions else ""


MACROS = defines({name: CUDA.macros[name] for name in HAND_WRITTEN})
"""What the functions of operations are written with."""


def accepts(call: Call, device: Device) -> str | None:
    """Why no kernel can be generated for the call, or None."""
    try:
        source(call)
    except SpecError as error:
        return str(error)
    return None


def prepare(call: Call, device: Any) -> Callable[..., Any]:
    """A function of CuPy arrays that launches the generated kernel. It is compiled by its first run with new dtypes."""
    text = source(call)
    kernel = _kernel(text, f"opyard_{call.op.name.replace('.', '_')}")
    values = tuple(call.attrs[name] for name in text.attributes)

    def run(*arrays: Any, out: Any = None) -> Any:
        given = [array for array in arrays if array is not None]
        with device.handle:
            return kernel(*given, *values) if out is None else kernel(*given, *values, out)

    return run


def source(call: Call) -> Source:
    """The generated text for a call. Raises SpecError, with what was found, if there is none."""
    specs = [spec for spec in (*call.inputs, call.output) if spec is not None]
    foreign = [spec.dtype.name for spec in specs if spec.dtype.name not in C_TYPES]
    if foreign:
        raise SpecError(f"takes {', '.join(C_TYPES)}, not {foreign[0]}")
    numbers = {name: type(call.attrs[name]) for name in used(call)}
    for name, found in numbers.items():
        if found not in _NUMBERS:
            raise SpecError(f"takes numbers as attributes; {name} is of type {found.__name__}")
    inputs = {name: spec.dtype for name, spec in inputs_of(call)}
    kinds: dict[str, Kind] = {**inputs, **{name: _NUMBERS[found][1] for name, found in numbers.items()}}
    names = {name: variable(name, kind) for name, kind in kinds.items()}
    term, printer = lower_with(call, names), Printer(CUDA)
    text = printer.text(term)
    dtypes = {name: dtype.name for name, dtype in inputs.items()}
    dtypes |= {name: _NUMBERS[found][0] for name, found in numbers.items()}
    read = set(variables(term))
    loads = [
        f"const {type_of(found.dtype, CUDA)} {variable_text(name)} = in_{name};"
        for name, found in names.items()
        if name in read
    ]
    return Source(
        inputs=", ".join(f"{dtype} in_{name}" for name, dtype in dtypes.items()),
        output=f"{call.output.dtype.name} result",
        operation="\n".join([*loads, f"result = {text};"]),
        functions=tuple(printer.functions.values()),
        attributes=tuple(numbers),
    )


_NUMBERS: dict[type, tuple[str, Kind]] = {
    bool: ("bool", np.dtype(np.bool_)),
    int: ("int64", int),
    float: ("float64", float),
}
"""How an attribute is handed to a kernel, and how it is typed in the expression, by its Python type."""


@lru_cache(maxsize=1024)
def _kernel(text: Source, name: str) -> Any:
    return array_module.xp().ElementwiseKernel(
        text.inputs, text.output, text.operation, name, preamble=text.preamble
    )

"""Elementwise ops from their scalar expressions: one generated CUDA kernel for each op and each combination of dtypes."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.errors import SpecError
from opyard.operation import Call
from opyard.scalar import Scalar

from . import array_module
from .codegen import C_TYPES, Code, Kind, Term, c_type, generate


@dataclass(frozen=True, slots=True)
class Source:
    """What ``cupy.ElementwiseKernel`` is made from; ``attributes`` names the numbers that follow the arrays."""

    inputs: str
    output: str
    operation: str
    preamble: str
    attributes: tuple[str, ...]


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
    scalar = expression(call)
    # an expression begins its names with those of its inputs
    inputs = tuple(zip(scalar.names, (spec.dtype for spec in call.inputs if spec is not None), strict=False))
    attributes = tuple((name, type(value)) for name, value in call.attributes)
    return _source(scalar, inputs, attributes, call.output.dtype)


def expression(call: Call) -> Scalar:
    """The scalar expression of a call: its op's, or one of COMPOSITES. Raises SpecError if there is none."""
    if call.op.scalar is not None:
        return call.op.scalar
    variant = call.op.name, call.attrs.get("approximate"), tuple(spec is not None for spec in call.inputs)
    if variant not in COMPOSITES:
        raise SpecError(f"{call.op.name} has no scalar expression to generate a kernel from")
    return COMPOSITES[variant]


COMPOSITES: dict[tuple[str, str | None, tuple[bool, ...]], Scalar] = {
    ("gelu", "none", (True,)): Scalar("0.5 * x * (1 + erf(x * 0.7071067811865476))", ("x",)),
    ("gelu", "tanh", (True,)): Scalar(
        "0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))", ("x",)
    ),
    ("clip", None, (True, True, True)): Scalar("min(max(x, low), high)", ("x", "low", "high")),
    ("clip", None, (True, True, False)): Scalar("max(x, low)", ("x", "low")),
    ("clip", None, (True, False, True)): Scalar("min(x, high)", ("x", "high")),
    ("clip", None, (True, False, False)): Scalar("+x", ("x",)),
}
"""Elementwise composite ops as one expression: by name, attribute ``approximate``, and which inputs are given."""


@lru_cache(maxsize=1024)
def _source(
    scalar: Scalar,
    inputs: tuple[tuple[str, np.dtype[Any]], ...],
    attributes: tuple[tuple[str, type], ...],
    output: np.dtype[Any],
) -> Source:
    used = {node.id for node in ast.walk(scalar.tree) if isinstance(node, ast.Name)}
    parameters: dict[str, tuple[str, Kind]] = {name: (dtype.name, dtype) for name, dtype in inputs}
    numbers = {name: found for name, found in attributes if name in used}
    for name, found in numbers.items():
        if found not in _NUMBERS:
            raise SpecError(f"takes numbers as attributes; {name} is of type {found.__name__}")
        parameters[name] = _NUMBERS[found]
    code = generate(
        scalar.tree, {name: Term(f"v_{name}", kind) for name, (_, kind) in parameters.items()}, output
    )
    return Source(
        inputs=", ".join(f"{type_name} in_{name}" for name, (type_name, _) in parameters.items()),
        output=f"{output.name} result",
        operation=_operation({name: kind for name, (_, kind) in parameters.items() if name in used}, code),
        preamble=code.preamble,
        attributes=tuple(numbers),
    )


_NUMBERS: dict[type, tuple[str, Kind]] = {
    bool: ("bool", np.dtype(np.bool_)),
    int: ("int64", int),
    float: ("float64", float),
}
"""How an attribute is handed to a kernel, and how it is typed in the expression, by its Python type."""


def _operation(names: dict[str, Kind], code: Code) -> str:
    loads = [f"const {c_type(kind)} v_{name} = in_{name};" for name, kind in names.items()]
    return "\n".join([*loads, f"result = {code.text};"])


@lru_cache(maxsize=1024)
def _kernel(text: Source, name: str) -> Any:
    return array_module.xp().ElementwiseKernel(
        text.inputs, text.output, text.operation, name, preamble=text.preamble
    )

"""What stands before the kernels that are written by hand: types, how elements are read and written, functions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from opyard.driver import Device
from opyard.operation import Call
from opyard.spec import TensorSpec, as_dtype
from opyard_codegen import OPENCL, Printer
from opyard_codegen import Format as Format
from opyard_codegen.kernels import HAND_WRITTEN, defines
from opyard_codegen.kernels import ports as port_macros
from opyard_codegen.kernels import prelude as dialect_prelude

FORMATS = OPENCL.formats

LIMITS = {
    "char": ("CHAR_MIN", "CHAR_MAX"),
    "short": ("SHRT_MIN", "SHRT_MAX"),
    "int": ("INT_MIN", "INT_MAX"),
    "long": ("LONG_MIN", "LONG_MAX"),
    "uchar": ("0", "UCHAR_MAX"),
    "ushort": ("0", "USHRT_MAX"),
    "uint": ("0", "UINT_MAX"),
    "ulong": ("0", "ULONG_MAX"),
    "float": ("(-INFINITY)", "INFINITY"),
    "double": ("(-INFINITY)", "INFINITY"),
}
"""Least and greatest value of each computing type."""


def format_of(spec: TensorSpec) -> Format:
    """The format of a spec's dtype; the dtype must be in FORMATS."""
    return FORMATS[spec.dtype.name]


def wider(*formats: Format) -> str:
    """The floating type to compute in when several floating formats meet."""
    return "double" if any(found.compute == "double" for found in formats) else "float"


def refusal(call: Call, device: Device) -> str | None:
    """Why the device cannot hold the tensors of a call, or None."""
    for spec in (*call.inputs, *call.outputs):
        if spec is None:
            continue
        found = FORMATS.get(spec.dtype.name)
        if found is None:
            return f"takes {', '.join(FORMATS)}, not {spec.dtype.name}"
        if found.feature and found.feature not in device.capabilities.features:
            return f"{device.name} lacks {found.feature}, which {spec.dtype.name} needs"
    return None


def program(name: str, compute: str, constants: dict[str, Any] | None = None, **ports: Format) -> str:
    """The source of the program ``kernels/<name>.cl`` for given types.

    ``compute`` is the type called T there; ``ports`` are formats by name: ``X=...`` defines the storage type X and the
    macros LOAD_X(p, i) and STORE_X(p, i, v). ``constants`` are further macros.
    """
    return "".join((prelude(compute, constants, **ports), _text(name)))


def program_of_parts(name: str, compute: str, parts: Mapping[str, Mapping[str, Any]], **ports: Format) -> str:
    """The same with the text once for each part: its macros are defined there, and its kernels end in ``_<part>``.

    Whatever the text declares is named through the macro NAME.
    """
    texts = [prelude(compute, None, **ports)]
    for part, constants in parts.items():
        macros = {"NAME(f)": f"f##_{part}", **constants}
        texts += (defines(macros), _text(name))
        texts += (f"#undef {macro.partition('(')[0]}\n" for macro in macros)
    return "".join(texts)


def prelude(compute: str, constants: dict[str, Any] | None = None, **ports: Format) -> str:
    """What ``program`` puts before a text: macros for the types, and the functions of FUNCTIONS."""
    least, greatest = LIMITS[compute]
    macros: dict[str, Any] = {
        "T": compute,
        "T_FLOATING": int(compute in _FLOATING),
        "T_DOUBLE": int(compute == "double"),
        "T_SIGNED": int(not compute.startswith("u")),
        "T_LEAST": least,
        "T_GREATEST": greatest,
    }
    wide = "double" in (compute, *(port.compute for port in ports.values()))
    head = enabled(wide) + dialect_prelude(OPENCL, HAND_WRITTEN) + _functions(compute)
    return head + defines(macros) + port_macros(ports) + defines(constants or {})


def enabled(wide: bool) -> str:
    """The line that allows float64, if there is any."""
    return "#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n" if wide else ""


_FLOATING = {"float": "float32", "double": "float64"}

FUNCTIONS = {
    "least_of": "minimum",
    "greatest_of": "maximum",
    "exponential": "exp",
    "logarithm": "log",
}
"""Functions of kernels that are written by hand, for arguments of type T, and the operations that they are."""


@cache
def _functions(compute: str) -> str:
    dtype = next(name for name, found in FORMATS.items() if found.compute == compute and name != "bool")
    printer = Printer(OPENCL)
    known = {"least_of", "greatest_of"} if compute not in _FLOATING else set(FUNCTIONS)
    names = {name: printer.call(FUNCTIONS[name], as_dtype(dtype)) for name in sorted(known)}
    return f"{printer.definitions()}\n{defines(names)}"


@cache
def _text(name: str) -> str:
    return (resources.files("opyard_opencl") / "kernels" / f"{name}.cl").read_text()

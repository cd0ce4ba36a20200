"""How each dtype is stored in a buffer and computed with in OpenCL C, as one table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call
from opyard.spec import TensorSpec


@dataclass(frozen=True, slots=True)
class Format:
    """A dtype in OpenCL C.

    storage  type of the elements in a buffer
    compute  type to calculate with
    kind     "f" floating, "i" signed, "u" unsigned, "b" boolean
    load     expression that reads element ``i`` of ``p``
    store    statement that writes ``v`` to element ``i`` of ``p``
    feature  what the device must have, or ""
    """

    storage: str
    compute: str
    kind: str
    load: str = "((p)[i])"
    store: str = "((p)[i] = (v))"
    feature: str = ""


FORMATS: dict[str, Format] = {
    "bool": Format("uchar", "uchar", "b", "((uchar)((p)[i] != 0))", "((p)[i] = (uchar)((v) != 0))"),
    "int8": Format("char", "char", "i"),
    "int16": Format("short", "short", "i"),
    "int32": Format("int", "int", "i"),
    "int64": Format("long", "long", "i"),
    "uint8": Format("uchar", "uchar", "u"),
    "uint16": Format("ushort", "ushort", "u"),
    "uint32": Format("uint", "uint", "u"),
    "uint64": Format("ulong", "ulong", "u"),
    # converted by own functions, for half itself is an extension that devices may lack
    "float16": Format("ushort", "float", "f", "half_value((p)[i])", "((p)[i] = half_bits(v))"),
    "bfloat16": Format("ushort", "float", "f", "as_float((uint)(p)[i] << 16)", "((p)[i] = bfloat16_bits(v))"),
    "float32": Format("float", "float", "f"),
    "float64": Format("double", "double", "f", feature="fp64"),
}

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
    return "".join((prelude(compute, constants, **ports), _text("functions"), _text(name)))


def program_of_parts(name: str, compute: str, parts: Mapping[str, Mapping[str, Any]], **ports: Format) -> str:
    """The same with the text once for each part: its macros are defined there, and its kernels end in ``_<part>``.

    Whatever the text declares is named through the macro NAME.
    """
    texts = [prelude(compute, None, **ports), _text("functions")]
    for part, constants in parts.items():
        macros = {"NAME(f)": f"f##_{part}", **constants}
        texts += (f"#define {macro} {value}\n" for macro, value in macros.items())
        texts.append(_text(name))
        texts += (f"#undef {macro.partition('(')[0]}\n" for macro in macros)
    return "".join(texts)


def prelude(compute: str, constants: dict[str, Any] | None = None, **ports: Format) -> str:
    """The macros that ``program`` puts before a text."""
    least, greatest = LIMITS[compute]
    floating = compute in ("float", "double")
    lines = (
        ["#pragma OPENCL EXTENSION cl_khr_fp64 : enable"]
        if "double" in (compute, *(p.compute for p in ports.values()))
        else []
    )
    macros: dict[str, Any] = {"T": compute, "T_FLOATING": int(floating), "T_DOUBLE": int(compute == "double")}
    macros |= {"T_SIGNED": int(not compute.startswith("u")), "T_LEAST": least, "T_GREATEST": greatest}
    for port, found in ports.items():
        macros |= {
            port: found.storage,
            f"LOAD_{port}(p, i)": found.load,
            f"STORE_{port}(p, i, v)": found.store,
        }
    macros |= constants or {}
    lines += [f"#define {macro} {value}" for macro, value in macros.items()]
    return "\n".join(lines) + "\n"


def functions() -> str:
    """The functions that scalar expressions use, for the types of a prelude."""
    return _text("functions")


@cache
def _text(name: str) -> str:
    return (resources.files("opyard_opencl") / "kernels" / f"{name}.cl").read_text()


def literal(value: float | int | bool, compute: str) -> str:
    """A number as a constant of the type ``compute``."""
    if compute in ("float", "double"):
        number = float(value)
        if math.isnan(number):
            return f"(({compute})NAN)"
        if math.isinf(number):
            return f"({compute})({'-' if number < 0 else ''}INFINITY)"
        text = repr(number if compute == "double" else float(np.float64(number)))
        return f"({text}{'' if compute == 'double' else 'f'})"
    number = int(value)
    if number == -(2**63):
        return "LONG_MIN"
    suffix = "UL" if number > 2**63 - 1 else "L" if abs(number) > 2**31 - 1 else ""
    return f"(({compute})({number}{suffix}))"

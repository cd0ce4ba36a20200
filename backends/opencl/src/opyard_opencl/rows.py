"""Kernels that work row by row: softmax, log_softmax, and the normalizations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call

from .array import Array
from .device import OpenCLDevice
from .formats import Format, format_of, program, refusal, wider
from .launch import Launch, Single, exact, partition
from .layout import sizes_of

_COLUMNS = 64  # as in kernels/rows.cl
_GRAIN = 2048  # elements for each work item
_LONGS = np.int64
_SCALARS = {"float": np.float32, "double": np.float64}
_OFF = {"SOFTMAX": 0, "NORMALIZATION": 0, "BATCH": 0}


def accepts_trailing(call: Call, device: Device) -> str | None:
    """Why a normalization over trailing axes cannot be computed, or None: parameters must have all elements of a row."""
    x = call.inputs[0]
    assert x is not None
    shape = sizes_of(x)[call.attrs["axis"] % x.ndim :]
    for name, spec in zip(call.op.signature.inputs[1:], call.inputs[1:], strict=True):
        if spec is not None and math.prod(sizes_of(spec)) != math.prod(shape):
            return f"takes {name} of shape {shape}, not {spec!r}"
    return refusal(call, device)


@exact
def prepare_softmax(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs softmax or log_softmax along one axis."""
    x = call.inputs[0]
    assert x is not None
    sizes, axis = sizes_of(x), call.attrs["axis"] % max(1, x.ndim)
    outer, length, width = math.prod(sizes[:axis]), sizes[axis], math.prod(sizes[axis + 1 :])
    macros = {**_OFF, "SOFTMAX": 1, "LOGARITHM": int(call.op.name == "log_softmax")}
    ports = {"X": format_of(x), "OUT": format_of(call.output)}
    text = _program(device, format_of(x).compute, macros, ports, dense=width == 1)
    units = outer if width == 1 else outer * -(-width // _COLUMNS)
    items, step = partition(device, units, max(1, _GRAIN // max(1, length * min(width, _COLUMNS))))
    bound = tuple(map(_LONGS, (units, length, width, step)))
    name = "softmax_rows" if width == 1 else "softmax_columns"
    return _runner(call, device, lambda: Launch(device, text, name, items, bound))


@exact
def prepare_trailing(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs layer_normalization or rms_normalization over the axes from ``axis`` on."""
    x = call.inputs[0]
    assert x is not None
    sizes, axis = sizes_of(x), call.attrs["axis"] % x.ndim
    return _normalization(call, device, math.prod(sizes[:axis]), math.prod(sizes[axis:]), groups=1, area=1)


@exact
def prepare_groups(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs group_normalization or instance_normalization of ``[n, c, ...]``."""
    x = call.inputs[0]
    assert x is not None
    batch, channels, *spatial = sizes_of(x)
    groups, area = call.attrs.get("groups", channels), math.prod(spatial)
    return _normalization(call, device, batch * groups, channels // max(1, groups) * area, groups, area)


@exact
def prepare_batch(call: Call, device: OpenCLDevice) -> Callable[..., Array]:
    """A function that runs batch_normalization of ``[n, c, ...]`` with given statistics."""
    x = call.inputs[0]
    assert x is not None
    batch, channels, *spatial = sizes_of(x)
    names = ("X", "SCALE", "BIAS", "MEAN", "VARIANCE")
    ports = {name: format_of(spec) for name, spec in zip(names, call.inputs, strict=True) if spec is not None}
    compute = wider(*ports.values())
    text = program("rows", compute, {**_OFF, "BATCH": 1}, **ports, OUT=format_of(call.output))
    units, length = batch * channels, math.prod(spatial)
    items, step = partition(device, units, max(1, _GRAIN // max(1, length)))
    bound = (*map(_LONGS, (units, length, channels, step)), _SCALARS[compute](call.attrs["epsilon"]))
    return _runner(call, device, lambda: Launch(device, text, "normalize_channels", items, bound))


def _normalization(
    call: Call, device: OpenCLDevice, units: int, length: int, groups: int, area: int
) -> Callable[..., Array]:
    given = dict(zip(call.op.signature.inputs, call.inputs, strict=True))
    ports = {name.upper(): format_of(spec) for name, spec in given.items() if spec is not None}
    macros: dict[str, Any] = {**_OFF, "NORMALIZATION": 1, "PER_ELEMENT": int(area == 1)}
    macros |= {"HAS_SCALE": int("SCALE" in ports), "HAS_BIAS": int("BIAS" in ports)}
    macros["CENTERED"] = int(call.op.name != "rms_normalization")
    compute = wider(*ports.values())
    ports["OUT"] = format_of(call.output)
    text = _program(device, compute, macros, ports, dense=area == 1 and groups == 1)
    items, step = partition(device, units, max(1, _GRAIN // max(1, length)))
    bound = (*map(_LONGS, (units, length, groups, area, step)), _SCALARS[compute](call.attrs["epsilon"]))
    return _runner(call, device, lambda: Launch(device, text, "normalize_rows", items, bound))


def _program(
    device: OpenCLDevice, compute: str, macros: dict[str, Any], ports: dict[str, Format], dense: bool
) -> str:
    """The program for rows; in vectors where all elements are float32 and lie one behind the other."""
    plain = all(port.storage == "float" for port in ports.values())
    if not (dense and plain and compute == "float" and device.shares_memory):
        return program("rows", compute, macros, **ports)
    lanes = device.vector_bytes // 4
    vectors = {"V": f"float{lanes}", "INTEGERS": f"int{lanes}", "VLANES": lanes}
    return program("row_vectors", compute, {**macros, **vectors}, **ports)


def _runner(call: Call, device: OpenCLDevice, make: Callable[[], Launch]) -> Callable[..., Array]:
    """Runs a launch on the inputs that are given; nothing is built for an empty output."""
    return Single(device, call.output, make() if call.output.nbytes else None)

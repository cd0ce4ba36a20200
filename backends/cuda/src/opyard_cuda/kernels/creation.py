"""Tensors that follow from attributes and shapes alone: made once on the host, then copied on the device by each run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from opyard.driver import Device
from opyard.operation import Call

from ..elementwise import C_TYPES


def accepts_dtypes(call: Call, device: Device) -> str | None:
    """Refuses dtypes that these kernels do not have, on the way in and on the way out."""
    foreign = [
        spec.dtype.name
        for spec in (*call.inputs, *call.outputs)
        if spec is not None and spec.dtype.name not in C_TYPES
    ]
    return f"takes and gives {', '.join(C_TYPES)}, not {foreign[0]}" if foreign else None


def prepare(call: Call, device: Any) -> Callable[..., Any]:
    """A function that gives a new copy of the op's result, whatever the elements of its inputs are."""
    stand_ins = (
        None if spec is None else np.broadcast_to(np.zeros((), spec.dtype), tuple(int(n) for n in spec.shape))
        for spec in call.inputs
    )
    (result,) = call.reference(*stand_ins)
    constant = device.upload(result)

    def run(*arrays: Any) -> Any:
        with device.handle:
            return constant.copy()

    return run

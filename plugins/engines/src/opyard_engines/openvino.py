"""Regions in OpenVINO, in float32: tensors are the memory of the arrays, requests belong to threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

import opyard as oy
from opyard import settings
from opyard.operation import Call
from opyard.region import Region
from opyard_engines.regions import Array, alone, as_onnx, refusal, with_constants

TITLE, MODULE = "OpenVINO", "openvino"


def claims(call: Call, device: oy.Device) -> str | None:
    """Whether OpenVINO can compute a call, by asking its importer and its CPU plugin."""
    return refusal(call, TITLE, MODULE, _import_refusal)


def _import_refusal(call: Call) -> str | None:
    try:
        core = _core()
        model = core.read_model(as_onnx(alone(call)), b"")
        known = core.query_model(model, "CPU")
        unknown = {op.get_type_name() for op in model.get_ops() if op.get_friendly_name() not in known}
    except Exception as error:
        return f"{TITLE} does not take it: {' '.join(str(error).split())[:200]}"
    return f"{TITLE} has no CPU kernel for {', '.join(sorted(unknown))}" if unknown else None


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def _options() -> dict[str, str]:
    """float32 throughout: by default OpenVINO computes in bfloat16 where the processor can."""
    return {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": str(settings.num_threads()),
        "PERFORMANCE_HINT": "LATENCY",
    }


def prepare(region: Region, device: oy.Device, constants: Sequence[Array | None]) -> Callable[..., Any]:
    """A compiled model of the region, and a function that gives its requests arrays."""
    from openvino import Tensor

    graph, left = with_constants(region, constants)
    core = _core()
    compiled = core.compile_model(core.read_model(as_onnx(graph), b""), "CPU", _options())
    names = [region.input_names[position] for position in left]
    ports = [next(port for port in compiled.inputs if name in port.get_names()) for name in names]
    results = list(compiled.outputs)
    shapes = [value.shape for value in graph.outputs.values()]
    local = threading.local()
    single = not region.is_tuple

    def run(*arrays: Any, out: Any = None) -> Any:
        if not hasattr(local, "request"):
            local.request = compiled.create_infer_request()
        request, kept = local.request, []  # contiguous copies live until the run is over
        for position, port in zip(left, ports, strict=True):
            array = np.ascontiguousarray(arrays[position])
            kept.append(array)
            request.set_tensor(port, Tensor(array, shared_memory=True))
        direct = out is not None and out.flags.c_contiguous
        made = [out] if direct else [np.empty(shape, np.float32) for shape in shapes]
        for port, array in zip(results, made, strict=True):
            request.set_tensor(port, Tensor(array, shared_memory=True))
        request.infer()
        if out is not None and not direct:
            out[...] = made[0]
            return out
        return made[0] if single else tuple(made)

    return run

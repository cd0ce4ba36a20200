"""Regions in ONNX Runtime: arrays are bound where they lie, and bound anew where they moved."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import opyard as oy
from opyard import settings
from opyard.operation import Call
from opyard.region import Region
from opyard_engines.regions import Array, alone, as_onnx, refusal, with_constants

TITLE, MODULE = "ONNX Runtime", "onnxruntime"

SEVERE = 4
"""Log level: what else it has to say comes as an exception."""


def claims(call: Call, device: oy.Device) -> str | None:
    """Whether ONNX Runtime can compute a call, by making a session of it."""
    return refusal(call, TITLE, MODULE, _import_refusal)


def _import_refusal(call: Call) -> str | None:
    try:
        _session(as_onnx(alone(call)), optimised=False)
    except Exception as error:
        return f"{TITLE} does not take it: {' '.join(str(error).split())[:200]}"
    return None


def _session(model: bytes, optimised: bool = True) -> Any:
    """A session with threads of its own: a pool for all would forbid the program to make sessions as it likes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = settings.num_threads(), 1
    options.log_severity_level = SEVERE
    # threads that wait busily behind a region would take the processors from what comes next
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not optimised:
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)


def prepare(region: Region, device: oy.Device, constants: Sequence[Array | None]) -> Callable[..., Any]:
    """A session of the region, and a function that binds arrays to it."""
    graph, left = with_constants(region, constants)
    session = _session(as_onnx(graph))
    inputs = [(position, region.input_names[position]) for position in left]
    outputs = [(name, value.shape) for name, value in graph.outputs.items()]
    single = not region.is_tuple
    local = threading.local()

    def run(*arrays: Any, out: Any = None) -> Any:
        if not hasattr(local, "binding"):
            local.binding, local.bound = session.io_binding(), {}
        binding, bound = local.binding, local.bound
        kept = []  # contiguous copies live until the run is over
        for position, name in inputs:
            array = np.ascontiguousarray(arrays[position])
            kept.append(array)
            address = array.__array_interface__["data"][0]
            if bound.get(name) != address:  # what lies there has the shape and dtype of the region
                binding.bind_cpu_input(name, array)
                bound[name] = address
        direct = out is not None and out.flags.c_contiguous
        made = [out] if direct else [np.empty(shape, np.float32) for _, shape in outputs]
        for (name, shape), array in zip(outputs, made, strict=True):
            address = array.__array_interface__["data"][0]
            if bound.get(name) != address:
                binding.bind_output(name, "cpu", 0, np.float32, shape, address)
                bound[name] = address
        session.run_with_iobinding(binding)
        if out is not None and not direct:
            out[...] = made[0]
            return out
        return made[0] if single else tuple(made)

    return run

"""The contestants: each makes a model of the suite ready to run, in the process where it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from opyard_bench.models.suite import Model
from opyard_bench.peers.translate import translate

Run = Callable[[], Sequence[Any]]
"""Runs the model once on its feeds, and waits; gives the outputs, as ``np.asarray`` takes them."""

DEVICE = "cpu:0"

OURS = "opyard"


@dataclass(frozen=True, slots=True)
class Contestant:
    """A runtime. ``packages`` must be installed for it, modules by name; ``environment`` is set for its process."""

    name: str
    title: str
    prepare: Callable[[Model, int], Run]
    packages: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None

    @property
    def missing(self) -> str | None:
        """The sentence that says what to type where it is not installed; None where it is."""
        absent = [name for name in self.packages if find_spec(name) is None]
        if not absent:
            return None
        return f"not installed. Type: pip install {' '.join(absent).replace('_', '-')}"


def prepare_opyard(model: Model, threads: int) -> Run:
    """A session over all CPU kernels that are installed, by what was measured here."""
    import opyard as oy

    session = oy.Session(model.graph, devices=DEVICE)
    call = session.callable(list(model.graph.outputs), list(model.feeds))
    arrays = tuple(model.feeds.values())
    return lambda: call(*arrays)


def _exported(model: Model) -> bytes:
    """The model as the bytes of an ONNX file."""
    from opyard_onnx import export

    found: bytes = export(model.graph).SerializeToString()
    return found


def prepare_onnxruntime(model: Model, threads: int) -> Run:
    """All optimisations, which is the default; one thread for operators beside each other."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(_exported(model), options, providers=["CPUExecutionProvider"])
    feeds = dict(model.feeds)
    return lambda: session.run(None, feeds)


def prepare_openvino(model: Model, threads: int) -> Run:
    """float32 throughout: by default OpenVINO computes in bfloat16 where the processor can."""
    import openvino

    core = openvino.Core()
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": str(threads),
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(
        core.read_model(_exported(model), b""), "CPU", options
    ).create_infer_request()
    feeds = dict(model.feeds)

    def run() -> Sequence[Any]:
        found = request.infer(feeds, share_inputs=True, share_outputs=True)
        return list(found.values())

    return run


def _torch_function(model: Model, threads: int) -> tuple[Any, list[Any]]:
    """The model as a module of PyTorch, and its inputs as tensors."""
    import torch

    from opyard_bench.peers.torch_table import TABLE

    torch.set_num_threads(threads)
    function = translate(model.graph, TABLE, "PyTorch")

    class Translated(torch.nn.Module):  # type: ignore[misc]  # which is anything where torch is absent
        def __init__(self) -> None:
            super().__init__()
            constants = (torch.from_numpy(np.array(a)) for a in model.graph.constants.values())
            self.weights = torch.nn.ParameterList(
                torch.nn.Parameter(c, requires_grad=False) for c in constants
            )

        def forward(self, *inputs: Any) -> list[Any]:
            return function(list(self.weights), inputs)

    return Translated().eval(), [torch.from_numpy(array) for array in model.feeds.values()]


def _torch_run(module: Any, tensors: list[Any]) -> Run:
    import torch

    def run() -> Sequence[Any]:
        with torch.inference_mode():
            found: Sequence[Any] = module(*tensors)
        return found

    return run


def prepare_torch(model: Model, threads: int) -> Run:
    """PyTorch, op by op."""
    return _torch_run(*_torch_function(model, threads))


def prepare_compiled(model: Model, threads: int) -> Run:
    """PyTorch's compiler, Inductor, with weights as constants (TORCHINDUCTOR_FREEZING=1). It needs a C++ compiler."""
    import torch

    module, tensors = _torch_function(model, threads)
    return _torch_run(torch.compile(module), tensors)


def prepare_jax(model: Model, threads: int) -> Run:
    """JAX, compiled by XLA; weights are arguments."""
    import jax

    from opyard_bench.peers.jax_table import TABLE

    function = jax.jit(translate(model.graph, TABLE, "JAX"))
    constants = [jax.device_put(array) for array in model.graph.constants.values()]
    inputs = [jax.device_put(array) for array in model.feeds.values()]
    return lambda: jax.block_until_ready(function(constants, inputs))


PEERS = {
    peer.name: peer
    for peer in (
        Contestant("ort", "ONNX Runtime", prepare_onnxruntime, ("onnxruntime", "opyard_onnx")),
        Contestant("openvino", "OpenVINO", prepare_openvino, ("openvino", "opyard_onnx")),
        Contestant("torch", "PyTorch", prepare_torch, ("torch",)),
        Contestant(
            *("compile", "torch.compile", prepare_compiled, ("torch",)),
            {"TORCHINDUCTOR_FREEZING": "1"},
        ),
        Contestant("jax", "JAX", prepare_jax, ("jax",)),
    )
}
CONTESTANTS = {OURS: Contestant(OURS, "opyard", prepare_opyard), **PEERS}

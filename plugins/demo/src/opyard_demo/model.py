"""The demo's network as a graph: two convolutions, a pooling and two dense layers on 8x8 images."""

from __future__ import annotations

from typing import Any

import numpy as np

import opyard as oy
from opyard.errors import OpyardError
from opyard_demo.data import WEIGHTS_PATH

_LAYERS = ("conv1", "conv2", "dense1", "dense2")


def load_weights() -> dict[str, np.ndarray[Any, Any]]:
    """The trained weights by name, float32. Raises OpyardError when the file, or what reads it, is missing or broken."""
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise OpyardError(
            f"the demo's weights are read with safetensors, which cannot be imported here ({error}). Type: pip install safetensors"
        ) from error
    try:
        weights = dict(load_file(WEIGHTS_PATH))
    except (OSError, SafetensorError) as error:
        raise _damaged(f"cannot be read ({error})") from error
    missing = [n for layer in _LAYERS for n in (f"{layer}.weight", f"{layer}.bias") if n not in weights]
    if missing:
        raise _damaged(f"lack {', '.join(missing)}")
    return weights


def _damaged(how: str) -> OpyardError:
    return OpyardError(
        f"the demo's weights {WEIGHTS_PATH.name} {how}. Type: pip install --force-reinstall opyard-demo"
    )


def digits_graph() -> oy.Graph:
    """A graph from ``images`` float32[batch, 1, 8, 8] to ``logits`` float32[batch, 10]."""
    weights = load_weights()
    with oy.Graph() as graph:
        x: Any = graph.input("images", oy.TensorSpec(("batch", 1, 8, 8), "float32"))
        for layer in ("conv1", "conv2"):
            x = oy.relu(oy.conv(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"], padding=1))
        x = oy.reshape(oy.max_pool(x, kernel=2), shape=(-1, 512))
        x = oy.relu(oy.matmul(x, weights["dense1.weight"]) + weights["dense1.bias"])
        x = oy.matmul(x, weights["dense2.weight"]) + weights["dense2.bias"]
        graph.output("logits", x)
    return graph

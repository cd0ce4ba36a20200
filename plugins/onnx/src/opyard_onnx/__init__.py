"""ONNX for opyard: ``load`` gives the graph of a model, ``Model`` runs any model, ``export`` makes a model of a graph."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opyard_onnx.errors import ModelError, UnsupportedModel
    from opyard_onnx.exporting import export
    from opyard_onnx.loading import load
    from opyard_onnx.model import Model

_MODULES = {
    "Model": "model",
    "ModelError": "errors",
    "UnsupportedModel": "errors",
    "export": "exporting",
    "load": "loading",
}
"""Where each name is, for it is imported on first use: the plugin is loaded by every program."""

__all__ = ["Model", "ModelError", "UnsupportedModel", "export", "load"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

"""ONNX for opyard: ``load`` gives the graph of a model, ``Model`` runs any model, ``export`` makes a model of a graph."""

from __future__ import annotations

from opyard_onnx.errors import ModelError, UnsupportedModel
from opyard_onnx.exporting import export
from opyard_onnx.loading import load
from opyard_onnx.model import Model

__all__ = ["Model", "ModelError", "UnsupportedModel", "export", "load"]

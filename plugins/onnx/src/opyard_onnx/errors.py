"""The errors of opyard-onnx. Both are opyard errors."""

from __future__ import annotations

from opyard.errors import OpyardError


class ModelError(OpyardError, ValueError):
    """A model that is damaged, or that contradicts the ONNX specification."""


class UnsupportedModel(ModelError):
    """A model that is well formed, and uses what opyard-onnx does not import."""

"""Comparison: the same model run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opyard.errors import OpyardError
from opyard_onnx.files import ModelFile


def run_by(runtime: str, file: ModelFile, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
    """The outputs of a model by another runtime. Raises OpyardError where it is not here or does not run the model."""
    if runtime != "onnxruntime":
        raise OpyardError(
            f"{runtime!r} does not run {file.title}; an ONNX model is compared with 'onnxruntime'."
        )
    try:
        import onnxruntime
    except ImportError:
        raise OpyardError("--compare onnxruntime needs ONNX Runtime. Type: pip install onnxruntime") from None
    try:
        source = str(file.path) if file.path else file.proto.SerializeToString()
        session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
        found: list[Any] = session.run(list(outputs), dict(feeds))
    except Exception as error:  # its errors have no common class
        raise OpyardError(f"ONNX Runtime does not run {file.title}: {' '.join(str(error).split())}") from None
    return found

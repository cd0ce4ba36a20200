"""ONNX Runtime for tests."""

from __future__ import annotations

from typing import Any

import onnx
import onnxruntime

onnxruntime.set_default_logger_severity(4)


def theirs(proto: Any, feeds: dict[str, Any]) -> list[Any]:
    """The outputs of a model by ONNX Runtime, after the full check of onnx."""
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(None, feeds)
    return found

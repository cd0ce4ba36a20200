"""The plugin: opens ONNX files for the command line. Nothing heavy is imported here."""

from __future__ import annotations

from typing import Any

from opyard import hookimpl

OPYARD_API = (1, 1)


@hookimpl
def opyard_register() -> None:
    """The ops of this package have references alone, and come with the graphs that use them."""


@hookimpl
def opyard_open_model(path: str) -> Any:
    """The graph of an ONNX file; None for other endings."""
    if not path.endswith(".onnx"):
        return None
    from opyard_onnx.model import load

    return load(path)


@hookimpl
def opyard_model_runner(path: str, devices: tuple[str, ...]) -> Any:
    """What runs an ONNX file, in stages where that is needed; None for other endings."""
    if not path.endswith(".onnx"):
        return None
    from opyard_onnx.model import Model

    return Model(path, devices=list(devices) or "auto")

"""The plugin: opens ONNX files and saved models, saves and runs models, and adds a command. Nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opyard import hookimpl

OPYARD_API = (1, 1)


@hookimpl
def opyard_register() -> None:
    """The ops of this package have references alone, and come with the graphs that use them."""


@hookimpl
def opyard_commands(group: Any) -> None:
    """Adds the command."""
    from opyard_onnx.saved.command import inspect

    group.add_command(inspect)


@hookimpl
def opyard_open_model(path: str, version: int | None, verify: bool) -> Any:
    """The graph of an ONNX file, or a saved model; None for other endings and folders."""
    if _is_file(path):
        from opyard_onnx.loading import load

        return load(path)
    if not _is_saved(path):
        return None
    from opyard_onnx.saved.loading import load_version

    return load_version(Path(path), version, verify=verify)


@hookimpl
def opyard_save_model(path: str, graph: Any, version: int | None, metadata: dict[str, str]) -> str:
    """Writes a version of a saved model."""
    from opyard_onnx.saved.writing import write_version

    return str(write_version(Path(path), graph, version, metadata))


@hookimpl
def opyard_model_runner(path: str, devices: tuple[str, ...]) -> Any:
    """What runs an ONNX file or a saved model, in stages where that is needed; None for other endings and folders."""
    if not _is_file(path) and not _is_saved(path):
        return None
    from opyard_onnx.model import Model

    return Model(path, devices=list(devices) or "auto")


def _is_file(path: str) -> bool:
    return path.endswith(".onnx") and Path(path).is_file()


def _is_saved(path: str) -> bool:
    if not Path(path).is_dir():
        return False
    from opyard_onnx.saved.versions import is_saved_model

    return is_saved_model(Path(path))

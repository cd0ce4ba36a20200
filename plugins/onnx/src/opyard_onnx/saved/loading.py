"""Opening a saved model: its graph, with weights that stay in their file."""

from __future__ import annotations

from pathlib import Path

import opyard as oy
from opyard_onnx.loading import load
from opyard_onnx.saved.versions import find_version


def load_version(path: Path, number: int | None = None, *, verify: bool = True) -> oy.SavedModel:
    """A version of the saved model in a folder; see ``find_version``. Raises ModelError."""
    version = find_version(path, number, verify=verify)
    return oy.SavedModel(load(version), version.folder, version.number, version.manifest.metadata)

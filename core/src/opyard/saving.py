"""Checkpoints: what variables hold, in one safetensors file that is written as a whole or not at all.

Source of the format: safetensors (github.com/huggingface/safetensors). The hash of each tensor is among the metadata.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import CheckpointError, installing
from .files import replace_file
from .spec import TensorSpec
from .variables import Variable, assign_all, snapshot

Variables = Mapping[str, Variable] | Iterable[Variable]
"""Variables by the names that a checkpoint has for them: a dict, or several with names of their own."""

_HASH = "sha256 "


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """Names of variables: ``restored``; ``missing`` in the file; ``unexpected``, only in the file; ``misfits`` with a sentence each."""

    restored: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misfits: tuple[str, ...]
    metadata: Mapping[str, str]

    @property
    def is_complete(self) -> bool:
        """Whether every variable was restored, and nothing is left over."""
        return not (self.missing or self.unexpected or self.misfits)

    def __str__(self) -> str:
        rows = [f"restored {len(self.restored)} variables"]
        rows += [f"missing in the file: {', '.join(self.missing)}"] if self.missing else []
        rows += [f"only in the file: {', '.join(self.unexpected)}"] if self.unexpected else []
        return "; ".join([*rows, *self.misfits])


def write_checkpoint(path: Path, variables: Variables, metadata: Mapping[str, str]) -> None:
    """Writes what variables hold, at one moment, to a file, which is replaced as a whole: a crash leaves the old one.

    Raises CheckpointError for two variables of one name, and OSError where the file cannot be written.
    """
    named = _named(variables)
    held = zip(named.items(), snapshot(list(named.values())), strict=True)
    arrays = {name: np.ascontiguousarray(array).reshape(v.shape) for (name, v), array in held}
    texts = dict(metadata)
    texts.update({_HASH + name: _digest(array) for name, array in arrays.items()})
    replace_file(path, _safetensors().numpy.save(arrays, texts))


def restore(path: str | os.PathLike[str], variables: Variables, *, partial: bool = False) -> RestoreReport:
    """Assigns to variables what a file has under their names, and tells what does not fit.

    Unless ``partial``, what is missing, unexpected or of another shape or dtype is an error, and nothing is assigned.
    Raises CheckpointError for that, and for a file that is damaged or no checkpoint.
    """
    named = _named(variables)
    arrays, metadata = _read(Path(path))
    misfits = {
        name: f"{name} is {TensorSpec.of(arrays[name])!r} in the file and {variable.spec!r} here"
        for name, variable in named.items()
        if name in arrays and TensorSpec.of(arrays[name]) != variable.spec
    }
    report = RestoreReport(
        tuple(name for name in named if name in arrays and name not in misfits),
        tuple(name for name in named if name not in arrays),
        tuple(name for name in arrays if name not in named),
        tuple(misfits.values()),
        metadata,
    )
    if not partial and not report.is_complete:
        raise CheckpointError(
            f"{path} does not fit these variables: {report}. restore(..., partial=True) takes what fits."
        )
    assign_all([(named[name], arrays[name]) for name in report.restored])
    return report


def _read(path: Path) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, str]]:
    library = _safetensors()
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a folder, and a checkpoint is a file; opyard.load opens the folder of a saved model."
        )
    try:
        with library.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
            texts: dict[str, str] = file.metadata() or {}
    except (library.SafetensorError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path} is no checkpoint, or damaged: {error}; write one with opyard.save."
        ) from None
    for name, array in arrays.items():
        if texts.get(_HASH + name, _digest(array)) != _digest(array):
            raise CheckpointError(
                f"{path} is damaged: the contents of {name!r} do not have the SHA-256 that is noted for them."
            )
    return arrays, {key: text for key, text in sorted(texts.items()) if not key.startswith(_HASH)}


def _named(variables: Variables) -> dict[str, Variable]:
    if isinstance(variables, Mapping):
        return dict(variables)
    if isinstance(variables, Variable) or not isinstance(variables, Iterable):
        raise CheckpointError(
            f"a checkpoint is of variables, in a list or a dict; found {type(variables).__name__}."
        )
    found: dict[str, Variable] = {}
    for variable in variables:
        if not isinstance(variable, Variable):
            raise CheckpointError(f"checkpoints hold variables; found {type(variable).__name__}.")
        if variable.name in found:
            raise CheckpointError(
                f"two variables are called {variable.name!r}; give them names of their own, or pass a dict of names and variables."
            )
        found[variable.name] = variable
    return found


def _digest(array: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"").hexdigest()


def _safetensors() -> Any:
    """The package, imported on first use. Raises CheckpointError where it is not installed."""
    try:
        import safetensors.numpy
    except ImportError:
        raise CheckpointError(
            f"checkpoints need the package safetensors, which is not installed; {installing('opyard[checkpoint]')} brings it."
        ) from None
    return safetensors

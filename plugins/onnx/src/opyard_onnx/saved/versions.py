"""Finding the versions of a saved model, and checking that one is whole."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from opyard_onnx.errors import ModelError
from opyard_onnx.saved.manifest import GRAPH, MANIFEST, FileFacts, Manifest, read_manifest


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a saved model. ``number`` is None for a folder that is not named by one."""

    folder: Path
    number: int | None
    manifest: Manifest

    @property
    def graph(self) -> Path:
        """The ONNX file."""
        return self.folder / GRAPH

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"{self.folder.parent.name}/{self.folder.name}"


def versions(model: Path) -> list[int]:
    """The numbers of the versions in a model's folder, the oldest first. Raises OSError."""
    with os.scandir(model) as entries:
        return sorted(int(entry.name) for entry in entries if _is_number(entry.name) and entry.is_dir())


def taken(model: Path) -> list[int]:
    """The numbers that name anything in a model's folder. Raises OSError."""
    return [int(name) for name in os.listdir(model) if _is_number(name)]


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and str(int(name)) == name


def is_saved_model(path: Path) -> bool:
    """Whether a folder is a version of a saved model, or has versions. Raises ModelError where it cannot be read."""
    return path.is_dir() and ((path / MANIFEST).is_file() or bool(_versions(path)))


def find_version(path: Path, number: int | None = None, *, verify: bool = True) -> Version:
    """The version ``number``, or the newest one, of a model's folder; ``path`` may also be the folder of a version.

    Unless ``verify``, the sizes of files are compared, and their contents are not. Raises ModelError for a version that is
    not there, and for files that are missing, that were changed, or that lie elsewhere.
    """
    path = path.resolve()
    if (path / MANIFEST).is_file():
        name = int(path.name) if _is_number(path.name) else None
        if number not in (None, name):
            raise ModelError(f"{path} is a version of a saved model; leave out version={number!r}.")
        return _checked(Version(path, name, read_manifest(path)), verify)
    known = _versions(path)
    if not known:
        raise ModelError(f"{path} holds no saved model: it has no folder that is named by a number.")
    chosen = known[-1] if number is None else number
    if chosen not in known:
        raise ModelError(f"{path} has no version {chosen!r}. Versions: {', '.join(map(str, known))}.")
    folder = path / str(chosen)
    return _checked(Version(folder, chosen, read_manifest(folder)), verify)


def _versions(path: Path) -> list[int]:
    try:
        return versions(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from None


def _checked(version: Version, verify: bool) -> Version:
    folder = version.folder.resolve()
    for name, written in version.manifest.files.items():
        path = version.folder / name
        if not path.resolve().is_relative_to(folder):
            raise ModelError(f"{path} is a link that leads out of the folder.")
        if not path.is_file():
            raise ModelError(f"{version.title} is damaged: {name} is missing.")
        try:
            size = path.stat().st_size
            found = FileFacts.of(path) if verify and size == written.size else FileFacts(size, written.sha256)
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}.") from None
        if found.size != written.size:
            raise ModelError(
                f"{version.title} is damaged: {name} has {found.size} bytes, {written.size} were written."
            )
        if found.sha256 != written.sha256:
            raise ModelError(
                f"{version.title} is damaged: the contents of {name} do not have the SHA-256 that is noted for them."
            )
    return version

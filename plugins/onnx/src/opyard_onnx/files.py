"""Model files: what a path, bytes or a ModelProto stand for, and weights that lie in files beside the model.

A path may be that of a saved model, whose files are checked first.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from opyard_onnx.errors import ModelError, UnsupportedModel
from opyard_onnx.limits import check_expansion, guarded
from opyard_onnx.saved.versions import Version, find_version


class ModelFile:
    """A ModelProto and the folder that its external data lie in; None for a model that came without a path.

    ``path`` is that of the ONNX file, None likewise; ``saved`` the version of a saved model that this is, if it is one.
    """

    def __init__(self, source: Any) -> None:
        import onnx

        self.path: Path | None = None
        self.folder: Path | None = None
        self.saved: Version | None = None
        self._maps: dict[Path, np.ndarray[Any, Any]] = {}
        if isinstance(source, onnx.ModelProto):
            self.proto, self.title = source, source.graph.name or "the model"
        elif isinstance(source, (bytes, bytearray, memoryview)):
            self.proto, self.title = _parse(bytes(source), "the model"), "the model"
        elif isinstance(source, (str, os.PathLike)):
            path = Path(source)
            if path.is_dir():
                self._open_saved(find_version(path))
            elif path.is_file():
                self._open(path, path.name)
            elif path.exists():
                raise ModelError(
                    f"{str(path)!r} is no file; name an ONNX file, or the folder of a saved model."
                )
            else:
                raise ModelError(f"there is no file {str(path)!r}.")
        elif isinstance(source, Version):
            self._open_saved(source)
        else:
            raise ModelError(
                f"a model is a path, bytes or an onnx.ModelProto; found {type(source).__name__}."
            )
        with guarded(self.title):
            self.opsets = {entry.domain: entry.version for entry in self.proto.opset_import}
            self._check_opset()
            self._check_names()
            check_expansion(self.proto, self.title)

    def _open(self, path: Path, title: str) -> None:
        self.path, self.folder, self.title = path, path.resolve().parent, title
        try:
            self.proto = _parse(path.read_bytes(), str(path))
        except OSError as error:
            raise ModelError(f"{str(path)!r} cannot be read: {error.strerror}.") from None

    def _open_saved(self, version: Version) -> None:
        self._open(version.graph, version.title)
        version.manifest.check_signature(self.proto)
        self.saved = version

    def _check_opset(self) -> None:
        import onnx.defs

        version, newest = self.opsets.get("", self.opsets.get("ai.onnx")), onnx.defs.onnx_opset_version()
        if version is not None and version > newest:
            raise UnsupportedModel(
                f"{self.title} is written for opset {version}; the onnx installed here knows opsets up to {newest}. Type: pip install --upgrade onnx"
            )
        if not self.proto.graph.node and not self.proto.graph.output:
            raise ModelError(f"{self.title} holds no graph; is it an ONNX model?")

    def _check_names(self) -> None:
        """Raises ModelError for names that mean two things, and for a graph without outputs."""
        graph = self.proto.graph
        if not graph.output:
            raise ModelError(f"{self.title} has no outputs, so there is nothing to compute.")
        constants = [t.name for t in graph.initializer] + [t.values.name for t in graph.sparse_initializer]
        for what, names in (
            ("an initializer", constants),
            ("an input", [item.name for item in graph.input]),
            ("an output", [item.name for item in graph.output]),
        ):
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise ModelError(f"{self.title} has {what} {twice[0]!r} twice.")
            if "" in names:
                raise ModelError(f"{self.title} has {what} without a name.")
            for name in names:
                if not isinstance(name, str):  # protobuf gives bytes then
                    raise ModelError(f"{self.title} has {what} whose name is no UTF-8: {name!r}.")

    def external(self, tensor: Any, nbytes: int) -> np.ndarray[Any, Any]:
        """The bytes of a tensor in another file, mapped and not read, as uint8 ``[n]``.

        Raises ModelError for a file outside of the model's folder, and for one that ends before the tensor does.
        """
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        path = self._beside(location, tensor.name)
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", nbytes))
        except ValueError:
            raise ModelError(
                f"the tensor {tensor.name!r} names a place in {location!r} that is no number."
            ) from None
        if path not in self._maps:
            self._maps[path] = _mapped(path, location, tensor.name, self.saved is not None)
        data = self._maps[path]
        if offset < 0 or length != nbytes or offset + length > data.size:
            raise ModelError(
                f"the tensor {tensor.name!r} takes {nbytes} bytes; {location!r} was to hold {length} from {offset}, and has {data.size}."
            )
        return np.asarray(data[offset : offset + length])

    def _beside(self, location: str, name: str) -> Path:
        if self.folder is None:
            raise ModelError(
                f"the tensor {name!r} lies in the file {location!r}; open the model by its path, so that its folder is known."
            )
        try:
            path = (self.folder / location).resolve()
            exists = path.is_file()
        except (OSError, ValueError, RuntimeError) as error:  # too long, a zero in it, links in a circle
            raise ModelError(
                f"the tensor {name!r} lies in {location[:99]!r}, which is no path: {error}."
            ) from None
        if not location or Path(location).is_absolute() or not path.is_relative_to(self.folder):
            raise ModelError(f"the tensor {name!r} lies in {location!r}, which is not in the model's folder.")
        if not exists:
            raise ModelError(
                f"the tensor {name!r} lies in {location!r}, and there is no such file beside the model."
            )
        if self.saved is not None and location not in self.saved.manifest.files:
            raise ModelError(f"the tensor {name!r} lies in {location!r}, which the manifest does not list.")
        return path


def _mapped(path: Path, location: str, name: str, is_known: bool) -> np.ndarray[Any, Any]:
    """A file's bytes, mapped. Raises ModelError for one that has other names, which may be anywhere, as onnx does.

    is_known  whether a manifest has the file's hash; then installers may have linked it, as uv does
    """
    with path.open("rb") as file:
        about = os.fstat(file.fileno())
        if about.st_nlink > 1 and not is_known:
            raise ModelError(
                f"the tensor {name!r} lies in {location!r}, a hard link to a file that has other names, too; put a copy in its place"
            )
        return np.memmap(file, np.uint8, "r") if about.st_size else np.empty(0, np.uint8)


def _parse(data: bytes, title: str) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(f"{title} is no ONNX model: {error}.") from None
    return proto

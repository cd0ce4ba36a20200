"""Model files: what a path, bytes or a ModelProto stand for, and weights that lie in files beside the model.

A path may be that of a saved model, whose files are checked first.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from opyard_onnx.errors import ModelError, UnsupportedModel
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
            else:
                raise ModelError(f"there is no file {str(path)!r}.")
        elif isinstance(source, Version):
            self._open_saved(source)
        else:
            raise ModelError(
                f"a model is a path, bytes or an onnx.ModelProto; found {type(source).__name__}."
            )
        self.opsets = {entry.domain: entry.version for entry in self.proto.opset_import}
        self._check_opset()

    def _open(self, path: Path, title: str) -> None:
        self.path, self.folder, self.title = path, path.resolve().parent, title
        self.proto = _parse(path.read_bytes(), str(path))

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
            self._maps[path] = (
                np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
            )
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
        path = (self.folder / location).resolve()
        if not location or not path.is_relative_to(self.folder):
            raise ModelError(f"the tensor {name!r} lies in {location!r}, which is not in the model's folder.")
        if not path.is_file():
            raise ModelError(
                f"the tensor {name!r} lies in {location!r}, and there is no such file beside the model."
            )
        if self.saved is not None and location not in self.saved.manifest.files:
            raise ModelError(f"the tensor {name!r} lies in {location!r}, which the manifest does not list.")
        return path


def _parse(data: bytes, title: str) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(f"{title} is no ONNX model: {error}.") from None
    return proto

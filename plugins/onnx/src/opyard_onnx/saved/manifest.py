"""The manifest of a saved model: what was written, with sizes and hashes, and what goes in and comes out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import opyard as oy
from opyard_onnx.errors import ModelError, UnsupportedModel
from opyard_onnx.tensors import DTYPE_NAMES

FORMAT = "opyard saved model"
FORMAT_VERSION = 1

GRAPH = "graph.onnx"
WEIGHTS = "weights.safetensors"
MANIFEST = "manifest.json"

LARGEST = 2**24
"""Bytes of a manifest beyond which a file is none."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file as it was written: its bytes, and their SHA-256 as hexadecimal digits."""

    size: int
    sha256: str

    @staticmethod
    def of(path: Path) -> FileFacts:
        """Those of a file as it is. Raises OSError."""
        with open(path, "rb") as file:
            return FileFacts(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: its name, dtype, and sizes, those that are open by their names."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @staticmethod
    def of(info: Any) -> Port:
        """That of a ValueInfoProto of a tensor."""
        tensor = info.type.tensor_type
        sizes = (n.dim_value if n.HasField("dim_value") else n.dim_param for n in tensor.shape.dim)
        return Port(info.name, DTYPE_NAMES[tensor.elem_type], tuple(sizes))

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a saved model says about itself. ``opyard`` is the version that wrote it; ``metadata`` are the user's texts."""

    files: Mapping[str, FileFacts]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opset: int
    opyard: str = oy.__version__
    metadata: Mapping[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Writes it; the same manifest gives the same bytes."""
        data = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def check_signature(self, proto: Any) -> None:
        """Raises ModelError where a graph takes or gives something else."""
        inputs, outputs = signature(proto)
        if (inputs, outputs) != (self.inputs, self.outputs):
            raise ModelError(
                f"{MANIFEST} and {GRAPH} contradict each other about inputs and outputs; the saved model is damaged."
            )


def signature(proto: Any) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """The inputs and outputs of a ModelProto whose constants are initializers."""
    return tuple(map(Port.of, proto.graph.input)), tuple(map(Port.of, proto.graph.output))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a version's folder. Raises ModelError for one that is missing, damaged or of a later format."""
    path = folder / MANIFEST
    try:
        if path.stat().st_size > LARGEST:
            raise ModelError(f"{path} has more than {LARGEST} bytes, and is no manifest of a saved model.")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{folder} is no saved model: it has no {MANIFEST}.") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: {error}.") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ModelError(f"{path} is no manifest of a saved model: its format is not {FORMAT!r}.")
    version = data.get("format_version")
    if version != FORMAT_VERSION:
        raise UnsupportedModel(
            f"{path} is of format version {version!r}; the opyard-onnx installed here reads version {FORMAT_VERSION}. Upgrade it, or save the model anew."
        )
    try:
        return _parsed(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{path} is damaged: {type(error).__name__}: {error}.") from None


def _parsed(data: dict[str, Any]) -> Manifest:
    """The manifest in plain data. Raises the errors of Python for what is not as ``Manifest.write`` writes it."""
    files = {
        _file_name(name): FileFacts(int(f["size"]), str(f["sha256"])) for name, f in data["files"].items()
    }
    if GRAPH not in files:
        raise ValueError(f"it lists no {GRAPH}")
    inputs, outputs = (
        tuple(Port(str(p["name"]), str(p["dtype"]), tuple(p["shape"])) for p in data[key])
        for key in ("inputs", "outputs")
    )
    metadata = {str(key): str(text) for key, text in data["metadata"].items()}
    return Manifest(files, inputs, outputs, int(data["opset"]), str(data["opyard"]), metadata)


def _file_name(name: str) -> str:
    if name in ("", "..") or name != Path(name).name or "\\" in name or ":" in name:
        raise ValueError(f"the file name {name!r} leads out of the folder")
    return name

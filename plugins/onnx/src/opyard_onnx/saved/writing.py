"""Writing a saved model: into a folder that nobody looks at, which a rename makes a version.

All files and folders are flushed to disk in an order in which a version that is there is whole, whenever the power goes.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

import opyard as oy
from opyard_onnx.errors import ModelError
from opyard_onnx.exporting import OPSET, export
from opyard_onnx.saved.manifest import GRAPH, MANIFEST, WEIGHTS, FileFacts, Manifest, signature
from opyard_onnx.saved.versions import taken

UNFINISHED = ".saving-"
"""How the names of folders begin that are not yet, or will never be, a version."""

_AS_BYTES = frozenset({"complex128", "int4", "uint4", "int2", "uint2", "float4_e2m1fn"})
"""Dtypes that safetensors has no name for: the bytes that ONNX stores, as uint8 ``[n]``."""

Arrays = dict[str, np.ndarray[Any, Any]]


def write_version(
    path: Path, graph: oy.Graph, version: int | None = None, metadata: Mapping[str, str] | None = None
) -> Path:
    """Writes a graph into the model's folder ``path``, as ``version`` or as the next one, and gives the folder of that version.

    Raises UnsupportedModel for a graph that has no ONNX form, ModelError for a version that is taken, and OSError.
    """
    if version is not None and (isinstance(version, bool) or not isinstance(version, int) or version < 1):
        raise ModelError(f"a version is a whole number from 1 on; found {version!r}.")
    if path.exists() and not path.is_dir():
        raise ModelError(f"a saved model is a folder, and {path} is a file; name another one.")
    if (path / MANIFEST).exists():
        raise ModelError(
            f"{path} is a version of a saved model; save to the folder around it: {path.parent}."
        )
    if version is not None and os.path.lexists(path / str(version)):
        raise _taken(path, version)
    weights: Arrays = {}
    proto = export(graph, name=path.resolve().name or "model", weights=weights)
    name_outputs(proto.graph)
    path.mkdir(parents=True, exist_ok=True)
    sync_folder(path.parent)
    sweep(path)
    with unfinished(path) as folder:
        _write_files(folder, proto, weights, metadata or {})
        target = _publish(folder, path, version)
    sync_folder(path)
    return target


def _taken(path: Path, version: int) -> ModelError:
    return ModelError(
        f"version {version} of {path} is there already, and versions never change; leave out version={version}, which takes the next number."
    )


# Files ---------------------------------------------------------------------------------------------------------------


def _write_files(folder: Path, proto: Any, weights: Arrays, metadata: Mapping[str, str]) -> None:
    from safetensors.numpy import save_file

    tensors = {tensor.name: tensor for tensor in proto.graph.initializer if tensor.name in weights}
    stored = {name: _stored(array) for name, array in weights.items()}
    save_file(stored, folder / WEIGHTS)
    for name, (offset, length) in places(folder / WEIGHTS).items():
        for key, value in (("location", WEIGHTS), ("offset", offset), ("length", length)):
            tensors[name].external_data.add(key=key, value=str(value))
    (folder / GRAPH).write_bytes(proto.SerializeToString(deterministic=True))
    shutil.copymode(folder / GRAPH, folder / WEIGHTS)  # safetensors lets nobody else read what it writes
    facts = {name: FileFacts.of(folder / name) for name in (GRAPH, WEIGHTS)}
    inputs, outputs = signature(proto)
    Manifest(facts, inputs, outputs, OPSET, metadata=dict(metadata)).write(folder / MANIFEST)
    for name in (GRAPH, WEIGHTS, MANIFEST):
        with open(folder / name, "rb+") as file:
            os.fsync(file.fileno())
    sync_folder(folder)


def name_outputs(graph: Any) -> None:
    """Gives what a node makes the name of the output that it is in place of an Identity, which would be one more copy to run."""
    outputs = {output.name for output in graph.output}
    made = {name for node in graph.node for name in node.output if name not in outputs}
    names: dict[str, str] = {}
    for node in [node for node in graph.node if node.op_type == "Identity" and node.output[0] in outputs]:
        if node.input[0] in made and node.input[0] not in names:
            names[node.input[0]] = node.output[0]
            graph.node.remove(node)
    _rename(graph, names)


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:  # graphs inside see the names around them
            for inner in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
                _rename(inner, names)


def _stored(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array as safetensors takes it: its elements side by side, in a dtype that it knows."""
    if array.dtype.name not in _AS_BYTES:
        return np.ascontiguousarray(array)
    from onnx import numpy_helper

    return np.frombuffer(numpy_helper.from_array(array).raw_data, np.uint8)


def places(path: Path) -> dict[str, tuple[int, int]]:
    """Where the bytes of each tensor of a safetensors file lie: offset and length.

    Source of the format: github.com/huggingface/safetensors, "Format": the length of a JSON header, the header, the bytes.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {
        name: (8 + length + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }


# Folders -------------------------------------------------------------------------------------------------------------


def _publish(folder: Path, model: Path, version: int | None) -> Path:
    """Makes a finished folder a version; where somebody else takes the next number first, the one after it."""
    while True:
        number = version or max(taken(model), default=0) + 1
        target = model / str(number)
        try:
            os.rename(folder, target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            if version is not None:
                raise _taken(model, version) from None
        else:
            return target


@contextmanager
def unfinished(model: Path) -> Iterator[Path]:
    """A new folder in the model's, which is locked as long as it is worked on, and is removed unless it was renamed."""
    while True:
        folder = model / f"{UNFINISHED}{secrets.token_hex(8)}"
        folder.mkdir()
        lock = _lock(folder, wait=True)
        if folder.exists():  # nobody swept it up before it was locked
            break
        _unlock(lock)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _unlock(lock)


def sweep(model: Path) -> None:
    """Removes what writers left behind that were killed: the folders that nobody has locked."""
    for folder in model.glob(f"{UNFINISHED}*"):
        lock = _lock(folder, wait=False)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            _unlock(lock)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """A lock on a folder, which ends with the process; None where another has it, or folders have no locks here."""
    try:
        import fcntl
    except ImportError:  # Windows; what is left behind there stays, and nobody looks at it
        return None
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(lock)
        return None
    return lock


def _unlock(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def sync_folder(folder: Path) -> None:
    """Flushes the names in a folder to disk, where folders can be opened."""
    with suppress(PermissionError):  # Windows, and folders that may be written and not read
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

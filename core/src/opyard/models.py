"""Saving and loading: variables as a checkpoint, a file; a program as a saved model, a folder that plugins write and read.

A saved model is a graph that keeps no state: what its variables hold becomes constants, and what no output needs, such as
a training step, is left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from . import runtime
from .errors import GraphError, RegistryError
from .graph import Graph, Value
from .nest import leaves
from .rewrite import Rewrite, extract, needed_inputs
from .saving import Variables, write_checkpoint
from .session import Session
from .transactions import Effects
from .variables import Variable, snapshot

OPENED_BY = {".onnx": "opyard-onnx"}
"""Endings of model files, and the package to name when no plugin opens them."""

SAVED_BY = "opyard-onnx"
"""The package that writes saved models, and opens their folders."""


@dataclass(frozen=True, eq=False)
class SavedModel:
    """A model that was opened: call it with arrays, or give its ``graph`` to a session of your own.

    path      the folder of its version, or its file
    version   its number, None for a file
    metadata  the texts that were saved with it
    """

    graph: Graph
    path: Path
    version: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """Its output for arrays in the order of its inputs, or by their names; of several outputs a dict by their names.

        Runs on the best of all devices. Raises GraphError for inputs that do not fit.
        """
        names = tuple(self.graph.inputs)
        if len(arrays) > len(names) or named.keys() & set(names[: len(arrays)]):
            raise GraphError(
                f"the model takes {', '.join(names) or 'no arrays'}, each once; {len(arrays)} arrays by position were given{''.join(f', and {name}' for name in named)}."
            )
        outputs = tuple(self.graph.outputs)
        fetches = outputs[0] if len(outputs) == 1 else {name: name for name in outputs}
        return self.session.run(fetches, {**dict(zip(names, arrays, strict=False)), **named})

    @cached_property
    def session(self) -> Session:
        """The session that runs its calls."""
        return Session(self.graph)


def save(
    path: str | os.PathLike[str],
    what: Variables | Graph | Session | SavedModel,
    *,
    outputs: Any = None,
    version: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Writes variables as a checkpoint, or a program as a saved model, and gives the path of what was written.

    what      variables, in a list or a dict: ``path`` becomes a file, which ``restore`` reads. A Graph, a Session or a
              SavedModel: the folder ``path`` gets a new version, which ``load`` reads
    outputs   of a program: names, values, or a dict of them by new names; by default all outputs of the graph
    version   of a program: a number that is not taken; by default the next one
    metadata  texts to keep beside them, such as the number of the step

    Either is there as a whole or not at all, whatever happens meanwhile. Raises GraphError for a program that assigns to
    variables, RegistryError where no plugin saves models, CheckpointError for two variables of one name, and OSError.
    """
    texts = {str(key): str(text) for key, text in (metadata or {}).items()}
    if isinstance(what, (Session, SavedModel)):
        what = what.graph
    if isinstance(what, Graph):
        hook = {"path": os.fspath(path), "graph": frozen(what, outputs), "version": version}
        found = runtime.plugins().model("opyard_save_model", **hook, metadata=texts)
        if found is None:
            raise RegistryError(f"saving a model needs a plugin: {runtime.plugins().absence(SAVED_BY)}")
        return Path(found)
    if callable(what):
        raise GraphError(
            f"save takes variables or a Graph; found {what!r}. Trace a function first: save(path, opyard.trace(function, *specs))."
        )
    if outputs is not None or version is not None:
        raise GraphError("outputs and version are for saving a Graph; a checkpoint of variables has neither.")
    write_checkpoint(Path(path), what, texts)
    return Path(path)


def load(path: str | os.PathLike[str], version: int | None = None, *, verify: bool = True) -> SavedModel:
    """Opens a saved model, its newest version by default, or a model file. Weights stay on disk until they are used.

    ``verify=False`` leaves out comparing the contents of files with their hashes, for which all of them are read.
    Raises RegistryError where there is nothing, or nobody opens it; a damaged model is an error of the plugin that reads it.
    """
    place = Path(path)
    if not place.exists():
        raise RegistryError(f"there is no file or folder {str(path)!r}.")
    if version is not None and not place.is_dir():
        raise RegistryError(
            f"{str(path)!r} is a file, and versions lie in folders; leave out version={version!r}."
        )
    hook = {"path": str(place), "version": version, "verify": verify}
    found = runtime.inspect_plugins().model("opyard_open_model", **hook)
    if isinstance(found, SavedModel):
        return found
    if not isinstance(found, Graph):
        raise RegistryError(_nobody_opens(place))
    return SavedModel(found, place)


def _nobody_opens(path: Path) -> str:
    what = f"the {'folder' if path.is_dir() else 'file'} {str(path)!r}"
    package = SAVED_BY if path.is_dir() else OPENED_BY.get(path.suffix)
    if package is not None and (why := runtime.inspect_plugins().absence(package)):
        return f"opening {what} needs a plugin: {why}"
    return f"no installed plugin opens {what}. A saved model is a folder with a folder for each version, named by its number; known endings of files are {', '.join(OPENED_BY)}; opyard.restore reads checkpoints."


def frozen(graph: Graph, outputs: Any = None) -> Graph:
    """What makes some outputs of a graph, with what variables hold now as constants.

    Raises GraphError for unknown outputs, and where these depend on assignments.
    """
    wanted = _named_outputs(graph, outputs)
    effects = Effects.of(graph, tuple(wanted.values()))
    if effects.writes:
        raise GraphError(
            f"the outputs {', '.join(wanted)} depend on assignments to {', '.join(v.name for v in effects.writes)}, and a saved model keeps no state; name outputs that do not: save(path, graph, outputs=[...])."
        )
    needed = needed_inputs(graph, tuple(wanted.values()))
    part = extract(graph, tuple(wanted.values()), (*needed, *effects.names))
    part.outputs = dict(zip(wanted, part.outputs.values(), strict=True))
    values, part.inputs = part.inputs, {name: part.inputs[name] for name in needed}
    rewrite, held = Rewrite(part), dict(zip(effects.reads, snapshot(effects.reads), strict=True))
    for variable, name in zip(effects.reads, effects.names, strict=True):
        rewrite[values[name]] = rewrite.graph.constant(held[variable], variable.name)
    for node in part.nodes:
        rewrite.copy(node)
    return rewrite.finish()


def _named_outputs(graph: Graph, outputs: Any) -> dict[str, Value]:
    if outputs is None:
        outputs = graph.outputs
    found: dict[str, Value] = {}
    names = {value: name for name, value in reversed(graph.outputs.items())}
    given: Iterable[Any] = (
        outputs.items() if isinstance(outputs, Mapping) else ((None, o) for o in leaves(outputs))
    )
    for name, output in given:
        value = graph.value(output) if isinstance(output, str) else output
        value = value.value_in(graph) if isinstance(value, Variable) else value
        if not isinstance(value, Value) or value.graph is not graph:
            raise GraphError(f"an output is a value of the graph, or its name; found {output!r}.")
        found[name or (output if isinstance(output, str) else names.get(value, value.name))] = value
    if not found:
        raise GraphError(
            "the graph has no outputs; name some: graph.output('y', value), or save(path, graph, outputs=[value])."
        )
    return found

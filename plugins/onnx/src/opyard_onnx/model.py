"""Model: a model file that runs. ``load`` gives the graph of one whose shapes do not depend on numbers that are fed.

The shapes of a graph are known before it runs. Where a model computes a shape, a branch or a number of iterations out of
numbers that are fed, it is run in stages: the first ends where such a number is needed, and the next is imported with
the number as a constant. Stages are remembered by the specs of what is fed and by these numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import opyard as oy
from opyard.errors import GraphError, did_you_mean
from opyard_onnx.comparison import run_by
from opyard_onnx.errors import ModelError
from opyard_onnx.evaluation import NeedsValue
from opyard_onnx.files import ModelFile
from opyard_onnx.importer import Importer, Scope, used_names
from opyard_onnx.limits import guarded
from opyard_onnx.loading import UNROLL, declared_spec
from opyard_onnx.node import EMPTY
from opyard_onnx.tensors import STRING, dtype_of

REMEMBERED = 256
"""First stages that a model remembers, and stages that follow on each; beyond them the oldest is forgotten."""

LIMITED = "memory limits do not hold inside of branches and loops"


@dataclass(slots=True, eq=False)
class Stage:
    """A part of a model as a graph.

    fetches  values that the graph makes for what comes after it
    results  entries of the model's outputs, for the last stage
    needed   the value that the next stage needs to know, for the others
    """

    graph: oy.Graph
    feeds: dict[str, oy.Value]
    position: int
    scope: Scope
    known: list[np.ndarray[Any, Any]]
    fetches: list[oy.Value] = field(default_factory=list)
    results: list[Any] | None = None
    needed: oy.Value | None = None
    session: oy.Session | None = None
    following: dict[Any, Stage] = field(default_factory=dict)


class Model:
    """A model file that runs on any feeds: ``Model("model.onnx").run({"x": array})``.

    source    a path, bytes, or an onnx.ModelProto
    unroll    branches are chosen and loops unrolled, even where they can be nodes of a graph; so they are under memory limits
    options   those of opyard.Session, such as devices

    ``notes``: a sentence for each branch and loop that is no node of a graph, with the reason; complete after a run.
    """

    def __init__(self, source: Any, *, unroll: bool = False, **options: Any) -> None:
        self.file = ModelFile(source)
        self.notes: dict[str, None] = {}
        self._unroll = UNROLL if unroll else LIMITED if options.get("memory") else ""
        self._options = options
        self._first: dict[Any, Stage] = {}
        graph = self.file.proto.graph
        constants = {tensor.name for tensor in graph.initializer}
        self.inputs = {i.name: i.type for i in graph.input if i.name not in constants}
        self.outputs = tuple(output.name for output in graph.output)
        self.title = self.file.title

    def spec(self, name: str) -> oy.TensorSpec:
        """What the model states about an input. Raises UnsupportedModel for one that is no tensor."""
        return declared_spec(name, self.inputs[name])

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs in their order: arrays, lists of arrays for sequences, None for an optional without a value."""
        given = self._checked(feeds)
        stage = self._stage(given)
        arrays = dict(_flat(given))
        while True:
            fetched = self._fetch(stage, arrays)
            if stage.results is not None:
                return [_result(entry, fetched, stage.graph) for entry in stage.results]
            stage, arrays = self._next(stage, fetched)

    def run_by(self, runtime: str, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs by another runtime: "onnxruntime". Raises OpyardError where it is not here or does not run this."""
        return run_by(runtime, self.file, self.outputs, feeds)

    def profile(self, feeds: Mapping[str, Any], *, runs: int = 10) -> oy.Profile:
        """Where the time goes, over all stages; importing them is not counted. See opyard.Session.profile."""
        parts = [
            (f"stage {number}", self._session(stage).profile(_to_compute(stage), named, runs=runs))
            for number, (stage, named) in enumerate(self._stages(feeds), start=1)
        ]
        return parts[0][1] if len(parts) == 1 else oy.Profile.joined(parts)

    def placements(self, feeds: Mapping[str, Any]) -> Iterator[oy.Placement]:
        """Where everything runs for these feeds: a placement for each stage that computes something."""
        for stage, named in self._stages(feeds):
            yield self._session(stage).placement(_to_compute(stage), named)

    def _stages(self, feeds: Mapping[str, Any]) -> Iterator[tuple[Stage, dict[str, Any]]]:
        """The stages that compute something for these feeds, each with what it is fed."""
        given = self._checked(feeds)
        stage, arrays = self._stage(given), dict(_flat(given))
        while True:
            if _to_compute(stage):
                yield stage, {name: arrays[name] for name in stage.feeds}
            if stage.results is not None:
                return
            stage, arrays = self._next(stage, self._fetch(stage, arrays))

    def _checked(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        for name in feeds:
            if name not in self.inputs:
                known = tuple(self.inputs)
                raise GraphError(
                    f"{self.file.title} has no input {name!r}.{did_you_mean(name, known)} Inputs: {', '.join(known) or 'none'}."
                )
        missing = [name for name in self.inputs if name not in feeds]
        if missing:
            raise GraphError(f"{self.file.title} needs a feed for {', '.join(map(repr, missing))}.")
        given = {name: _array(feeds[name], declared) for name, declared in self.inputs.items()}
        for name, array in given.items():
            if isinstance(array, list) or array is None or array.dtype == object:
                continue
            if (why := _misfit(array, self.inputs[name])) is not None:
                raise GraphError(f"feed {name!r} is {oy.TensorSpec.of(array)!r}; {self.file.title} {why}")
        return given

    # Stages ------------------------------------------------------------------------------------------------------

    def _stage(self, given: dict[str, Any]) -> Stage:
        key = tuple(_key(item) for item in given.values())
        if key not in self._first:
            graph = oy.Graph()
            scope = Scope(self.file.opsets)
            stage = Stage(graph, {}, 0, scope, [])
            importer = self._importer(graph)
            with guarded(self.file.title):
                importer.initializers(self.file.proto.graph, scope)
            for name, item in given.items():
                scope.entries[name] = _input(item, name, stage)
            self._import(stage, importer)
            _remember(self._first, key, stage)
        return self._first[key]

    def _importer(self, graph: oy.Graph) -> Importer:
        importer = Importer(self.file, graph, unroll=self._unroll)
        importer.notes = self.notes
        return importer

    def _import(self, stage: Stage, importer: Importer) -> None:
        """Records nodes until all are, or until one needs a number that is only known at run time."""
        proto, scope = self.file.proto.graph, stage.scope
        known = stage.known
        with guarded(self.file.title), stage.graph:
            for position in range(stage.position, len(proto.node)):
                try:
                    importer.top_node(proto.node[position], scope, known)
                except NeedsValue as need:
                    stage.position, stage.needed, stage.known = position, need.value, known
                    names = [name for name in used_names(proto, position) if name in scope.entries]
                    scope.entries = {name: _settled(scope.entries[name], importer) for name in names}
                    stage.fetches = [need.value, *_values(list(scope.entries.values()))]
                    return
                known = []
            stage.results = [scope.find(name) for name in self.outputs]
            stage.fetches = list(_values(stage.results))

    def _next(self, stage: Stage, fetched: dict[oy.Value, Any]) -> tuple[Stage, dict[str, Any]]:
        needed = stage.needed
        assert needed is not None
        number = np.array(fetched[needed])
        key = (number.shape, number.dtype.name, number.tobytes())
        if key not in stage.following:
            graph = oy.Graph()
            scope = Scope(self.file.opsets)
            carried: dict[oy.Value, oy.Value] = {}
            following = Stage(graph, {}, stage.position, scope, [])
            dynamic = list(_values(list(stage.scope.entries.values())))
            for value in dynamic:
                if value is not needed:  # inputs first, for they keep their names
                    carried[value] = following.feeds[value.name] = graph.input(value.name, value.spec)
            carried[needed] = graph.constant(number, needed.name)
            # what is made inside of the node that asks is asked for again: its number is kept in the order of asking
            following.known = [*stage.known, number] if needed not in set(dynamic) else stage.known
            for name, entry in stage.scope.entries.items():
                scope.entries[name] = _carry(entry, graph, carried)
            importer = self._importer(graph)
            importer.continued = True
            self._import(following, importer)
            _remember(stage.following, key, following)
        following = stage.following[key]
        arrays = {source.name: fetched[source] for source in stage.fetches}
        return following, {name: arrays[name] for name in following.feeds}

    def _session(self, stage: Stage) -> oy.Session:
        if stage.session is None:
            stage.session = oy.Session(stage.graph, **self._options)
        return stage.session

    def _fetch(self, stage: Stage, arrays: Mapping[str, Any]) -> dict[oy.Value, Any]:
        found: dict[oy.Value, Any] = {value: arrays[name] for name, value in stage.feeds.items()}
        wanted = _to_compute(stage)
        if wanted:
            feeds = {name: arrays[name] for name in stage.feeds}
            try:
                found.update(zip(wanted, self._session(stage).run(wanted, feeds), strict=True))
            except MemoryError as error:
                raise ModelError(
                    f"{self.file.title} needs more memory than there is here: {error}."
                ) from None
        return found


def _array(item: Any, declared: Any) -> Any:
    """A feed as arrays, in lists for sequences. Text becomes arrays of Python strings."""
    if item is None or (isinstance(item, (list, tuple)) and not declared.HasField("tensor_type")):
        return None if item is None else [_array(part, declared.sequence_type.elem_type) for part in item]
    number = declared.tensor_type.elem_type if declared.HasField("tensor_type") else 0
    if number == STRING:
        return np.asarray(item, object)
    if not hasattr(item, "dtype"):
        return np.asarray(item, dtype_of(number) if number else None)
    return item.astype(object) if item.dtype.kind in "US" else item


def _misfit(array: Any, declared: Any) -> str | None:
    """What the model wants of an input in place of this array, or None."""
    if not declared.HasField("tensor_type"):
        return None
    wanted = dtype_of(declared.tensor_type.elem_type)
    if array.dtype != wanted:
        return f"takes {wanted.name} there; convert it: x.astype({wanted.name!r})."
    if not declared.tensor_type.HasField("shape"):
        return None
    dims = declared.tensor_type.shape.dim
    sizes = [n.dim_value if n.HasField("dim_value") else None for n in dims]
    fits = len(sizes) == array.ndim and all(a in (None, b) for a, b in zip(sizes, array.shape, strict=True))
    shape = ", ".join(str(n.dim_value) if n.HasField("dim_value") else n.dim_param or "any" for n in dims)
    return None if fits else f"takes the shape [{shape}] there."


def _key(item: Any) -> Any:
    if isinstance(item, list):
        return tuple(_key(part) for part in item)
    if item is None:
        return None
    if item.dtype == object:
        return item.shape, tuple(item.ravel())
    return oy.TensorSpec.of(item)


def _flat(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Arrays by the names of the graph's inputs: elements of sequences are numbered."""
    for name, item in given.items():
        if isinstance(item, list):
            yield from _flat({f"{name}[{number}]": part for number, part in enumerate(item)})
        else:
            yield name, item


def _input(item: Any, name: str, stage: Stage) -> Any:
    if isinstance(item, list):
        return [_input(part, f"{name}[{number}]", stage) for number, part in enumerate(item)]
    if item is None:
        return EMPTY
    if item.dtype == object:
        return item
    stage.feeds[name] = stage.graph.input(name, oy.TensorSpec.of(item))
    return stage.feeds[name]


def _settled(entry: Any, importer: Importer) -> Any:
    """The entry with everything that is known by now, such as sizes, as arrays, so that it is known in later stages, too."""
    if isinstance(entry, list):
        return [_settled(item, importer) for item in entry]
    if isinstance(entry, oy.Value) and entry.node is not None:
        try:
            return importer.evaluate(entry)
        except NeedsValue:
            return entry
    return entry


def _carry(entry: Any, graph: oy.Graph, carried: Mapping[oy.Value, oy.Value]) -> Any:
    """An entry of one stage in the graph of the next."""
    if isinstance(entry, list):
        return [_carry(item, graph, carried) for item in entry]
    if isinstance(entry, oy.Value) and entry in entry.graph.constants:
        return graph.constant(entry.graph.constants[entry], entry.name)
    if isinstance(entry, np.ndarray) and entry.dtype != object:
        return graph.constant(entry)
    return carried[entry] if isinstance(entry, oy.Value) else entry


def _values(entries: list[Any]) -> Iterator[oy.Value]:
    """The values in entries that a run makes, each once."""
    seen: set[oy.Value] = set()
    stack = list(reversed(entries))
    while stack:
        entry = stack.pop()
        if isinstance(entry, list):
            stack += reversed(entry)
        elif isinstance(entry, oy.Value) and entry not in entry.graph.constants and entry not in seen:
            seen.add(entry)
            yield entry


def _to_compute(stage: Stage) -> list[oy.Value]:
    return [value for value in dict.fromkeys(stage.fetches) if value.node is not None]


def _result(entry: Any, fetched: Mapping[oy.Value, Any], graph: oy.Graph) -> Any:
    if isinstance(entry, list):
        return [_result(item, fetched, graph) for item in entry]
    if isinstance(entry, oy.Value):
        found = fetched[entry] if entry in fetched else graph.constants[entry]
        return np.array(found) if entry.node is None else found  # results are the caller's own
    return None if entry is EMPTY else entry.copy()


def _remember(cache: dict[Any, Any], key: Any, item: Any) -> None:
    if len(cache) >= REMEMBERED:
        cache.pop(next(iter(cache)), None)
    cache[key] = item


__all__ = ["Model", "ModelError"]

"""Programs that a command line names: ``module:function``, ``path.py:function`` or a model, with the specs of their inputs."""

from __future__ import annotations

import importlib
import inspect
import os
import runpy
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from .. import models, runtime
from ..compiled import Compiled
from ..errors import GraphError, OpyardError, RegistryError, SpecError, did_you_mean
from ..graph import Graph
from ..models import OPENED_BY
from ..placement import Limits, Placement, TuneReport
from ..registry import describe_error
from ..session import Session
from ..spec import TensorSpec
from ..tracing import parameter_names, trace

Specs = tuple[TensorSpec | None, ...]


@dataclass(frozen=True)
class Program:
    """A session with what to fetch and the specs to feed."""

    session: Session
    fetches: Any
    feeds: dict[str, TensorSpec]

    def placement(self) -> Placement:
        """Where everything runs, and why."""
        return self.session.placement(self.fetches, self.feeds)

    def tune(self, **options: Any) -> TuneReport:
        """See Session.tune."""
        return self.session.tune(self.fetches, self.feeds, **options)


def is_program(target: str) -> bool:
    """Whether this names a program and not an op."""
    return ":" in target or is_model(target)


def is_model(target: str) -> bool:
    """Whether this names a model, be it there or not: a model file, or the folder of a saved model."""
    path = Path(target)
    if path.suffix in OPENED_BY:
        return True
    elsewhere = ":" not in target and os.path.basename(target) != target
    if path.is_dir():  # a folder beside us may have the name of an op
        return elsewhere or target not in runtime.registry().ops
    return path.suffix not in ("", ".py") and (
        elsewhere or path.is_file()
    )  # an op has no ending, a source no graph


def load(target: str, specs: Specs, memory: Limits | None = None) -> Program:
    """The program that a command line names, with these memory limits in place of its own, if there are any.

    The name may belong to a function over arrays, to a Graph, a Session or a compiled function, or to a function without
    parameters that gives one of these; or it is the path of a model file. Raises RegistryError for a name that is not
    there, and SpecError for specs that do not fit.
    """
    session = open_session(target, specs, memory=memory)
    return _program(target, session, tuple(spec for spec in specs if spec is not None))


def open_session(
    target: str,
    specs: Specs,
    named: Mapping[str, TensorSpec] | None = None,
    *,
    memory: Limits | None = None,
    devices: tuple[str, ...] = (),
) -> Session:
    """The session of a program; see load.

    named    specs of a function's parameters by their names, for when there are no ``specs``
    memory   in place of the program's own limits, if there are any
    devices  in place of the program's own, if there are any
    """
    if not is_program(target):
        raise RegistryError(
            f"{target!r} is no program; write module:function, path.py:function or the path of a model file."
        )
    found = models.load(target).graph if is_model(target) else _find(target)
    given = tuple(spec for spec in specs if spec is not None)
    if len(given) < len(specs):
        raise SpecError(f"the inputs of the program {target!r} are arrays; none is for ops.")
    if inspect.isroutine(found) and not inspect.signature(found).parameters:
        found = _call(target, found)
    if isinstance(found, Session) and not memory and not devices:
        return found
    options: dict[str, Any] = {"devices": "auto"}
    if isinstance(found, (Compiled, Session)):
        names = ["devices", "memory", "objective"]
        names += ["registry", "costs"] if isinstance(found, Session) else []
        options = {name: getattr(found, name) for name in names}
        found = found.graph if isinstance(found, Session) else found.function
    options |= {"memory": memory} if memory else {}
    options |= {"devices": list(devices)} if devices else {}
    if isinstance(found, Graph):
        return Session(found, **options)
    if not callable(found):
        raise RegistryError(
            f"{target!r} is {type(found).__name__}; name a function over arrays, or something that gives a Graph or a Session."
        )
    known = named or {}
    given = given or tuple(known[name] for name in parameter_names(found) if name in known)
    return Session(_trace(target, found, given), **options)


memory_option = click.option(
    "--memory",
    multiple=True,
    metavar="DEVICE=SIZE",
    help="The most that a run may keep on a device, such as opencl:0=2GiB; may be repeated. For programs.",
)


def parse_limits(texts: tuple[str, ...]) -> dict[str, str]:
    """``--memory`` as given, "opencl:0=2GiB", by device. Raises SpecError for what has no equals sign."""
    for text in texts:
        if "=" not in text:
            raise SpecError(
                f"--memory {text!r} is no limit; write a device and a size, such as 'cpu:0=2GiB'."
            )
    return {device: size for device, _, size in (text.partition("=") for text in texts)}


def _call(target: str, function: Callable[[], Any]) -> Any:
    """What the user's function gives; what it raises is the user's, too."""
    try:
        return function()
    except OpyardError:
        raise
    except (Exception, SystemExit) as error:
        raise SpecError(f"{target} raised {describe_error(error)}") from error


def _trace(target: str, function: Any, specs: tuple[TensorSpec, ...]) -> Graph:
    try:
        inspect.signature(function).bind(*specs)
    except TypeError as error:
        raise SpecError(
            f"{target}{inspect.signature(function)}: {error}; {len(specs)} inputs were given. Write one for each, such as 'float32[32,64]'."
        ) from None
    graph: Graph = _call(target, lambda: trace(function, *specs))
    return graph


def _program(target: str, session: Session, specs: tuple[TensorSpec, ...]) -> Program:
    graph = session.graph
    known = {name: value.spec for name, value in graph.inputs.items() if value.spec.is_concrete}
    feeds = known if not specs else dict(zip(graph.inputs, specs, strict=False))
    if len(feeds) != len(graph.inputs) or len(specs) > len(graph.inputs):
        wanted = ", ".join(f"{name}: {value.spec!r}" for name, value in graph.inputs.items())
        raise SpecError(
            f"{target} takes the inputs {wanted or 'none'}; {len(specs)} were given. Write one for each, such as 'float32[32,64]'."
        )
    fetches = graph.result if graph.result is not None else list(graph.outputs)
    if not graph.outputs:
        raise GraphError(f"the graph of {target} has no output; name one with graph.output('y', value).")
    return Program(session, fetches, feeds)


def _find(target: str) -> Any:
    place, _, name = target.rpartition(":")
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise RegistryError(f"there is no file {place!r} (asked for as {target!r}).")
        names = runpy.run_path(place, run_name=Path(place).stem)
    else:
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        try:
            names = vars(importlib.import_module(place))
        except ImportError as error:
            raise RegistryError(
                f"{target!r} cannot be imported: {error}. Write module:function or path.py:function."
            ) from error
    if name not in names:
        public = tuple(key for key in names if not key.startswith("_"))
        raise RegistryError(f"{place} has no {name!r}.{did_you_mean(name, public)}")
    return names[name]

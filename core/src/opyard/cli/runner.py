"""Runners: what ``opyard run`` runs. Programs have one here; a plugin may bring one for its model files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .. import runtime
from ..errors import GraphError, OpyardError, SpecError
from ..placement import Placement
from ..profiles import Profile
from ..session import Session
from ..spec import TensorSpec
from .program import Specs, is_model, open_session


class Runner(Protocol):
    """A program or model with the devices to run on. Feeds are arrays by the names of the inputs."""

    @property
    def title(self) -> str:
        """What messages call it."""

    @property
    def inputs(self) -> Iterable[str]:
        """Names, in their order."""

    @property
    def outputs(self) -> Sequence[str]:
        """Names, in their order."""

    @property
    def notes(self) -> Iterable[str]:
        """What its users should know, a sentence each; complete after a run."""

    def spec(self, name: str) -> TensorSpec:
        """The spec of an input, which may have symbolic sizes. Raises OpyardError for one that is no tensor."""

    def run(self, feeds: Mapping[str, Any]) -> Sequence[Any]:
        """The outputs: arrays, and for model files whatever else there may be."""

    def run_by(self, runtime: str, feeds: Mapping[str, Any]) -> Sequence[Any]:
        """The outputs by another runtime. Raises OpyardError where it is not known or does not run this."""

    def placements(self, feeds: Mapping[str, Any]) -> Iterable[Placement]:
        """Where everything runs: a placement for each part that runs by itself."""

    def profile(self, feeds: Mapping[str, Any], *, runs: int = 10) -> Profile:
        """Where the time goes."""


@dataclass(frozen=True, slots=True)
class SessionRunner:
    """Runs all outputs of a session's graph, and what it assigns to variables."""

    title: str
    session: Session

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph's inputs."""
        return tuple(self.session.graph.inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""
        return tuple(self.session.graph.outputs)

    @property
    def notes(self) -> list[str]:
        """Those of the graph."""
        return list(self.session.graph.notes)

    def spec(self, name: str) -> TensorSpec:
        """The spec of an input."""
        return self.session.graph.inputs[name].spec

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs."""
        found: list[Any] = self.session.run(list(self.outputs), feeds, updates=True)
        return found

    def run_by(self, runtime: str, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs by the reference kernels."""
        if runtime != "reference":
            raise OpyardError(
                f"{runtime!r} does not run {self.title}; a program is compared with 'reference'."
            )
        found: list[Any] = Session(self.session.graph, devices="reference").run(list(self.outputs), feeds)
        return found

    def placements(self, feeds: Mapping[str, Any]) -> list[Placement]:
        """The placement."""
        return [self.session.placement(list(self.outputs), feeds, updates=True)]

    def profile(self, feeds: Mapping[str, Any], *, runs: int = 10) -> Profile:
        """See Session.profile."""
        return self.session.profile(list(self.outputs), feeds, runs=runs, updates=True)


def open_runner(
    target: str, specs: Specs, named: Mapping[str, TensorSpec], devices: tuple[str, ...]
) -> Runner:
    """The runner of a program or model file; see open_session. Raises what that raises."""
    if is_model(target):
        found: Runner | None = runtime.inspect_plugins().model(
            "opyard_model_runner", path=target, devices=devices
        )
        if found is not None:
            return found
    session = open_session(target, specs, named, devices=devices)
    if not session.graph.outputs and not session.graph.state.writes:
        raise GraphError(f"the graph of {target} has no output; name one with graph.output('y', value).")
    if len(specs) > len(session.graph.inputs):
        raise SpecError(
            f"{target} takes the inputs {', '.join(session.graph.inputs) or 'none'}; {len(specs)} were given."
        )
    return SessionRunner(target, session)

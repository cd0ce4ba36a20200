"""Functions over arrays as graphs: ``compile`` traces a function once for each combination of specs, and runs a session."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .costs import Costs
from .graph import Graph, Value, trace, weak_scalar
from .opfunction import current_policy
from .placement import Placement
from .registry import Registry
from .selection import PRIOR
from .session import Devices, Session
from .spec import TensorSpec


class Compiled:
    """A Python function over arrays, traced, placed and planned once for each combination of specs."""

    def __init__(
        self,
        function: Callable[..., Any],
        devices: Devices = "auto",
        registry: Registry | None = None,
        costs: Costs = PRIOR,
    ) -> None:
        self.function = function
        self.devices = devices
        self.registry = registry
        self.costs = costs
        self._made: dict[Any, tuple[Session, Callable[..., Any]]] = {}
        self.__doc__ = function.__doc__

    def __call__(self, *arrays: Any) -> Any:
        """The function's result for these arrays, on the device that they live on.

        Numbers take the dtype that they have beside the arrays. Within a graph that is being built, on values of it, the
        function is recorded as a part of that graph.
        """
        try:
            key = (current_policy.get(), *[(type(a), a.shape, a.dtype) for a in arrays])
        except AttributeError:
            return self(*_as_arrays(arrays))
        found = self._made.get(key)
        if found is None:
            if any(isinstance(a, Value) for a in arrays):
                return self.function(*arrays)
            found = self._made[key] = self._make(arrays)
        return found[1](*arrays)

    def _make(self, arrays: Iterable[Any]) -> tuple[Session, Callable[..., Any]]:
        graph = trace(self.function, *(TensorSpec(a.shape, a.dtype) for a in arrays))
        session = Session(graph, devices=self.devices, registry=self.registry, costs=self.costs)
        return session, session.callable(graph.result, list(graph.inputs))

    def graph(self, *arrays: Any) -> Graph:
        """The traced graph for these arrays or TensorSpecs."""
        return trace(self.function, *_as_specs(arrays))

    def explain(self, *arrays: Any) -> Placement:
        """Where everything would run for these arrays or TensorSpecs, and why."""
        specs = _as_specs(arrays)
        graph = trace(self.function, *specs)
        session = Session(graph, devices=self.devices, registry=self.registry, costs=self.costs)
        return session.explain(graph.result, dict(zip(graph.inputs, specs, strict=True)))


def _as_arrays(arguments: tuple[Any, ...]) -> list[Any]:
    """Numbers as 0-d arrays, lists as arrays; arrays and specs as they are."""
    made = []
    for argument in arguments:
        if isinstance(argument, TensorSpec) or (hasattr(argument, "dtype") and hasattr(argument, "shape")):
            made.append(argument)
        elif isinstance(argument, (bool, int, float, complex)):
            made.append(weak_scalar(argument, arguments))
        else:
            made.append(np.asarray(argument))
    return made


def _as_specs(arguments: tuple[Any, ...]) -> list[TensorSpec]:
    return [a if isinstance(a, TensorSpec) else TensorSpec.of(a) for a in _as_arrays(arguments)]


def compile(
    function: Callable[..., Any],
    *,
    devices: Devices = "auto",
    registry: Registry | None = None,
    costs: Costs = PRIOR,
) -> Compiled:
    """Makes a function over arrays run as one placed graph. Usable as a decorator; see Compiled."""
    return Compiled(function, devices, registry, costs)

"""Tracing: the graph of a Python function of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from .errors import GraphError, SpecError
from .graph import Graph, Value, recording
from .nest import map_leaves
from .spec import TensorSpec


def trace(function: Callable[..., Any], *specs: TensorSpec) -> Graph:
    """The graph of a Python function of arrays, recorded by calling it once with values of these specs."""
    names = parameter_names(function)
    inputs = {
        names[number] if number < len(names) else f"input_{number}": spec for number, spec in enumerate(specs)
    }
    return trace_named(function, inputs, getattr(function, "__name__", repr(function)))


def parameter_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the parameters that a Python function takes by position; none for other callables."""
    code = getattr(function, "__code__", None)
    return code.co_varnames[hasattr(function, "__self__") : code.co_argcount] if code else ()


def trace_named(function: Callable[..., Any], inputs: Mapping[str, TensorSpec], title: str) -> Graph:
    """As ``trace``, with names for the graph's inputs; ``title`` is what messages call the function."""
    graph = Graph()
    values = [graph.input(name, spec) for name, spec in inputs.items()]
    with recording(graph):
        found = function(*values)
    numbers = count()

    def as_value(leaf: Any) -> Value:
        number = next(numbers)
        try:
            value = leaf if isinstance(leaf, Value) else graph.enter(leaf, title)
        except (SpecError, ValueError):
            raise GraphError(
                f"{title} returns {_describe(leaf)} as output {number}; return arrays, numbers or values of the graph, in tuples, lists or dicts."
            ) from None
        return graph.output(f"output_{number}", value)

    assigns = found is None and graph.state.writes
    graph.result = None if assigns else map_leaves(as_value, found)
    return graph


def _describe(leaf: Any) -> str:
    return repr(leaf) if leaf is None or isinstance(leaf, str) else type(leaf).__name__

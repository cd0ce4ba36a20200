"""Regions of elementwise calls as one body: what a region compiler makes one kernel of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from opyard import Node, Value
from opyard.region import Region
from opyard.spec import TensorSpec

from .elementwise import Body
from .expressions import inputs_of, lowered
from .terms import Term, computing, variable

MOST_ARRAYS = 24
"""Arrays of a kernel: more than that do not fit into the parameters of every device."""


@dataclass(frozen=True, slots=True)
class Names:
    """What the values of a region are called.

    terms      an expression for each value: a variable, or the number of a constant of one element
    arrays     the values that are read from arrays: the inputs, then constants of several elements
    constants  these constants
    """

    terms: Mapping[Value, Term]
    arrays: tuple[Value, ...]
    constants: tuple[np.ndarray[Any, Any], ...]

    @staticmethod
    def of(region: Region) -> Names:
        """Names by place: equal for regions that compute the same."""
        graph, terms = region.graph, dict[Value, Term]()
        for value, array in graph.constants.items():
            if array.size == 1:
                kind = computing(array.dtype)
                terms[value] = Term("constant", kind, value=array.astype(kind).item())
        kept = {value: array for value, array in graph.constants.items() if value not in terms}
        arrays = (*graph.inputs.values(), *kept)
        for number, value in enumerate(arrays):
            terms[value] = variable(f"x{number}", value.dtype)
        for number, node in enumerate(graph.nodes):
            terms[node.outputs[0]] = variable(f"t{number}", node.outputs[0].dtype)
        return Names(terms, arrays, tuple(kept.values()))

    def name(self, value: Value) -> str:
        """The name of a value that is a variable."""
        return str(self.terms[value].value)

    def step(self, node: Node) -> tuple[str, Term]:
        """The name of what a node makes, and its expression. What a smaller dtype would hold is rounded to it."""
        given = [value for value in node.inputs if value is not None]
        names = (name for name, _ in inputs_of(node.call))
        term = lowered(node.call, {name: self.terms[value] for name, value in zip(names, given, strict=True)})
        (output,) = node.outputs
        return self.name(output), rounded(term, output.dtype)


def rounded(term: Term, dtype: np.dtype[Any]) -> Term:
    """A term with the digits of ``dtype``, where that has fewer than what is computed in."""
    if computing(dtype) == dtype or term.operation == "round_to":
        return term
    return Term("round_to", term.kind, (term,), dtype)


def body_of_region(region: Region) -> tuple[Body, tuple[np.ndarray[Any, Any], ...]]:
    """The body of a region of elementwise calls, and the constants that it reads behind its inputs."""
    names = Names.of(region)
    body = Body(
        tuple((names.name(value), value.dtype.name) for value in names.arrays),
        tuple(names.step(node) for node in region.graph.nodes),
        tuple((names.name(value), value.dtype.name) for value in region.graph.outputs.values()),
    )
    return body, names.constants


def shape_refusal(region: Region) -> str | None:
    """Why the outputs of a region cannot be computed element by element together, or None."""
    shapes = {spec.shape for spec in region.outputs}
    if len(shapes) > 1:
        return f"its outputs have {len(shapes)} shapes"
    return array_refusal(region)


def array_refusal(region: Region) -> str | None:
    """Why a region has too many arrays for a kernel, or None."""
    arrays = len(region.inputs) + len(region.outputs) + len(region.graph.constants)
    return f"it has {arrays} arrays; a kernel takes {MOST_ARRAYS}" if arrays > MOST_ARRAYS else None


def specs_of(region: Region, constants: tuple[np.ndarray[Any, Any], ...]) -> list[TensorSpec]:
    """Specs of what a body reads."""
    return [spec for spec in region.inputs if spec is not None] + [TensorSpec.of(a) for a in constants]

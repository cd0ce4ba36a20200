"""Region: a part of a graph that one kernel computes, as a Call is for a single op."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any
from zlib import crc32

import numpy as np

from .cases import Cost, Tolerance
from .errors import GraphError
from .graph import Graph, Node, Value
from .spec import TensorSpec

MOST_NAMED = 6
"""Ops up to which a region is called by all their names."""


@dataclass(frozen=True, eq=False)
class Region:
    """A graph of its own, with concrete specs: its inputs in the order in which the kernel takes them, its outputs likewise.

    parameters  names of all inputs, those left out included; empty: the names of the graph's inputs
    """

    graph: Graph
    parameters: tuple[str, ...] = ()

    @staticmethod
    def of(nodes: Iterable[Node], inputs: Iterable[Value | None], outputs: Iterable[Value]) -> Region:
        """The region of some nodes, in the order of their graph. Constants that are no inputs become part of it.

        Raises GraphError when a node needs a value that is neither an input, nor a constant, nor made by these nodes.
        """
        graph, new, names = Graph(), dict[Value, Value](), list[str]()
        for value in inputs:
            names.append(f"input_{len(names)}")
            if value is not None:
                new.setdefault(value, graph.input(names[-1], value.spec))
        for node in nodes:
            for value in node.inputs:
                if value is not None and value not in new:
                    if value not in value.graph.constants:
                        raise GraphError(
                            f"a region with node {node.name!r} needs {value.name!r} among its inputs, or the node that makes it."
                        )
                    new[value] = graph.constant(value.graph.constants[value])
            made = graph.append(
                node.call, tuple(None if v is None else new[v] for v in node.inputs), node.mark
            )
            new.update(zip(node.outputs, made, strict=True))
        for number, value in enumerate(outputs):
            graph.output(f"output_{number}", new[value])
        return Region(graph, tuple(names))

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs: for a pattern, the parameters of its function."""
        return self.parameters or tuple(self.graph.inputs)

    @cached_property
    def inputs(self) -> tuple[TensorSpec | None, ...]:
        """Specs of the arrays that the kernel takes; None where an optional input is left out."""
        found = self.graph.inputs
        return tuple(found[name].spec if name in found else None for name in self.input_names)

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Specs of the arrays that the kernel gives."""
        return tuple(value.spec for value in self.graph.outputs.values())

    @cached_property
    def title(self) -> str:
        """What is computed, in short: the names of the ops, or of some of them and how many there are."""
        names = [node.op.name for node in self.graph.nodes]
        if len(names) > MOST_NAMED:
            return f"region of {len(names)} ops: {names[0]} + {names[1]} + ... + {names[-1]}"
        return " + ".join(names)

    @property
    def is_tuple(self) -> bool:
        """Whether the kernel gives a tuple: it does when there are several outputs."""
        return len(self.graph.outputs) > 1

    @cached_property
    def cost(self) -> Cost:
        """Operations of all nodes; bytes of what enters and leaves, for what lies between need not reach memory."""
        flops = sum(node.call.cost.flops for node in self.graph.nodes)
        specs = (spec for spec in (*self.inputs, *self.outputs) if spec is not None)
        return Cost(flops, float(sum(spec.nbytes for spec in specs)))

    @property
    def tolerance(self) -> Tolerance:
        """What the errors of all nodes may add up to, relative to the largest value of an output."""
        parts = [node.call.tolerance for node in self.graph.nodes]
        return Tolerance(
            sum(part.ulp for part in parts),
            scaled=True,
            check_values=all(part.check_values for part in parts),
            terms=sum(part.terms for part in parts),
        )

    def magnitudes(self, *arrays: Any) -> tuple[None, ...]:
        """None for each output: the tolerance is relative to the largest value."""
        return (None,) * len(self.outputs)

    def reference(self, *arrays: Any) -> tuple[np.ndarray[Any, Any], ...]:
        """Computes the outputs with the references of the ops."""
        given = (array for array in arrays if array is not None)
        known: dict[Value, Any] = dict(zip(self.graph.inputs.values(), given, strict=True))
        known.update(self.graph.constants)
        for node in self.graph.nodes:
            results = node.call.reference(*(None if v is None else known[v] for v in node.inputs))
            known.update(zip(node.outputs, results, strict=True))
        return tuple(known[value] for value in self.graph.outputs.values())

    @cached_property
    def text(self) -> str:
        """The whole program without names of the user's: equal for regions that compute the same in the same order of nodes."""
        names = {value: f"v{number}" for number, value in enumerate(self.graph.values())}
        specs = (f"{names[value]}: {value.spec!r}" for value in self.graph.inputs.values())
        inputs = ["none" if spec is None else next(specs) for spec in self.inputs]
        rows = [f"region({', '.join(inputs)})"]
        for value, array in self.graph.constants.items():
            contents = array.tolist() if array.size <= 8 else f"checksum {crc32(array.tobytes()):08x}"
            rows.append(f"{names[value]} = constant {value.spec!r} {contents}")
        for node in self.graph.nodes:
            used = ["none" if value is None else names[value] for value in node.inputs]
            used += [f"{key}={value!r}" for key, value in node.call.attributes]
            made = ", ".join(f"{names[value]}: {value.spec!r}" for value in node.outputs)
            rows.append(f"{made} = {node.op.name}({', '.join(used)})")
        return "; ".join(
            [*rows, f"return {', '.join(names[value] for value in self.graph.outputs.values())}"]
        )

    @cached_property
    def _line(self) -> str:
        if len(self.graph.nodes) <= MOST_NAMED:
            return self.text
        return f"{self.title} (sha256 {sha256(self.text.encode()).hexdigest()[:16]})"

    def __str__(self) -> str:
        """One line without names of the user's: equal for regions that compute the same in the same order of nodes.

        Of a region of many ops it is the title and a checksum; ``graph`` prints as a program.
        """
        return self._line

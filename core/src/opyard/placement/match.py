"""Match: nodes of a graph that one kernel may compute together. Kernels of single ops, of composite ops and of patterns alike."""

from __future__ import annotations

from dataclasses import dataclass

from ..graph import Node, Value
from ..kernels import Work


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """``nodes`` in graph order; ``inputs`` and ``outputs`` as the kernel takes and gives them; ``work`` is what it is told."""

    nodes: tuple[Node, ...]
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]
    work: Work

    @staticmethod
    def single(node: Node) -> Match:
        """The match of one node."""
        return Match((node,), node.inputs, node.outputs, node.call)

    @property
    def anchor(self) -> Node:
        """The last node, which carries the cost."""
        return self.nodes[-1]

    @property
    def title(self) -> str:
        """The op, or the ops, that the match computes."""
        return self.work.title

    @property
    def short_title(self) -> str:
        """The title, with no more than four of the ops."""
        ops = self.title.split(" + ")
        return " + ".join(ops if len(ops) <= 4 else [*ops[:2], f"{len(ops) - 3} more", ops[-1]])

"""Why the choices that are left for the nodes of a graph cannot be combined, as a sentence for whoever has to change them."""

from __future__ import annotations

import numpy as np

from ..graph import Node
from ..units import format_bytes
from .limited import Unfit
from .memory import Residency
from .problem import Problem


def describe_impossible(problem: Problem) -> str:
    """The colocated nodes that have no device in common; where that is not the reason, what else may help."""
    return _apart(problem) or (
        "the kernels that can run the nodes of this graph cannot be combined: no way of bringing tensors between them is "
        "known. Add a device that runs more of them (devices='auto' takes all), or loosen pins, colocation and blocks."
    )


def describe_unfit(residency: Residency, miss: Unfit) -> str:
    """The device whose limit is exceeded most, where, and what helps."""
    over = miss.usage - residency.limits[:, None]
    row, step = np.unravel_index(int(over.argmax()), over.shape)
    space = next(space for space, known in residency.rows.items() if known == row)
    name, nodes = residency.problem.places.spaces[space].name, residency.problem.graph.nodes
    where = (
        f"at {nodes[step].op.name} ({nodes[step].source})" if step < len(nodes) else "at the end of the run"
    )
    found = "no placement" if miss.proven else "no placement was found that"
    return (
        f"{found} keeps within the memory limits: the nearest needs {format_bytes(miss.usage[row, step])} on {name} {where}, "
        f"and the limit is {format_bytes(residency.limits[row])}. Raise the limit of {name}, or add a device that can take "
        f"a part of the graph (devices='auto' takes all)."
    )


def _apart(problem: Problem) -> str | None:
    groups: dict[int, list[Node]] = {}
    for node in problem.number:
        if node.mark.group is not None:
            groups.setdefault(node.mark.group, []).append(node)
    for members in groups.values():
        common = _devices(problem, members[0])
        for node in members[1:]:
            left = common & _devices(problem, node)
            if not left:
                return (
                    f"{node.op.name} ({node.source}) is colocated with {members[0].op.name} ({members[0].source}), but no "
                    f"device runs both: {members[0].op.name} can run on {', '.join(sorted(common))}, {node.op.name} on "
                    f"{', '.join(sorted(_devices(problem, node)))}. Loosen the pins or the colocation, or add a device."
                )
            common = left
    return None


def _devices(problem: Problem, node: Node) -> set[str]:
    """Names of the devices in whose address spaces a node can run."""
    number = problem.number[node]
    possible = np.isfinite(problem.options[number].costs)
    spaces = problem.spaces(number)[possible]
    return {problem.places.spaces[space].name for space in spaces}

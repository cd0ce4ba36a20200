"""Reduction: a smaller network with the same minimum, from whose labels those of the whole follow.

Dominated labels are dropped and variables with at most two neighbours are eliminated, in turns, until nothing changes.
Both are exact, and what remains is again a network of pairwise tables. Sources: those of dominance.py and elimination.py.
"""

from __future__ import annotations

from .dominance import useful_labels
from .elimination import Elimination
from .network import Labels, Network
from .orders import smallest_first

NEIGHBOURS = 2
LARGEST_TABLE = 2.0**16


class Reduction:
    """``core`` is what remains of a network, whose minimum is the core's and ``constant``.

    The variables of the core are numbered for a sweep from the outputs of the graph to its inputs.
    """

    def __init__(self, network: Network) -> None:
        self._turns: list[tuple[list[Labels], Elimination, list[int]]] = []
        sweep = _sweep(network)
        self.core = network
        self.constant = 0.0
        before = None
        while before != (now := sum(map(len, self.core.unary))):
            before = now
            keep = useful_labels(self.core)
            narrow = self.core.restricted(keep)
            part = Elimination(narrow, smallest_first(narrow, LARGEST_TABLE, NEIGHBOURS))
            left = [variable for variable in sweep if variable in part.left]
            self.core = _remainder(part, left)
            self.constant += part.optimum
            self._turns.append((keep, part, left))
            sweep = list(range(len(left)))

    def labels(self, labels: list[int]) -> list[int]:
        """The best labels of the whole network, given those of the core."""
        for keep, part, left in reversed(self._turns):
            labels = part.labels(dict(zip(left, labels, strict=True)))
            labels = [int(kept[label]) for kept, label in zip(keep, labels, strict=True)]
        return labels


def _sweep(network: Network) -> list[int]:
    """The variables, last ones first; one that joins only earlier ones comes before the first of them, after the others.

    With nodes numbered as they run and each tensor's variable after them all, readers come before the tensor, and the
    tensor before what makes it: so few variables are open at any time, and a tensor is settled by its readers.
    """
    places = []
    for variable, others in enumerate(network.neighbours):
        is_tensor = bool(others) and max(others) < variable
        places.append((min(others) if is_tensor else variable, is_tensor, variable))
    return sorted(range(len(places)), key=places.__getitem__, reverse=True)


def _remainder(part: Elimination, left: list[int]) -> Network:
    """The network over the variables that were not eliminated."""
    new = {variable: number for number, variable in enumerate(left)}
    core = Network()
    for variable in left:
        core.add_variable(part.unary[variable])
    for (first, second), table in part.factors.values():
        core.add_table(new[first], new[second], table)
    return core

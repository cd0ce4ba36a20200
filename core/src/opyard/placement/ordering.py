"""Ordering: the matches of a solution in an order that can run, or a cycle of matches that wait for each other.

Matches with several outputs may wait for each other although each is convex. Such a cycle is cut: the network is told that
two of its matches exclude each other, and solved again.
"""

from __future__ import annotations

from ..errors import PlacementError
from ..graph import Value
from .problem import Choice, Problem
from .solver import Effort, Solution, solve

MOST_CUTS = 100


def solve_in_order(problem: Problem, effort: Effort | None) -> tuple[Solution, list[Choice], float]:
    """The solution, its matches in an order that can run, and a lower bound of every placement's nanoseconds.

    A cut that excludes two of three or more matches in a cycle may exclude too much: then the bound stays as it was
    before, which is still true. Raises PlacementError when the choices left cannot be combined at all.
    """
    bound: float | None = None
    for _ in range(MOST_CUTS):
        solution = solve(problem.network, effort)
        if solution.cost == float("inf"):
            break
        ordered, stuck = _order(problem, solution)
        if not stuck:
            return solution, ordered, solution.bound if bound is None else min(bound, solution.bound)
        cycle = [choice for choice in _cycle(stuck) if len(choice.match.nodes) > 1]
        if len(cycle) > 2 and bound is None:
            bound = solution.bound
        problem.exclude(cycle[0].match, cycle[1].match)
    raise PlacementError(
        "the kernels that can run the nodes of this graph cannot be combined: no way of bringing tensors between them is "
        "known. Add a device that runs more of them (devices='auto' takes all), or loosen pins and blocks."
    )


def _order(problem: Problem, solution: Solution) -> tuple[list[Choice], list[Choice]]:
    """The matches in use, each after those that make its inputs; and those that wait for ever."""
    chosen = (
        problem.options[number].choices[solution.labels[number]][0] for number in problem.number.values()
    )
    waiting = [choice for choice in chosen if choice.pays]
    made: set[Value] = set()
    ordered: list[Choice] = []
    while waiting:
        left = []
        for choice in waiting:
            if all(value is None or value.node is None or value in made for value in choice.match.inputs):
                made.update(choice.match.outputs)
                ordered.append(choice)
            else:
                left.append(choice)
        if len(left) == len(waiting):
            return ordered, left
        waiting = left
    return ordered, []


def _cycle(stuck: list[Choice]) -> list[Choice]:
    """Matches of which each waits for the next, and the last for the first."""
    maker = {value: choice for choice in stuck for value in choice.match.outputs}
    path: list[Choice] = []
    at = stuck[0]
    while at not in path:
        path.append(at)
        at = next(maker[value] for value in at.match.inputs if value is not None and value in maker)
    return path[path.index(at) :]

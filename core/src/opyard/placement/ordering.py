"""Ordering: the matches of a solution in an order that can run, or a cycle of matches that wait for each other.

Matches with several outputs may wait for each other although each is convex. Such a cycle is cut: the network is told that
two of its matches exclude each other, and solved again.
"""

from __future__ import annotations

import heapq

from ..errors import PlacementError
from .impossible import describe_impossible, describe_unfit
from .limited import Fit, Unfit, solve_within
from .memory import Residency
from .problem import Choice, Problem
from .solver import Effort, Solution, solve

MOST_CUTS = 100


def solve_in_order(
    problem: Problem, residency: Residency | None, effort: Effort | None
) -> tuple[Fit | Solution, list[Choice], float]:
    """The solution, its matches in an order that can run, and a lower bound of every placement's nanoseconds.

    residency  what lies in memories that are limited, if any is
    A cut that excludes two of three or more matches in a cycle may exclude too much: then the bound stays as it was
    before, which is still true. Raises PlacementError when the choices left cannot be combined at all, or fit nowhere.
    """
    bound: float | None = None
    for _ in range(MOST_CUTS):
        solution = _solve(problem, residency, effort)
        if solution.cost == float("inf"):
            break
        ordered, stuck = in_order(problem, solution.labels)
        over = residency.excess(ordered) if residency and not stuck else {}
        if not stuck and not over:
            return solution, ordered, solution.bound if bound is None else min(bound, solution.bound)
        if residency and over:  # matches of several outputs had to wait, and tensors with them
            bound = solution.bound if bound is None else bound
            for row, nbytes in over.items():
                residency.limits[row] -= nbytes
            continue
        cycle = [choice for choice in _cycle(stuck) if len(choice.match.nodes) > 1]
        if len(cycle) > 2 and bound is None:
            bound = solution.bound
        problem.exclude(cycle[0].match, cycle[1].match)
    raise PlacementError(describe_impossible(problem))


def _solve(problem: Problem, residency: Residency | None, effort: Effort | None) -> Fit | Solution:
    if residency is None:
        return solve(problem.network, effort)
    try:
        return solve_within(problem.network, residency, effort)
    except Unfit as miss:
        raise PlacementError(describe_unfit(residency, miss)) from None


def in_order(problem: Problem, labels: list[int]) -> tuple[list[Choice], list[Choice]]:
    """The matches in use, each after those that make its inputs, else as in the graph; and those that wait for ever."""
    chosen = (problem.options[number].choices[labels[number]][0] for number in problem.number.values())
    running = [choice for choice in chosen if choice.pays]
    maker = {value: number for number, choice in enumerate(running) for value in choice.match.outputs}
    missing: list[int] = []
    readers: dict[int, list[int]] = {}
    for number, choice in enumerate(running):
        needed = {maker[v] for v in choice.match.inputs if v is not None and v in maker}
        missing.append(len(needed))
        for other in needed:
            readers.setdefault(other, []).append(number)
    ready = [number for number, count in enumerate(missing) if not count]
    ordered: list[Choice] = []
    while ready:
        number = heapq.heappop(ready)
        ordered.append(running[number])
        for other in readers.get(number, ()):
            missing[other] -= 1
            if not missing[other]:
                heapq.heappush(ready, other)
    return ordered, [choice for number, choice in enumerate(running) if missing[number]]


def _cycle(stuck: list[Choice]) -> list[Choice]:
    """Matches of which each waits for the next, and the last for the first."""
    maker = {value: choice for choice in stuck for value in choice.match.outputs}
    path: list[Choice] = []
    at = stuck[0]
    while at not in path:
        path.append(at)
        at = next(maker[value] for value in at.match.inputs if value is not None and value in maker)
    return path[path.index(at) :]

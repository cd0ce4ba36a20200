"""Large-neighbourhood search: a ball of variables is freed and solved exactly, again and again.

Source: P. Shaw, "Using constraint programming and local search methods to solve vehicle routing problems", CP 1998. The
budget counts balls, never seconds, so equal inputs give equal results.
"""

from __future__ import annotations

from .elimination import Elimination
from .network import Network

BALL = 80
"""Variables of a ball at first; it shrinks where a ball proves too wide."""

LARGEST_TABLE = 2.0**20


def improve(network: Network, labels: list[int], balls: int) -> list[int]:
    """Labels at least as good as those given: stops when every variable has been the centre of a ball without gain."""
    labels, size, count = list(labels), BALL, len(labels)
    centre = idle = 0
    stride = _stride(count)
    for _ in range(balls):
        if idle >= count or size < 2:
            break
        centre = (centre + stride) % count
        ball = _ball(network, centre, size)
        part = freed(network, ball, labels)
        solved = Elimination(part, LARGEST_TABLE)
        if solved.left:
            size -= max(1, size // 8)
            continue
        before = part.cost([labels[variable] for variable in ball])
        idle += max(1, size // 4)
        if solved.optimum < before:
            idle = 0
            for variable, label in zip(ball, solved.labels(), strict=True):
                labels[variable] = label
    return labels


def _stride(count: int) -> int:
    """A step through 0..count-1 that visits every number and jumps about."""
    stride = max(1, int(count * 0.618))
    while _divisor(stride, count) != 1:
        stride += 1
    return stride


def _divisor(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


def _ball(network: Network, centre: int, size: int) -> list[int]:
    """The nearest variables, in the order of their numbers."""
    found, seen = [centre], {centre}
    for variable in found:
        for other in sorted(network.neighbours[variable]):
            if other not in seen and len(found) < size:
                seen.add(other)
                found.append(other)
    return sorted(found)


def freed(network: Network, ball: list[int], labels: list[int]) -> Network:
    """The network of the ball alone, everything around it labelled as it is."""
    new = {old: number for number, old in enumerate(ball)}
    part = Network()
    for variable in ball:
        outside = [other for other in network.neighbours[variable] if other not in new]
        part.add_variable(network.costs_towards(variable, outside, labels))
    for variable in ball:
        for other in network.neighbours[variable]:
            if variable < other and other in new:
                part.add_table(new[variable], new[other], network.tables[variable, other])
    return part

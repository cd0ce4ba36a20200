"""Scales of charts: from a number to a place, with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

_MANTISSAS = ((1.0, 3.0), (1.0, 2.0, 5.0))
"""Of ticks, from few to many, where those of whole decades are too few."""


class LogScale(NamedTuple):
    """Maps ``low`` to ``start`` and ``high`` to ``end``, and what lies between by its logarithm."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a positive number; what lies outside is put at the edge."""
        inside = min(max(value, self.low), self.high)
        part = math.log(inside / self.low) / math.log(self.high / self.low)
        return self.start + part * (self.end - self.start)

    def ticks(self, gap: float) -> list[float]:
        """Round numbers within the scale, as many as have ``gap`` between their places; one at least, mostly more."""
        decades = _between(self.low, self.high, (1.0,))
        sparse = [decades[::stride] for stride in range(len(decades), 0, -1)]
        even = [_evenly(self.low, self.high, parts) for parts in range(4)] if len(decades) < 2 else [[]]
        dense = [_between(self.low, self.high, mantissas) for mantissas in _MANTISSAS]
        return max(
            (found for found in (even[0][:1], *sparse, *even, *dense) if self._is_apart(found, gap)), key=len
        )

    def _is_apart(self, values: Sequence[float], gap: float) -> bool:
        places = [self(value) for value in values]
        return all(abs(b - a) >= gap for a, b in pairwise(places))


def is_drawable(value: float | None) -> bool:
    """Whether a number has a place on a logarithmic scale."""
    return value is not None and math.isfinite(value) and value > 0


def log_scale(
    values: Iterable[float], start: float, end: float, room: float = 1.25, span: float = 3.0
) -> LogScale:
    """A scale that holds all the drawable numbers, with the factor ``room`` on either side, and the factor ``span`` at least."""
    found = [value for value in values if is_drawable(value)] or [1.0]
    low, high = min(found) / room, max(found) * room
    widen = math.sqrt(max(1.0, span / (high / low)))
    return LogScale(low / widen, high * widen, start, end)


def _between(low: float, high: float, mantissas: tuple[float, ...]) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    values = (float(f"{m:g}e{power}") for power in range(first, last + 1) for m in mantissas)
    return [value for value in values if low <= value <= high]


def _evenly(low: float, high: float, parts: int) -> list[float]:
    """Multiples of a round step, about so many, for a scale of less than a decade or so."""
    rough = (high - low) / (parts + 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(step for step in (power, 2 * power, 5 * power) if step <= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]

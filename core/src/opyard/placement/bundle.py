"""A proximal bundle method: the maximum of a concave function of prices, which are not negative, from few of its values.

Each solution at some prices gives a plane that the function nowhere exceeds. The next prices are the maximum of the lowest
plane, less a penalty for going far from the best prices so far, the centre; better values move it.
Source: K. Kiwiel, "Proximity control in bundle methods for convex nondifferentiable minimization", Mathematical
Programming 46 (1990).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from . import proximal
from .memory import Bytes
from .network import Costs, Labels

MOST_PLANES = 80

MOST_COLUMNS = 8
"""Times that steps are added at which the planes' mean exceeds a limit."""

ACCEPT = 0.1
"""A value moves the centre when it is better by this fraction of what the planes promised."""

CLOSE = 3e-6
"""The planes promise less than this fraction of the bound: nothing is left to gain."""


@dataclass(frozen=True, eq=False)
class Plane:
    """One solution: ``cost + (prices * excess).sum()`` is nowhere below the function."""

    labels: list[int]
    cost: float
    excess: Bytes

    @cached_property
    def peaks(self) -> Labels:
        """For each limit the step at which it is exceeded most, numbered through all limits."""
        return _greatest_in_rows(self.excess)


class Bundle:
    """Planes with their weights; ``trial`` are the prices to look at next, ``centre`` those of the best ``bound`` so far."""

    def __init__(self, prices: Bytes) -> None:
        self.centre = prices
        self.trial = prices
        self.bound = -np.inf
        self.is_done = False
        self._planes: list[Plane] = []
        self._weights: Costs = np.zeros(0)
        self._reach = 0.0
        self._promise = np.inf
        self._idle = 0

    def restricted(self, is_left: Callable[[list[int]], bool], tighter: Bytes) -> Bundle:
        """A bundle to begin with for a part of the problem: planes of the solutions that are left bound its function, too.

        is_left  tells of labels whether they are in that part;  tighter  by how much less is allowed
        """
        found = Bundle(self.centre)
        found._reach = self._reach
        left = [(p, w) for p, w in zip(self._planes, self._weights, strict=True) if is_left(p.labels)]
        found._planes = [replace(plane, excess=plane.excess + tighter) for plane, _ in left]
        found._weights = _of_one(np.array([weight for _, weight in left])) if left else np.zeros(0)
        return found

    def add(self, value: float, labels: list[int], cost: float, excess: Bytes) -> bool:
        """Takes the function's value at ``trial`` and the solution there; gives whether it is the best so far."""
        better = value > self.bound
        if self.bound == -np.inf or value - self.bound >= ACCEPT * self._promise:
            if self.bound > -np.inf:
                self._reach *= 2.0 if value - self.bound >= 0.5 * self._promise else 1.0
            self._idle = 0
        else:
            self._idle += 1
            if self._idle >= 3 and self.bound - value > self._promise:  # it went much too far
                self._reach, self._idle = self._reach / 2, 0
        if better:
            self.bound, self.centre = value, self.trial
        self._keep(Plane(labels, cost, excess))
        if not self._reach:
            over = np.where(self.centre > 0, excess, np.maximum(excess, 0.0))
            norm = float((over * over).sum())
            self._reach = 0.1 * max(abs(cost), 1.0) / norm if norm else 0.0
        self._move()
        return better

    def solutions(self) -> list[list[int]]:
        """Labels of the planes, those that decide first."""
        return [plane.labels for plane, _ in self.mixture()]

    def mixture(self) -> list[tuple[Plane, float]]:
        """The planes with their weights, those that decide first. Their mean keeps within the limits, at the bound's cost."""
        order = sorted(range(len(self._planes)), key=lambda i: (-self._weights[i], i))
        return [(self._planes[i], float(self._weights[i])) for i in order]

    def _keep(self, plane: Plane) -> None:
        if len(self._planes) >= MOST_PLANES:
            lightest = int(self._weights.argmin())
            del self._planes[lightest]
            self._weights = np.delete(self._weights, lightest)
        self._planes.append(plane)
        self._weights = np.append(self._weights, 1.0 if len(self._planes) == 1 else 0.0)

    def _move(self) -> None:
        """The next prices: the maximum of the lowest plane less the penalty, at steps that matter to some plane."""
        if not self._reach:
            self.is_done = True
            return
        slopes = np.stack([plane.excess.ravel() for plane in self._planes])
        costs = np.array([plane.cost for plane in self._planes])
        centre = self.centre.ravel()
        matters = centre > 0
        for plane in self._planes:
            matters[plane.peaks] = True
        trial = np.zeros(centre.size)
        for _ in range(MOST_COLUMNS):
            at = np.flatnonzero(matters)
            trial[at], self._weights = proximal.step(costs, slopes[:, at], centre[at], self._reach)
            mean = np.where(matters, -np.inf, self._weights @ slopes).reshape(self.centre.shape)
            peaks = _greatest_in_rows(mean)
            over = peaks[mean.ravel()[peaks] > 0]
            if not len(over):
                break
            matters[over] = True
        self._promise = max(0.0, float((costs + slopes @ trial).min()) - self.bound)
        self.is_done = self._promise <= CLOSE * abs(self.bound)
        self.trial = trial.reshape(self.centre.shape)


def _greatest_in_rows(values: Bytes) -> Labels:
    """Where each row has its greatest value, numbered through all rows."""
    found: Labels = values.argmax(axis=1) + np.arange(values.shape[0]) * values.shape[1]
    return found


def _of_one(weights: Costs) -> Costs:
    """Weights that are left of a mixture, made to add up to one."""
    total = float(weights.sum())
    return weights / total if total else np.full(len(weights), 1.0 / max(1, len(weights)))

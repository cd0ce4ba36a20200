"""A proximal bundle method: the maximum of a concave function of prices, which are not negative, from few of its values.

Each solution at some prices gives a plane that the function nowhere exceeds. The next prices are the maximum of the lowest
plane, less a penalty for going far from the best prices so far, the centre; better values move it.
Source: K. Kiwiel, "Proximity control in bundle methods for convex nondifferentiable minimization", Mathematical
Programming 46 (1990).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .memory import Bytes
from .network import Costs, Network

MOST_PLANES = 80
ROUNDS = 400
"""Steps of the inner problem, the weights of the planes."""

ACCEPT = 0.1
"""A value moves the centre when it is better by this fraction of what the planes promised."""

CLOSE = 1e-7
"""The planes promise less than this fraction of the bound: nothing is left to gain."""


@dataclass(frozen=True, eq=False)
class Plane:
    """One solution: ``cost + (prices * excess).sum()`` is nowhere below the function."""

    labels: list[int]
    cost: float
    excess: Bytes

    @cached_property
    def peaks(self) -> npt.NDArray[np.bool_]:
        """The steps at which a limit is exceeded, and no less than at those before and after."""
        around = np.pad(self.excess, ((0, 0), (1, 1)), constant_values=-np.inf)
        least = np.maximum(around[:, :-2], around[:, 2:])
        found: npt.NDArray[np.bool_] = (self.excess > 0) & (self.excess >= least)
        return found


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

    def restricted(self, network: Network, tighter: Bytes) -> Bundle:
        """A bundle to begin with for a part of the problem: planes of the solutions that are left bound its function, too.

        network  with what is forbidden in that part;  tighter  by how much less is allowed
        """
        found = Bundle(self.centre)
        found._reach = self._reach
        left = [(p, w) for p, w in zip(self._planes, self._weights, strict=True) if network.allows(p.labels)]
        found._planes = [replace(plane, excess=plane.excess + tighter) for plane, _ in left]
        found._weights = _on_simplex(np.array([weight for _, weight in left])) if left else np.zeros(0)
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
        """The next prices, by the best weights of the planes: minimised over the simplex by accelerated gradient steps.

        Prices are looked for at steps where some plane has a peak, and where there are prices already.
        """
        shape, reach = self.centre.shape, self._reach
        if not reach:
            self.is_done = True
            return
        peaks = self.centre > 0
        for plane in self._planes:
            peaks |= plane.peaks
        columns = np.flatnonzero(peaks)
        slopes = np.stack([plane.excess.ravel()[columns] for plane in self._planes])
        costs = np.array([plane.cost for plane in self._planes])
        centre = self.centre.ravel()[columns]
        self._weights = _best_weights(self._weights, costs, slopes, centre, reach)
        prices = np.maximum(0.0, centre + reach * (self._weights @ slopes))
        self._promise = max(0.0, float((costs + slopes @ prices).min()) - self.bound)
        moved = float(np.abs(prices - centre).max(initial=0.0))
        still = moved <= CLOSE * max(1e-30, float(centre.max(initial=0.0)))
        self.is_done = still and self._promise <= CLOSE * max(1.0, abs(self.bound))
        trial = np.zeros(self.centre.size)
        trial[columns] = prices
        self.trial = trial.reshape(shape)


def _best_weights(weights: Costs, costs: Costs, slopes: Costs, centre: Costs, reach: float) -> Costs:
    """Weights that minimise the greatest value, over prices, of the planes' mean less the penalty for moving.

    Source: A. Beck, M. Teboulle, "A fast iterative shrinkage-thresholding algorithm", SIAM Journal on Imaging Sciences 2
    (2009), with restarts.
    """
    steep = max(reach * _largest(slopes @ slopes.T), 1e-30)
    weights = point = _on_simplex(weights)
    momentum = 1.0
    for _ in range(ROUNDS):
        prices = np.maximum(0.0, centre + reach * (point @ slopes))
        new = _on_simplex(point - (costs + slopes @ prices) / steep)
        if float((point - new) @ (new - weights)) > 0:  # the momentum leads uphill
            momentum = 1.0
        following = (1 + np.sqrt(1 + 4 * momentum * momentum)) / 2
        point = new + (momentum - 1) / following * (new - weights)
        moved = float(np.abs(new - weights).max())
        weights, momentum = new, following
        if moved < 1e-10:
            break
    return weights


def _largest(square: Costs) -> float:
    """A number hardly above the largest eigenvalue of a symmetric matrix that has no negative one, by power iteration."""
    vector = np.ones(len(square))
    value = 0.0
    for _ in range(20):
        vector = square @ vector
        value = float(np.sqrt(vector @ vector))
        if not value:
            return 0.0
        vector = vector / value
    return 1.05 * value


def _on_simplex(weights: Costs) -> Costs:
    """The nearest weights that are not negative and add up to one."""
    weights = weights - weights.max()  # large numbers would drown the one that is subtracted
    ordered = np.sort(weights)[::-1]
    over = np.cumsum(ordered) - 1.0
    count = int(np.flatnonzero(ordered - over / np.arange(1, len(weights) + 1) > 0)[-1]) + 1
    found: Costs = np.maximum(weights - over[count - 1] / count, 0.0)
    return found

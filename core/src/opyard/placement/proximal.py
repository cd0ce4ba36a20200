"""The step of a bundle method: prices, not negative, at which the lowest plane, less a penalty for moving, is highest.

A primal-dual interior point method, whose systems of equations have the size of the planes, for prices are eliminated.
Source: S. Mehrotra, "On the implementation of a primal-dual interior point method", SIAM Journal on Optimization 2 (1992).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .network import Costs

MOST_STEPS = 60

PRECISE = 1e-9
"""What may be left of the complementarity, as a part of the spread of the planes."""


def step(costs: Costs, slopes: Costs, centre: Costs, reach: float) -> tuple[Costs, Costs]:
    """Prices ``[column]`` with the highest ``min(costs + slopes @ prices) - |prices - centre|^2 / (2 reach)``, and weights.

    The weights ``[plane]`` add up to one: at these prices the planes' mean, so weighted, is highest as well.
    """
    values = costs + slopes @ centre
    size = float(np.abs(slopes).max()) or 1.0
    unit = max(
        float(np.ptp(values)), reach * size * size, 1e-30
    )  # what prices can change, or planes differ by
    found, weights = _centred(
        (values - values.min()) / unit, slopes / size, centre * size / unit, reach * size * size / unit
    )
    return found * (unit / size), weights


def _centred(values: Costs, slopes: Costs, centre: Costs, reach: float) -> tuple[Costs, Costs]:
    """The same in units in which nothing is much larger than one; ``values`` are those at the centre."""
    planes, columns = slopes.shape
    prices = np.maximum(centre, reach)
    heights = values + slopes @ (prices - centre)
    top = float(heights.min()) - 1.0
    point = _Point(np.full(planes, 1.0 / planes), prices, heights - top, np.ones(columns), top)
    for _ in range(MOST_STEPS):
        equations = _Equations(point, values, slopes, centre, reach)
        mean = point.complementarity() / (planes + columns)
        if max(mean, equations.miss()) < PRECISE:
            break
        alone = equations.direction(0.0, np.zeros(planes), np.zeros(columns))
        ahead = point.moved(alone, point.far(alone)).complementarity() / (planes + columns)
        towards = mean * (max(ahead, 0.0) / mean) ** 3
        both = equations.direction(towards, alone.weights * alone.slack, alone.shadow * alone.prices)
        point = point.moved(both, 0.99 * point.far(both))
    return point.prices, point.weights / point.weights.sum()


@dataclass(frozen=True, slots=True, eq=False)
class _Point:
    """Weights of the planes and by how much each is above the lowest, ``top``; prices, with the multipliers of their signs.

    Or the change of all of these.
    """

    weights: Costs
    prices: Costs
    slack: Costs
    shadow: Costs
    top: float

    def complementarity(self) -> float:
        """Zero at the solution: a plane counts or is above the lowest, a price is positive or would rather be negative."""
        return float(self.weights @ self.slack) + float(self.shadow @ self.prices)

    def moved(self, change: _Point, far: float) -> _Point:
        """The point so far in some direction."""
        return _Point(
            self.weights + far * change.weights,
            self.prices + far * change.prices,
            self.slack + far * change.slack,
            self.shadow + far * change.shadow,
            self.top + far * change.top,
        )

    def far(self, change: _Point) -> float:
        """How far, at most once, to go in some direction so that nothing becomes negative."""
        found = 1.0
        for values, step in (
            (self.weights, change.weights),
            (self.prices, change.prices),
            (self.slack, change.slack),
            (self.shadow, change.shadow),
        ):
            down = step < 0
            if down.any():
                found = min(found, float((-values[down] / step[down]).min()))
        return found


class _Equations:
    """Newton's equations at a point."""

    def __init__(self, point: _Point, values: Costs, slopes: Costs, centre: Costs, reach: float) -> None:
        self._point = point
        self._slopes = slopes
        self._reach = reach
        away = point.prices - centre
        self._lift = slopes.T @ point.weights + point.shadow - away / reach
        self._miss = values + slopes @ away - point.top - point.slack
        self._spread = 1.0 / (1.0 / reach + point.shadow / point.prices)
        system = (slopes * self._spread) @ slopes.T
        system[np.diag_indices(len(slopes))] += point.slack / point.weights
        self._inverse = np.linalg.inv(system)

    def miss(self) -> float:
        """By how much the point is no solution, complementarity aside."""
        return max(float(np.abs(self._miss).max()), float(np.abs(self._lift).max()) * self._reach)

    def direction(self, towards: float, of_planes: Costs, of_prices: Costs) -> _Point:
        """The change towards a complementarity, with products of the second order to make up for."""
        point, slopes = self._point, self._slopes
        planes = towards - point.weights * point.slack - of_planes
        signs = towards - point.shadow * point.prices - of_prices
        pull = self._lift + signs / point.prices
        alone = self._inverse @ (planes / point.weights - self._miss - slopes @ (self._spread * pull))
        ones = self._inverse.sum(axis=1)
        top = (1.0 - float(point.weights.sum()) - float(alone.sum())) / float(ones.sum())
        weights = alone + top * ones
        prices = self._spread * (slopes.T @ weights + pull)
        return _Point(
            weights,
            prices,
            (planes - point.slack * weights) / point.weights,
            (signs - point.shadow * prices) / point.prices,
            top,
        )

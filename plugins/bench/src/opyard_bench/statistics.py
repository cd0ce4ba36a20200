"""What samples say: median and quartiles, confidence intervals without assumptions about the noise, and a grade."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

LEAST_ROUNDS = 15
PRECISE = 0.01
"""A half-width of the confidence interval of this fraction of the median is precise enough."""

GRADES = ((0.02, "A"), (0.05, "B"), (0.10, "C"), (0.25, "D"))
"""Grade by the range between the quartiles, as a fraction of the median; E beyond."""

LEAST_GRADED = 5
TRIMMED = 0.2
"""The part of the values at each end that a trimmed mean leaves out: a process may have bad luck throughout."""


class Summary(NamedTuple):
    """Seconds: the median and the quartiles; and the number of samples."""

    median: float
    lower: float
    upper: float
    rounds: int

    @property
    def spread(self) -> float:
        """The range between the quartiles (IQR)."""
        return self.upper - self.lower

    @property
    def grade(self) -> str:
        """A to E, or "-" where there are too few samples to say."""
        if self.rounds < LEAST_GRADED or self.median <= 0:
            return "-"
        return next((grade for limit, grade in GRADES if self.spread <= limit * self.median), "E")


def summarize(samples: Sequence[float]) -> Summary:
    """The summary of one sample or more."""
    lower, median, upper = np.quantile(samples, (0.25, 0.5, 0.75))
    return Summary(float(median), float(lower), float(upper), len(samples))


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """An interval that holds the true median with 95 % confidence: two order statistics, by the binomial distribution.

    Source: Conover, "Practical Nonparametric Statistics" (1999), 3.2, with the normal approximation of the ranks.
    """
    ordered = sorted(samples)
    reach = 1.96 * math.sqrt(len(ordered)) / 2
    low = math.floor(len(ordered) / 2 - reach)
    high = math.ceil(len(ordered) / 2 + reach)
    return ordered[max(low - 1, 0)], ordered[min(high, len(ordered) - 1)]


def is_precise(samples: Sequence[float]) -> bool:
    """Whether enough samples were taken: 15, and a median that is known to 1 %."""
    if len(samples) < LEAST_ROUNDS:
        return False
    low, high = median_interval(samples)
    return high - low <= 2 * PRECISE * float(np.median(samples))


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval, which are infinite where one value says nothing of its error."""

    middle: float
    low: float
    high: float


def mean_interval(values: Sequence[float], confidence: float) -> Interval:
    """Trimmed mean of independent values, by Student's t.

    Source: Tukey and McLaughlin, "Less vulnerable confidence and significance procedures for location", Sankhya A 25 (1963).
    """
    middle, error, freedom = _mean(values)
    return _interval(middle, error, freedom, confidence)


def difference_interval(base: Sequence[float], head: Sequence[float], confidence: float) -> Interval:
    """Trimmed mean of head less that of base, all values independent; their spreads need not be equal.

    Source: Yuen, "The two-sample trimmed t for unequal population variances", Biometrika 61 (1974).
    """
    (a, a_error, a_freedom), (b, b_error, b_freedom) = _mean(base), _mean(head)
    error = math.hypot(a_error, b_error)
    freedom = 1.0
    if 0 < error < math.inf:
        freedom = 1 / ((a_error / error) ** 4 / a_freedom + (b_error / error) ** 4 / b_freedom)
    return _interval(b - a, error, freedom, confidence)


def _mean(values: Sequence[float]) -> tuple[float, float, int]:
    """Mean without a fifth of the values at each end, its standard error, and the degrees of freedom of that."""
    ordered = np.sort(values)
    cut = int(TRIMMED * len(ordered))
    kept = len(ordered) - 2 * cut
    middle = float(ordered[cut : cut + kept].mean())
    if kept < 2:
        return middle, math.inf, 0
    winsorized = np.clip(ordered, ordered[cut], ordered[cut + kept - 1])
    squares = float(((winsorized - winsorized.mean()) ** 2).sum())
    return middle, math.sqrt(squares / (kept * (kept - 1))), kept - 1


def _interval(middle: float, error: float, freedom: float, confidence: float) -> Interval:
    if error == 0 or math.isinf(error):
        return Interval(middle, middle - error, middle + error)
    reach = error * student_quantile(freedom, (1 + confidence) / 2)
    return Interval(middle, middle - reach, middle + reach)


@lru_cache(maxsize=4096)
def student_quantile(freedom: float, probability: float) -> float:
    """The quantile of Student's distribution, for a probability of 0.5 or more and at least one degree of freedom.

    Its density is summed by the trapezoidal rule, over arguments that are denser near 0.
    """
    logarithm = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    arguments = np.sinh(np.linspace(0.0, 12.0, 6001))
    density = math.exp(logarithm) * (1 + arguments**2 / freedom) ** (-(freedom + 1) / 2)
    steps = np.diff(arguments) * (density[1:] + density[:-1]) / 2
    return float(np.interp(probability, 0.5 + np.concatenate([[0.0], np.cumsum(steps)]), arguments))

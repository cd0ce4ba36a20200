"""What samples say: median and quartiles, confidence intervals without assumptions about the noise, and a grade."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

LEAST_ROUNDS = 15
PRECISE = 0.01
"""A half-width of the confidence interval of this fraction of the median is precise enough."""

GRADES = ((0.02, "A"), (0.05, "B"), (0.10, "C"), (0.25, "D"))
"""Grade by the range between the quartiles, as a fraction of the median; E beyond."""

LEAST_GRADED = 5
RESAMPLES = 4000


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


def log_ratio_interval(
    base: Sequence[float],
    head: Sequence[float],
    confidence: float,
    yardstick: tuple[Sequence[float], Sequence[float]] | None = None,
) -> tuple[float, float]:
    """Confidence interval of log(median of head / median of base), by bootstrap; the same for the same samples.

    yardstick  samples of something that did not change, taken in turns with base and with head: its own ratio is
               subtracted, and so is a change of the machine

    The median of a resample is an order statistic whose rank, as a fraction, has a beta distribution, so the resamples
    need not be drawn (Maritz and Jarrett, Journal of the American Statistical Association 73, 1978). Neighbouring samples
    that resemble each other count as fewer.
    """
    generator = np.random.default_rng([len(base), len(head)])
    ratios = _log_medians(head, generator) - _log_medians(base, generator)
    if yardstick is not None:
        ratios -= _log_medians(yardstick[1], generator) - _log_medians(yardstick[0], generator)
    low, high = np.quantile(ratios, ((1 - confidence) / 2, (1 + confidence) / 2))
    return float(low), float(high)


def _log_medians(samples: Sequence[float], generator: np.random.Generator) -> np.ndarray[Any, Any]:
    """Logarithms of the medians of resamples."""
    count = len(samples)
    ordered = np.maximum(np.sort(samples), 1e-12)  # a clock may show nothing at all
    shape = (count * _independent(samples) + 1) / 2
    fractions = generator.beta(shape, shape, RESAMPLES)
    return np.asarray(np.log(ordered[np.minimum((fractions * count).astype(int), count - 1)]))


def _independent(samples: Sequence[float]) -> float:
    """The part of the samples that counts, (1 - r) / (1 + r) with the correlation r of the ranks of neighbours."""
    ranks = np.argsort(np.argsort(samples, kind="stable"), kind="stable") - (len(samples) - 1) / 2
    total = float(ranks @ ranks)
    correlation = float(ranks[1:] @ ranks[:-1]) / total if total else 0.0
    if len(set(samples)) == 1:  # then the ranks only tell the order
        return 1.0
    bounded = min(max(correlation, 0.0), 0.95)
    return (1 - bounded) / (1 + bounded)

"""Intervals and tests for scores: bootstrap over samples, paired where two runs answered the same prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_RESAMPLES = 2000
_SEED = 20_240_404
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and where it lies with 95% confidence."""

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: Sequence[float]) -> Interval:
    """Percentile bootstrap of the mean. The same values give the same interval. At least one value.

    >>> bootstrap([1.0, 1.0, 1.0])
    Interval(mean=1.0, low=1.0, high=1.0)
    """
    return _interval(float(np.mean(values)), _means(np.asarray(values, np.float64), np.random.default_rng(_SEED)))


def stratified(strata: Sequence[Sequence[float]]) -> Interval:
    """Mean of the means of several lists, each resampled on its own: a composite of tasks."""
    rng = np.random.default_rng(_SEED)
    means = np.stack([_means(np.asarray(values, np.float64), rng) for values in strata])
    return _interval(float(np.mean([np.mean(values) for values in strata])), means.mean(axis=0))


def wilson(successes: float, count: int) -> Interval:
    """Wilson's 95% interval of a share: honest where all or none succeeded. Source: Wilson 1927.

    >>> wilson(10, 10).low > 0.7
    True
    """
    z, share = 1.959964, successes / count
    scale = 1 + z * z / count
    centre = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def sign_test(differences: Sequence[float]) -> float:
    """Two-sided p-value that gains and losses are equally likely; ties say nothing. 1.0 when all are ties.

    >>> sign_test([-1.0] * 6 + [0.0])
    0.03125
    """
    gains, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    count = gains + losses
    tail = sum(math.comb(count, k) for k in range(min(gains, losses) + 1))
    return float(min(1.0, 2 * tail / 2**count))


def _means(values: Floats, rng: np.random.Generator) -> Floats:
    if len(values) == 0:
        raise ValueError("no values")
    picks = rng.integers(0, len(values), (_RESAMPLES, len(values)))
    means: Floats = values[picks].mean(axis=1)
    return means


def _interval(mean: float, means: Floats) -> Interval:
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(mean, float(low), float(high))

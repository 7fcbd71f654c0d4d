"""Common to all intervals: their form, normal and Student quantiles, and a bootstrap for unbounded values.

Scores have bounds, and intervals that use them: ``share.py`` for a mean score, ``paired.py`` for a difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)

_RESAMPLES = 4000
_SEED = 20_240_404
_FEW = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469)
"""Student's t for 1 to 6 degrees of freedom, where the expansion is not exact enough."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95% confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def student(freedom: int) -> float:
    """Student's t at 97.5%, for at least one degree of freedom. Source: Abramowitz and Stegun, 26.7.5.

    >>> round(student(10), 2)
    2.23
    """
    if freedom <= len(_FEW):
        return _FEW[freedom - 1]
    z, n = Z, float(freedom)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3


def wilson(share: float, count: float) -> Interval:
    """Wilson's interval of a share with continuity correction: nearly the exact one, and it takes any real count.

    Source: Newcombe 1998, method 4.

    >>> str(wilson(1.0, 10))
    '1.000 [0.655, 1.000]'
    """
    z, n, missed = Z, count, 1 - share
    low = 2 * n * share + z * z - 1 - z * math.sqrt(max(0.0, z * z - 2 - 1 / n + 4 * share * (n * missed + 1)))
    high = 2 * n * share + z * z + 1 + z * math.sqrt(max(0.0, z * z + 2 - 1 / n + 4 * share * (n * missed - 1)))
    scale = 2 * (n + z * z)
    return Interval(
        share,
        min(share, max(0.0, low / scale)) if share > 0 else 0.0,
        max(share, min(1.0, high / scale)) if share < 1 else 1.0,
    )


def bootstrap(values: Sequence[float]) -> Interval:
    """Interval of the mean of independent unbounded values, such as KL: BCa. At least one value.

    Deterministic. The interval of equal values has width 0. Source: Efron 1987.
    """
    column_N = np.asarray(values, np.float64)
    if not len(column_N):
        raise ValueError("no values")
    mean, left_N = float(column_N.mean()), column_N - column_N.mean()
    squares = float((left_N**2).sum())
    if squares <= (1e-12 * max(1.0, abs(mean))) ** 2:
        return Interval(mean, mean, mean)
    picks = np.random.default_rng(_SEED).integers(0, len(column_N), (_RESAMPLES, len(column_N)))
    means = np.sort(column_N[picks].mean(axis=1))
    below = (np.searchsorted(means, mean, "left") + np.searchsorted(means, mean, "right")) / (2 * _RESAMPLES)
    bias = NormalDist().inv_cdf(min(max(below, 1 / _RESAMPLES), 1 - 1 / _RESAMPLES))
    skew = float((left_N**3).sum()) / (6 * squares**1.5)
    low, high = (_corrected(means, bias, skew, z) for z in (-Z, Z))
    return Interval(mean, min(low, mean), max(high, mean))


def _corrected(means: Floats, bias: float, skew: float, z: float) -> float:
    moved = bias + (bias + z) / max(1e-3, 1 - skew * (bias + z))
    return float(np.quantile(means, NormalDist().cdf(moved)))

"""Compares two methods on the same prompts: a permutation test, and the confidence interval that belongs to it.

If two methods are equally good, it is random which of the two answers of a document is whose. The test swaps them, all
answers of a document together, in every way or in many thousand; p is the share of swaps that favour one side at least
as much as the observed answers, doubled for the two sides. For yes-or-no scores this is McNemar's exact test.

The same test applies to every assumed difference: those that are not rejected form the interval, whose ends are extreme
quantiles of the means of random subsets of the documents (Hartigan 1969). So 0 lies in the interval if, and only if, p
is above 0.05. Few documents do not show everything that can happen, so an end that cannot change that verdict extends
at least as far as Bonett and Price's interval (2012), which adds one pair lost and one pair won.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from kvloom.eval.clusters import Clusters
from kvloom.eval.stats import LEVEL, Floats, Interval, Z, student

POWER = 0.8
_WAYS = 2**14
_EXACT = 14
"""Up to this many documents, all swaps are tried."""

_SEED = 20_240_404
_SAME = 1e-12
_HALVINGS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """``p``: two-sided. ``detectable``: the loss that these documents would have shown with a power of 80%; None: none.

    ``documents``: independent observations.
    """

    difference: Interval
    p: float
    detectable: float | None
    documents: int


def paired(differences: Clusters) -> Paired:
    """Test a mean difference, from -1 to 1, and compute its interval."""
    means, ways = _subset_means(differences)
    below, above = (int((sign * means <= _SAME).sum()) + ways - len(means) for sign in (1, -1))
    inner = _ends(means, ways)
    return Paired(
        difference=_widened(differences, inner),
        p=min(1.0, 2 * min(below, above) / ways),
        detectable=detectable(differences),
        documents=len(differences.weights_D),
    )


def detectable(differences: Clusters) -> float | None:
    """The smallest share of lost documents that the test detects with a power of 80%.

    Lost documents add to the spread of the swaps, and are whole numbers: half of one is added (continuity correction).
    None when losing all of them would not be detected.
    """
    if 2 / 2 ** len(differences.weights_D) > 1 - LEVEL:
        return None
    left_D = differences.sums_D - differences.mean * differences.weights_D
    noise, squares = float((left_D**2).sum()) + differences.seed_error**2, float((differences.weights_D**2).sum())
    power_z, half_one = NormalDist().inv_cdf(POWER), float(differences.weights_D.max()) / 2

    def shown(loss: float) -> bool:
        needed = Z * math.sqrt(noise + loss * squares) + power_z * math.sqrt(noise + loss * (1 - loss) * squares)
        return loss >= needed + half_one

    low, high = 0.0, 1.0
    if not shown(high):
        return None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high


def holm(ps: Sequence[float]) -> list[float]:
    """Each p adjusted so that the chance of any false positive among them is that of a single test. Source: Holm 1979.

    >>> holm([0.01, 0.5, 0.02])
    [0.03, 0.5, 0.04]
    """
    raised, least = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[place]))
        raised[place] = least
    return raised


def _subset_means(differences: Clusters) -> tuple[Floats, int]:
    """Means of subsets of the documents, and how many subsets were drawn: the empty one has no mean.

    Swapping the documents of a subset favours B more than what was seen if the subset's mean is below 0: all that a
    test of any difference asks of a swap is this mean.
    """
    masks_WD = _masks(len(differences.weights_D))
    sums_W, weights_W = (masks_WD @ np.stack([differences.sums_D, differences.weights_D], axis=1)).T
    some_W = weights_W > 0
    sums_W, weights_W = sums_W[some_W], weights_W[some_W]
    if not differences.seed_error:
        return sums_W / weights_W, len(masks_WD)
    # the mirror image of each, so that exchanged methods give the same interval with its sign changed
    drawn_W = np.random.default_rng(_SEED).standard_normal(len(sums_W)) * differences.seed_error / 2
    return np.concatenate([(sums_W - drawn_W) / weights_W, (sums_W + drawn_W) / weights_W]), 2 * len(masks_WD)


@lru_cache(maxsize=2)
def _masks(count: int) -> Floats:
    """All subsets of that many documents, or random ones; the empty one, for the observed answers, comes first."""
    if count <= _EXACT:
        every_WD: Floats = (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(np.float64)
        return every_WD
    drawn = np.frombuffer(np.random.default_rng(_SEED).bytes(_WAYS * -(-count // 8)), np.uint8)
    masks_WD: Floats = np.unpackbits(drawn.reshape(_WAYS, -1), axis=1, count=count).astype(np.float64)
    masks_WD[0] = 0.0
    return masks_WD


def _ends(means: Floats, ways: int) -> tuple[float, float]:
    """Where rejection begins, on either side; the empty subset rejects none."""
    place = int(ways * (1 - LEVEL) / 2) - (ways - len(means))
    if place < 0:
        return -1.0, 1.0
    ends = np.partition(means, (place, len(means) - 1 - place))
    return float(ends[place]), float(ends[len(means) - 1 - place])


def _widened(differences: Clusters, inner: tuple[float, float]) -> Interval:
    """Widened to Bonett and Price's ends, but never across 0."""
    heaviest, mean = float(differences.weights_D.max()), differences.mean
    centre = mean / (1 + 2 * heaviest)
    squares = ((differences.sums_D - centre * differences.weights_D) ** 2).sum() + 2 * heaviest**2 * (1 + centre**2)
    half = student(max(1, len(differences.weights_D) - 1)) * math.hypot(
        math.sqrt(squares) / (1 + 2 * heaviest), differences.seed_error
    )
    low = min(inner[0], centre - half) if inner[0] <= _SAME or centre - half > 0 else inner[0]
    high = max(inner[1], centre + half) if inner[1] >= -_SAME or centre + half < 0 else inner[1]
    return Interval(mean, max(-1.0, low), min(1.0, high))

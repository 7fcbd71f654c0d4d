"""What one method costs against another on the same prompts: a permutation test, and the interval that belongs to it.

If two methods are worth the same, it is chance which of the two answers of a document is whose. The test swaps them,
all answers of a document together, in every way or in many thousand; p is the share of ways that favour one side at
least as much as what was seen, doubled for the two sides. For yes-or-no scores this is McNemar's exact test.

The same holds for every difference that one may assume: those that are not rejected are the interval, and its ends are
the outer hundredths of the means of random subsets of the documents (Hartigan 1969). So 0 lies in the interval if, and
only if, p is above 0.05. Few documents have not shown all that can happen, so an end that cannot change that verdict
reaches at least as far as Bonett and Price's interval (2012), which adds one pair lost and one pair won.
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
"""Up to so many documents, every way is tried."""

_SEED = 20_240_404
_SAME = 1e-12
_HALVINGS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """``p``: two-sided. ``detectable``: the loss that these documents would have shown in 80 of 100 cases; None: none.

    ``documents``: independent observations.
    """

    difference: Interval
    p: float
    detectable: float | None
    documents: int


def paired(differences: Clusters) -> Paired:
    """Test a mean difference, from -1 to 1, and say where it lies."""
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
    """The least share of documents that are lost so that the test shows it with a power of 80%.

    Documents that are lost add to what the swaps spread, and come one by one: half of one is added (continuity
    correction). None when losing all of them would not be shown.
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
    """Each p so raised that any below 0.05 among them all is as rare as one test's. Source: Holm 1979.

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
    """Every subset of so many documents, or else random ones, the empty one first: what was seen is one of the ways."""
    if count <= _EXACT:
        every_WD: Floats = (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(np.float64)
        return every_WD
    drawn = np.frombuffer(np.random.default_rng(_SEED).bytes(_WAYS * -(-count // 8)), np.uint8)
    masks_WD: Floats = np.unpackbits(drawn.reshape(_WAYS, -1), axis=1, count=count).astype(np.float64)
    masks_WD[0] = 0.0
    return masks_WD


def _ends(means: Floats, ways: int) -> tuple[float, float]:
    """Where a difference begins to be rejected, on either side; the empty subset rejects none."""
    place = int(ways * (1 - LEVEL) / 2) - (ways - len(means))
    if place < 0:
        return -1.0, 1.0
    ends = np.partition(means, (place, len(means) - 1 - place))
    return float(ends[place]), float(ends[len(means) - 1 - place])


def _widened(differences: Clusters, inner: tuple[float, float]) -> Interval:
    """Up to Bonett and Price's ends, but never over 0."""
    heaviest, mean = float(differences.weights_D.max()), differences.mean
    centre = mean / (1 + 2 * heaviest)
    squares = ((differences.sums_D - centre * differences.weights_D) ** 2).sum() + 2 * heaviest**2 * (1 + centre**2)
    half = student(max(1, len(differences.weights_D) - 1)) * math.hypot(
        math.sqrt(squares) / (1 + 2 * heaviest), differences.seed_error
    )
    low = min(inner[0], centre - half) if inner[0] <= _SAME or centre - half > 0 else inner[0]
    high = max(inner[1], centre + half) if inner[1] >= -_SAME or centre + half < 0 else inner[1]
    return Interval(mean, max(-1.0, low), min(1.0, high))

"""Spending a budget over curves that fall, where it saves most: optimal over their lower convex hulls.

Source: LU-KV (Tang et al. 2026, arXiv 2602.08585); its isotonic regression of the marginals is the same hull.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
import numpy.typing as npt

from kvloom.policy.compression.base import Counts
from kvloom.policy.compression.heads import apportion

_COLLINEAR = 1e-9
"""Slopes that differ by less, relatively, are one: rounding would break a straight line into many."""


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """``loss_P`` after buying ``units_P`` units, ascending; the first are given, the last are all that there are."""

    units_P: Counts
    loss_P: npt.NDArray[np.float64]
    unit_bytes: int = 1


@dataclass(frozen=True, slots=True)
class Part:
    """A straight part of a hull: ``units`` of curve ``curve``, each of which saves ``gain`` per byte."""

    gain: float
    curve: int
    units: int


def parts_of(curve: Curve, number: int = 0) -> list[Part]:
    """The lower convex hull, its gains strictly falling.

    >>> curve = Curve(np.array([0, 1, 2, 3]), np.array([6.0, 5.0, 2.0, 0.0]))
    >>> [(part.gain, part.units) for part in parts_of(curve)]
    [(2.0, 3)]
    """
    corners = [0]
    for point in range(1, len(curve.units_P)):
        while len(corners) > 1 and _gain(curve, corners[-1], point) >= _gain(curve, corners[-2], corners[-1]) * (
            1 - _COLLINEAR
        ):
            corners.pop()
        corners.append(point)
    return [
        Part(_gain(curve, a, b) / curve.unit_bytes, number, int(curve.units_P[b] - curve.units_P[a]))
        for a, b in pairwise(corners)
    ]


def spend(curves: Sequence[Curve], budget: int) -> Counts:
    """Units of each curve, of what ``budget`` bytes can buy the units that save most. What is given is paid for too.

    All of the budget is spent when units are alike, otherwise all but less than the largest. Of parts with equal gains
    each gets the same share.
    """
    units = np.array([int(curve.units_P[0]) for curve in curves], np.int64)
    price = np.array([curve.unit_bytes for curve in curves], np.int64)
    left = budget - int((units * price).sum())
    assert left >= 0, (budget, left)
    parts = [part for number, curve in enumerate(curves) for part in parts_of(curve, number)]
    for _, group in groupby(sorted(parts, key=_falling), key=_falling):
        equals = list(group)
        numbers = np.array([part.curve for part in equals])
        width = np.array([part.units for part in equals], np.int64)
        bought = width if (width * price[numbers]).sum() <= left else _shared(width, price[numbers], left)
        units[numbers] += bought
        left -= int((bought * price[numbers]).sum())
        if (bought < width).any():
            break
    return units


def _shared(width: Counts, price: Counts, left: int) -> Counts:
    """The same share of each, in whole units, that ``left`` pays for; then one more of each that it still can."""
    if (price == price[0]).all():
        return apportion(width.astype(np.float64), left // int(price[0]), np.zeros_like(width), width)
    bought: Counts = np.floor(width * (left / float((width * price).sum()))).astype(np.int64)
    left -= int((bought * price).sum())
    for number in np.argsort(-price, kind="stable"):
        more = min(int(width[number] - bought[number]), left // int(price[number]))
        bought[number] += more
        left -= more * int(price[number])
    return bought


def _falling(part: Part) -> float:
    return -part.gain


def _gain(curve: Curve, a: int, b: int) -> float:
    return float(curve.loss_P[a] - curve.loss_P[b]) / float(curve.units_P[b] - curve.units_P[a])

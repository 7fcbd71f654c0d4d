"""How soon idle KV is used again, learned by kind and age: a life table, and what keeping a block is worth by it.

Ages are in buckets that grow by a factor. Of every kind and bucket it is counted how many blocks were used again at
that age, and how many outlived it; what is evicted, or idle still, counts for the ages that it was seen to outlive.
The chance of use within a bucket, for what reaches it, is the first over both. Kinds of which little is known lean on
their family, families on all kinds, and these on a prior that falls with age.

From these chances follows the rate at which keeping a block pays: the most uses that one can expect per second of
keeping it, over all times for which it might be kept,

    rate(age) = max over t of P(used within t | idle for age) / E[time until used, or t | idle for age]

Source: hit density (LHD, Beckmann et al., NSDI 2018) is the same ratio with an infinite ``t``; the maximum makes it
Gittins' index, so that a use that is near counts in full, although it may never come if it does not come soon.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

import numpy as np
import numpy.typing as npt

_FIRST_S, _STEP, _LONGEST_S = 0.5, 2.0, 86_400.0
"""The first bucket's end, the ratio of later ends, and the least start of the last bucket, which is open."""

_COUNT = 2 + math.ceil(math.log(_LONGEST_S / _FIRST_S) / math.log(_STEP))
ENDS_S: tuple[float, ...] = (*(_FIRST_S * _STEP**n for n in range(_COUNT - 1)), math.inf)
"""Of the buckets; each begins where the one before ends, the first at 0."""

_STARTS_B = np.array([0.0, *ENDS_S[:-1]])
_WIDTH_B = np.append(np.diff(_STARTS_B), _STARTS_B[-1] * (_STEP - 1))

_PRIOR_SHAPE = 0.6
_PRIOR_B = 1 - ((_STARTS_B + _FIRST_S) / (_STARTS_B + _WIDTH_B + _FIRST_S)) ** _PRIOR_SHAPE
"""Of a Lomax distribution: the longer a block is idle, the longer it will be."""

_WEIGHT = 8.0
"""Of what a kind leans on, in blocks."""

_MEMORY = 1 << 20
"""Uses counted, after which earlier ones count half."""

_Floats = npt.NDArray[np.float64]


class LifeTable:
    """Kinds are rows, numbered as they appear. ``rate``: by row and bucket, as of the last ``learn``."""

    def __init__(self) -> None:
        self._rows: dict[Hashable, int] = {}
        self._families: dict[Hashable, int] = {}
        self._family: list[int] = []
        self._used: list[list[float]] = []
        self._outlived: list[list[float]] = []
        self._unknown: list[float] = rates(_PRIOR_B[None])[0].tolist()
        self._rates: list[list[float]] = []

    def row(self, kind: Hashable, family: Hashable) -> int:
        """A kind is always of the same family."""
        number = self._rows.get(kind)
        if number is None:
            number = self._rows[kind] = len(self._rows)
            self._family.append(self._families.setdefault(family, len(self._families)))
            self._used.append([0.0] * _COUNT)
            self._outlived.append([0.0] * _COUNT)
            self._rates.append(self._unknown)
        return number

    def used(self, row: int, bucket: int) -> None:
        """A block was used again at this age."""
        self._used[row][bucket] += 1

    def outlived(self, row: int, bucket: int, blocks: int) -> None:
        """So many have left this age behind."""
        self._outlived[row][bucket] += blocks

    def lost(self, row: int, bucket: int) -> None:
        """A block is watched no longer: it counts for half of the bucket, as in any life table."""
        self._outlived[row][bucket] += 0.5

    def rate(self, row: int, bucket: int) -> float:
        """Uses per second of keeping, as of the last ``learn``; positive."""
        return self._rates[row][bucket]

    def learn(self) -> None:
        used_KB, outlived_KB = np.array(self._used), np.array(self._outlived)
        chance_KB = chances(used_KB, outlived_KB, np.array(self._family))
        *self._rates, self._unknown = rates(chance_KB).tolist()
        if used_KB.sum() > _MEMORY:
            self._used, self._outlived = (used_KB / 2).tolist(), (outlived_KB / 2).tolist()


def chances(used_KB: _Floats, outlived_KB: _Floats, family_K: npt.NDArray[np.int64]) -> _Floats:
    """Of being used within a bucket, by kind, of what reaches it; the last row is that of all kinds."""
    families = family_K.max() + 1
    used_FB, outlived_FB = np.zeros((families, _COUNT)), np.zeros((families, _COUNT))
    np.add.at(used_FB, family_K, used_KB)
    np.add.at(outlived_FB, family_K, outlived_KB)
    all_B = _leaning(used_FB.sum(axis=0), outlived_FB.sum(axis=0), _PRIOR_B)
    family_FB = _leaning(used_FB, outlived_FB, all_B)
    return np.vstack([_leaning(used_KB, outlived_KB, family_FB[family_K]), all_B])


def _leaning(used: _Floats, outlived: _Floats, on: _Floats) -> _Floats:
    return (used + _WEIGHT * on) / (used + outlived + _WEIGHT)


def rates(chance_KB: _Floats) -> _Floats:
    """The rate at the beginning of every bucket. Within one, uses are taken to be spread evenly."""
    stays_KB = 1 - np.clip(chance_KB, 1e-9, 1 - 1e-6)
    found_KB = np.empty_like(stays_KB)
    for bucket in range(_COUNT):
        left_KE = np.cumprod(stays_KB[:, bucket:], axis=1)
        before_KE = np.hstack([np.ones((len(left_KE), 1)), left_KE[:, :-1]])
        kept_KE = np.cumsum((before_KE + left_KE) / 2 * _WIDTH_B[bucket:], axis=1)
        found_KB[:, bucket] = ((1 - left_KE) / kept_KE).max(axis=1)
    return found_KB

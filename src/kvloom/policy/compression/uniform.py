"""Every KV head of every layer keeps the same share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvloom.policy.compression.base import Counts, Floats, Origin


@dataclass(frozen=True, slots=True)
class Uniform:
    """Of S entries, ``ratio * S`` go, rounded to the nearest, halves up; one stays unless the ratio is 1."""

    name: ClassVar[str] = "uniform"

    def kept(self, ratio: float, scores: Sequence[Floats], origin: Origin) -> list[Counts]:
        return [np.full(len(scores_KS), kept_of(scores_KS.shape[1], ratio), np.int64) for scores_KS in scores]


def kept_of(count: int, ratio: float) -> int:
    """How many of ``count`` entries stay.

    >>> kept_of(10, 0.25), kept_of(3, 0.9), kept_of(3, 1.0)
    (7, 1, 0)
    """
    removed = int(ratio * count + 0.5)
    return count - removed if removed < count or ratio == 1 else min(count, 1)

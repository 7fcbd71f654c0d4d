"""Every KV head of every layer keeps the same share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvloom.policy.compression.base import Counts, LayerScores, Origin


@dataclass(frozen=True, slots=True)
class Uniform:
    """Of S entries, ``ratio * S`` go, rounded to the nearest, halves up; one stays unless the ratio is 1."""

    name: ClassVar[str] = "uniform"

    def kept(self, ratio: float, scores: Sequence[LayerScores], origin: Origin) -> list[Counts]:
        return [np.array([kept_of(len(scores_S), ratio) for scores_S in layer], np.int64) for layer in scores]


def kept_of(count: int, ratio: float) -> int:
    """How many of ``count`` entries stay.

    >>> kept_of(10, 0.25), kept_of(3, 0.9), kept_of(3, 1.0)
    (7, 1, 0)
    """
    removed = int(ratio * count + 0.5)
    return count - removed if removed < count or ratio == 1 else min(count, 1)

"""Full recompute: everything may be computed again, from the beginning on. What all others are measured against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvloom.policy.fusion.base import Floats, Need, View


@dataclass(frozen=True, slots=True)
class Recompute:
    @property
    def needs(self) -> frozenset[Need]:
        return frozenset()

    def scores(self, view: View) -> Floats:
        return -np.arange(view.question - view.start, dtype=np.float32)

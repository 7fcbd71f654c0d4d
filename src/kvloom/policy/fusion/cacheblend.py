"""CacheBlend: compute again what has changed most, by the values of an early layer.

Source: CacheBlend (arXiv 2405.16444), as its public code does it: the squared difference of values at the check layer,
over all heads and dimensions. Not here: gradual filtering, which narrows the choice from layer to layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.policy.fusion.base import Floats, Need, View


@dataclass(frozen=True, slots=True)
class CacheBlend:
    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.CHECKED_VALUES})

    def scores(self, view: View) -> Floats:
        assert view.checked is not None
        gap_SKD = view.checked.values_SKD - view.checked.old_values_SKD
        gap_S: Floats = (gap_SKD * gap_SKD).sum(axis=(1, 2))
        return gap_S

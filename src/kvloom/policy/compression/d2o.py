"""What goes is merged into what stays if their keys point the same way more than is usual: a mean of keys and values.

Source: D2O (Wan et al. 2024, arXiv 2406.13035), its token level, as it is after a prompt: every entry that goes looks
for the one that stays whose key is most like its own; where the cosine u is no less than the mean of all of these, they
are merged, with weights that are exp(u), and e for the one that stays, by their sum. A mean weighs less than its parts
did together: that is what ``keepkv`` makes up for.
We differ: means are of one KV head; while an answer is generated nothing is merged, so that no threshold moves with it;
and its other half, larger budgets for layers whose attention is spread, is left to allocators.

Legend: D head dim; of all heads of a layer, G merged entries, M members of those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvloom.policy.compression.base import Entries, Kept, LayerContext
from kvloom.policy.compression.merging import Merges
from kvloom.policy.compression.needs import Cached, Need

_ROUNDING = 1e-6
"""Of cosines that are all alike, none is less than their mean."""


@dataclass(frozen=True, slots=True)
class D2o:
    name: ClassVar[str] = "d2o"
    rest: ClassVar[str | None] = None
    needs: ClassVar[frozenset[Need]] = frozenset({Cached.KEYS, Cached.VALUES})

    def stored(self, context: LayerContext, kept: Sequence[Kept]) -> list[Entries | None]:
        merges = Merges.of(context, kept, lambda cosines: cosines >= cosines.mean(dtype=np.float64) - _ROUNDING)
        if merges is None:
            return [None] * len(kept)
        weights_M = np.exp(merges.cosines_M.astype(np.float64))
        k_GD, v_GD = merges.mixed(context, weights_M / merges.spread(merges.added(weights_M)))
        return merges.entries(context, kept, k_GD, v_GD, np.zeros(len(k_GD)))

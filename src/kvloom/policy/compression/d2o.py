"""What goes is merged into what stays if their keys point the same way more than is usual: a mean of keys and values.

Source: D2O (Wan et al. 2024, arXiv 2406.13035), its token level, as it is after a prompt: every entry that goes looks
for the one that stays whose key is most like its own; where the cosine u is no less than the mean of all of these, they
are merged, with weights that are exp(u), and e for the one that stays, by their sum. A mean weighs less than its parts
did together: that is what ``keepkv`` makes up for.
We differ: means are of one KV head; while an answer is generated nothing is merged, so that no threshold moves with it;
and its other half, larger budgets for layers whose attention is spread, is left to allocators.

Legend: S entries, P those that stay, M those and what is merged into them, K KV heads, D head dim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvloom.policy.compression.base import Entries, Floats, Kept, LayerContext
from kvloom.policy.compression.merging import as_stored, gone_of, nearest, sums
from kvloom.policy.compression.needs import Cached, Need

_ROUNDING = 1e-6
"""Of cosines that are all alike, none is less than their mean."""


@dataclass(frozen=True, slots=True)
class D2o:
    name: ClassVar[str] = "d2o"
    needs: ClassVar[frozenset[Need]] = frozenset({Cached.KEYS, Cached.VALUES})

    def stored(self, context: LayerContext, kept: Sequence[Kept]) -> list[Entries | None]:
        return [_merged(context.k_SKD[:, head], context.v_SKD[:, head], stays_P) for head, stays_P in enumerate(kept)]


def _merged(k_SD: Floats, v_SD: Floats, stays_P: Kept) -> Entries | None:
    gone_S = gone_of(len(k_SD), stays_P)
    if not len(gone_S) or not len(stays_P):
        return None
    partner_S, cosine_S = nearest(k_SD[gone_S], k_SD[stays_P])
    merges_S = cosine_S >= cosine_S.mean(dtype=np.float64) - _ROUNDING
    members_M = np.concatenate([stays_P, gone_S[merges_S]])
    places_M = np.concatenate([np.arange(len(stays_P)), partner_S[merges_S]])
    weights_M = np.concatenate([np.full(len(stays_P), math.e), np.exp(cosine_S[merges_S].astype(np.float64))])
    shares_M = weights_M / sums(weights_M, places_M, len(stays_P))[places_M]
    k_PD, v_PD = (sums(shares_M[:, None] * x_SD[members_M], places_M, len(stays_P)) for x_SD in (k_SD, v_SD))
    changed_P = np.bincount(places_M, minlength=len(stays_P)) > 1
    return Entries(as_stored(k_PD), as_stored(v_PD), np.zeros(len(stays_P), np.float32), changed_P)

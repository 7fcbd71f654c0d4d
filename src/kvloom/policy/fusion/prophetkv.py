"""ProphetKV-like: compute again what the question looks at, over all layers, in a first pass over old KV.

Source: ProphetKV (arXiv 2602.02579), from its abstract: two stages, with per-layer attention fused over layers. How it
is fused there is not known to us: here it is the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.policy.fusion.base import Floats, Need, View


@dataclass(frozen=True, slots=True)
class ProphetKv:
    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.ALL_ATTENTION})

    def scores(self, view: View) -> Floats:
        assert view.attention_LS is not None
        mean_S: Floats = view.attention_LS.mean(axis=0)
        return mean_S

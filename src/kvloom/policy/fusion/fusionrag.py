"""FusionRAG's choice: compute again what the question looks at in the last layer, over old KV.

Source: FusionRAG (arXiv 2601.12904). We differ: the question attends to keys at their true positions, as it will later,
to all documents at once, and the prefix is there; documents are not computed behind others like them.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.policy.fusion.base import Floats, Need, View


@dataclass(frozen=True, slots=True)
class FusionRag:
    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.LAST_ATTENTION})

    def scores(self, view: View) -> Floats:
        assert view.attention_LS is not None
        last_S: Floats = view.attention_LS[-1]
        return last_S

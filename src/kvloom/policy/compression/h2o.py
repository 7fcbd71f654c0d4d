"""Entries stay that have got the most attention from the context's own queries, all in all: which favours early ones.

Source: H2O (Zhang et al. 2023, arXiv 2306.14048). Its recent half of the budget is what ``protect_last`` is for.
We differ: the paper lets one entry go with every token and adds up the attention to what was left by then; we see all
of the context first. Sums are over the query heads of a group too. With ``allocator=pyramid, beta=7`` it is MiniKV's
selection (arXiv 2411.18077), but that there the recent part is the same in all layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kvloom.policy.compression.base import Floats, LayerContext
from kvloom.policy.compression.needs import Attention, Need


@dataclass(frozen=True, slots=True)
class H2o:
    name: ClassVar[str] = "h2o"
    needs: ClassVar[frozenset[Need]] = frozenset({Attention()})

    def scores(self, context: LayerContext) -> Floats:
        assert context.measured.attention_KS is not None
        return context.measured.attention_KS

"""All KV heads of all layers share one budget: the entries with the highest scores stay, wherever they are.

Source: KVzip (Kim et al. 2025, arXiv 2505.23416) divides its budget so, without a floor. Scores of one layer must mean
as much as those of another, as attention does. Of equal scores those that rank higher in their own head stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kvloom.policy.compression.base import Counts, LayerScores, Origin
from kvloom.policy.compression.heads import Heads, best_of_all, check_floor


@dataclass(frozen=True, slots=True)
class GlobalTop:
    """``floor``: the share of an even budget that every KV head keeps, 0 to 1."""

    name: ClassVar[str] = "global"
    floor: float = 0.0

    def __post_init__(self) -> None:
        check_floor(self.floor)

    def kept(self, ratio: float, scores: Sequence[LayerScores], origin: Origin) -> list[Counts]:
        heads = Heads.of(ratio, scores)
        return heads.by_layer(best_of_all(scores, heads.total, heads.at_least(self.floor))) if scores else []

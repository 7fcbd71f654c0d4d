"""The KV heads of a layer share its budget: the entries with the highest scores stay, whichever head they are of.

Source: Ada-KV (Feng et al. 2024, arXiv 2407.11550), algorithm 1, with the safeguard as kvpress has it: first every head
keeps its best ``floor`` of an even share, then the rest goes to the best of all heads together. (The authors' own code
keeps a mean of both counts instead.) We differ: of equal scores those that rank higher in their own head stay, so that
heads that score alike keep alike; and ``REQUIRED`` entries and one of each head are safe as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kvloom.policy.compression.base import Counts, LayerScores, Origin
from kvloom.policy.compression.heads import Heads, best_of_all, check_floor


@dataclass(frozen=True, slots=True)
class AdaKv:
    """``floor``: the share of an even budget that every KV head keeps, 0 to 1."""

    name: ClassVar[str] = "adakv"
    floor: float = 0.2

    def __post_init__(self) -> None:
        check_floor(self.floor)

    def kept(self, ratio: float, scores: Sequence[LayerScores], origin: Origin) -> list[Counts]:
        heads = Heads.of(ratio, scores)
        least_N = heads.at_least(self.floor)
        return [
            best_of_all([scores_KS], int(uniform_K.sum()), least_K)
            for scores_KS, uniform_K, least_K in zip(
                scores, heads.by_layer(heads.uniform_N), heads.by_layer(least_N), strict=True
            )
        ]

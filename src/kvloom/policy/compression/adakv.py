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

import numpy as np

from kvloom.errors import ParamsError
from kvloom.policy.compression.base import Counts, Floats, Origin
from kvloom.policy.compression.heads import Heads


@dataclass(frozen=True, slots=True)
class AdaKv:
    """``floor``: the share of an even budget that every KV head keeps, 0 to 1."""

    name: ClassVar[str] = "adakv"
    floor: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= 1:
            raise ParamsError(f"floor must be a number from 0 to 1, got {self.floor!r}", param="floor")

    def kept(self, ratio: float, scores: Sequence[Floats], origin: Origin) -> list[Counts]:
        heads = Heads.of(ratio, scores)
        least_N = np.maximum(heads.least_N, np.floor(self.floor * heads.uniform_N).astype(np.int64))
        return [
            best_of_all([scores_KS], int(uniform_K.sum()), least_K)
            for scores_KS, uniform_K, least_K in zip(
                scores, heads.by_layer(heads.uniform_N), heads.by_layer(least_N), strict=True
            )
        ]


def best_of_all(scores: Sequence[Floats], total: int, least_N: Counts) -> Counts:
    """How many of each head are among the ``total`` best, of which ``least_N`` of each head are for certain.

    >>> best_of_all([np.array([[9, 1, 8], [2, 3, 0]], np.float32)], 3, np.array([0, 0])).tolist()
    [2, 1]
    """
    falling_E = np.concatenate([(-np.sort(-scores_KS, axis=1)).reshape(-1) for scores_KS in scores])
    rank_E = np.concatenate([np.indices(scores_KS.shape)[1].reshape(-1) for scores_KS in scores])
    sizes = [scores_KS.shape[1] for scores_KS in scores for _ in scores_KS]
    head_E = np.repeat(np.arange(len(sizes)), sizes)
    free_E = rank_E >= least_N[head_E]
    order = np.lexsort((head_E[free_E], rank_E[free_E], -falling_E[free_E]))
    best = head_E[free_E][order[: total - int(least_N.sum())]]
    return least_N + np.bincount(best, minlength=len(least_N)).astype(np.int64)

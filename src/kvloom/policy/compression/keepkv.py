"""What goes is merged into what stays if their keys point the same way, and weighs there what it weighed before.

Source: KeepKV (Tian et al. 2025, arXiv 2504.09936). Entries that are merged are weighed by the attention that the last
queries gave them, an average that fades with distance; the merged one has all of their weight, of which convex merging
loses some. ``form``: ``zip`` is the paper's, where the key is scaled until its weight is right and the logarithm of how
many were merged (its votes) is the bias; ``bias`` is ours, where the key is the plain average and a bias makes the
weight right: nothing is divided by a logarithm that may be zero. ``zip`` falls back to it where the scale would leave
0.5 to 2. We differ: what goes is chosen by the scorer before anything is merged, and all that goes to one partner is
merged at once, not pair by pair; nothing is merged while an answer is generated; the average is over the query heads of
a group too; and queries count as if they saw all of the context, as those to come do.

Legend: D head dim; of all heads of a layer, G merged entries, M members of those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvloom.errors import ParamsError
from kvloom.policy.compression.base import Entries, Floats, Kept, LayerContext
from kvloom.policy.compression.merge_kernels import HeadRows, Indices, rows_of, weigh
from kvloom.policy.compression.merging import Doubles, Merges, as_stored
from kvloom.policy.compression.needs import Cached, Last, Need, Queries
from kvloom.policy.compression.reference_queries import References

_FORMS = ("bias", "zip")


@dataclass(frozen=True, slots=True)
class KeepKv:
    """``similarity``: the cosine of two keys above which they are merged. ``reference``: how many last queries say what
    entries weigh; ``fading``: how much less each counts than the one after it.
    """

    name: ClassVar[str] = "keepkv"
    rest: ClassVar[str | None] = None
    similarity: float = 0.8
    reference: int = 32
    fading: float = 0.9
    form: str = "bias"

    def __post_init__(self) -> None:
        if not -1 <= self.similarity <= 1:
            raise ParamsError(f"similarity must be from -1 to 1, got {self.similarity}", param="similarity")
        if not 1 <= self.reference <= 1024:
            raise ParamsError(f"reference must be from 1 to 1024 queries, got {self.reference}", param="reference")
        if not 0 < self.fading <= 1:
            raise ParamsError(f"fading must be above 0 and at most 1, got {self.fading}", param="fading")
        if self.form not in _FORMS:
            raise ParamsError(f"form must be one of {', '.join(_FORMS)}, got `{self.form}`", param="form")

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Cached.KEYS, Cached.VALUES, Queries(Last(self.reference))})

    def stored(self, context: LayerContext, kept: Sequence[Kept]) -> list[Entries | None]:
        references = References.of(context, self.fading)
        if not len(references):
            return [None] * len(kept)
        merges = Merges.of(context, kept, lambda cosines: cosines > self.similarity)
        return [None] * len(kept) if merges is None else self._merged(context, kept, merges, references)

    def _merged(
        self, context: LayerContext, kept: Sequence[Kept], merges: Merges, references: References
    ) -> list[Entries | None]:
        threads = context.threads
        weight_M = weigh(rows_of(context.k_SKD), merges.members, references, threads).astype(np.float64)
        total_G = _log_sums(weight_M, merges)
        share_M = np.exp(weight_M - merges.spread(total_G))
        k_GD, v_GD = merges.mixed(context, share_M)
        bias_G = total_G - weigh(k_GD, HeadRows(np.arange(len(k_GD)), merges.groups_K1), references, threads)
        if self.form == "zip":
            k_GD, bias_G = _zipped(k_GD, bias_G, total_G, merges.votes, merges.added(share_M * weight_M))
        return merges.entries(context, kept, k_GD, v_GD, bias_G)


def _zipped(
    k_GD: Floats, bias_G: Doubles, total_G: Doubles, votes_G: Indices, mean_G: Doubles
) -> tuple[Floats, Doubles]:
    wanted_G = total_G - np.log(votes_G)
    scale_G = wanted_G / np.where(np.abs(mean_G) < 1e-6, np.inf, mean_G)
    good_G = (scale_G > 0.5) & (scale_G < 2.0)
    return as_stored(np.where(good_G[:, None], k_GD * scale_G[:, None], k_GD)), np.where(
        good_G, np.log(votes_G), bias_G
    )


def _log_sums(x_M: Doubles, merges: Merges) -> Doubles:
    top_G = np.maximum.reduceat(x_M, merges.bounds_G1[:-1])
    logs_G: Doubles = top_G + np.log(merges.added(np.exp(x_M - merges.spread(top_G))))
    return logs_G

"""What goes is merged into what stays if their keys point the same way, and weighs there what it weighed before.

Source: KeepKV (Tian et al. 2025, arXiv 2504.09936). Entries that are merged are weighed by the attention that the last
queries gave them, an average that fades with distance; the merged one has all of their weight, of which convex merging
loses some. ``form``: ``zip`` is the paper's, where the key is scaled until its weight is right and the logarithm of how
many were merged (its votes) is the bias; ``bias`` is ours, where the key is the plain average and a bias makes the
weight right: nothing is divided by a logarithm that may be zero. ``zip`` falls back to it where the scale would leave
0.5 to 2. We differ: what goes is chosen by the scorer before anything is merged, and all that goes to one partner is
merged at once, not pair by pair; nothing is merged while an answer is generated; the average is over the query heads of
a group too; and queries count as if they saw all of the context, as those to come do.

Legend: S entries, P those that stay, K KV heads, N reference queries, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kvloom.errors import ParamsError
from kvloom.policy.compression.base import Entries, Floats, Kept, LayerContext
from kvloom.policy.compression.merging import Doubles, as_stored, gone_of, nearest, sums
from kvloom.policy.compression.needs import Cached, Last, Need, Queries
from kvloom.policy.compression.reference_queries import References, references_of

_FORMS = ("bias", "zip")


@dataclass(frozen=True, slots=True)
class KeepKv:
    """``similarity``: the cosine of two keys above which they are merged. ``reference``: how many last queries say what
    entries weigh; ``fading``: how much less each counts than the one after it.
    """

    name: ClassVar[str] = "keepkv"
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
        queries = references_of(context, self.fading)
        return [
            self._merged(context.k_SKD[:, head], context.v_SKD[:, head], stays_P, queries[head])
            for head, stays_P in enumerate(kept)
        ]

    def _merged(self, k_SD: Floats, v_SD: Floats, stays_P: Kept, queries: References) -> Entries | None:
        gone_S = gone_of(len(k_SD), stays_P)
        if not len(gone_S) or not len(stays_P) or not len(queries.q_ND):
            return None
        partner_S, nearest_S = nearest(k_SD[gone_S], k_SD[stays_P])
        merges_S = nearest_S > self.similarity
        if not merges_S.any():
            return None
        members = np.concatenate([stays_P, gone_S[merges_S]])
        places = np.concatenate([np.arange(len(stays_P)), partner_S[merges_S]])
        weight_M = queries.weights(k_SD[members])
        total_P = _log_sums(weight_M, places, len(stays_P))
        share_M = np.exp(weight_M - total_P[places])
        k_PD, v_PD = (sums(share_M[:, None] * x_SD[members], places, len(stays_P)) for x_SD in (k_SD, v_SD))
        bias_P = total_P - queries.weights(k_PD)
        votes_P = np.bincount(places, minlength=len(stays_P))
        if self.form == "zip":
            k_PD, bias_P = _zipped(k_PD, bias_P, total_P, votes_P, sums(share_M * weight_M, places, len(stays_P)))
        changed_P = votes_P > 1
        return Entries(as_stored(k_PD), as_stored(v_PD), as_stored(np.where(changed_P, bias_P, 0.0)), changed_P)


def _zipped(
    k_PD: Doubles, bias_P: Doubles, total_P: Doubles, votes_P: npt.NDArray[np.int64], mean_P: Doubles
) -> tuple[Doubles, Doubles]:
    wanted_P = total_P - np.log(votes_P)
    scale_P = wanted_P / np.where(np.abs(mean_P) < 1e-6, np.inf, mean_P)
    good_P = (scale_P > 0.5) & (scale_P < 2.0)
    return np.where(good_P[:, None], k_PD * scale_P[:, None], k_PD), np.where(good_P, np.log(votes_P), bias_P)


def _log_sums(x_M: Doubles, places: npt.NDArray[np.int64], count: int) -> Doubles:
    top_P = np.full(count, -np.inf)
    np.maximum.at(top_P, places, x_M)
    logs_P: Doubles = top_P + np.log(sums(np.exp(x_M - top_P[places]), places, count))
    return logs_P

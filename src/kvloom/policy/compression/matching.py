"""What stays gets biases and values of its own, so that reference queries see what they saw of the whole context.

Source: Attention Matching (arXiv 2602.16284): kept keys stay as they are; biases make up for the weight of what is
gone, and values are fitted to the outputs, both by least squares in closed form. We differ: reference queries are the
last ones of the context, as if they saw all of it; and both fits are held near what was there (``ridge``), as there are
fewer queries than entries.

Legend: S entries, P those that stay, K KV heads of which some entries stay and others go, N reference queries of each,
D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kvloom.errors import ParamsError
from kvloom.policy.compression.algebra import Doubles, product, solved
from kvloom.policy.compression.base import Entries, Floats, Kept, LayerContext
from kvloom.policy.compression.needs import Cached, Last, Need, Queries
from kvloom.policy.compression.reference_queries import References

_LEAST, _MOST = 0.05, 20.0
"""A bias multiplies what an entry weighs by no less and no more than this, beside what multiplies all of them."""


@dataclass(frozen=True, slots=True)
class Matching:
    """``reference``: how many last queries are matched. ``ridge``: how strongly the fits are held, as a part of the
    mean square of what they are made from.
    """

    name: ClassVar[str] = "matching"
    rest: ClassVar[str | None] = None
    reference: int = 64
    ridge: float = 0.1

    def __post_init__(self) -> None:
        if not 1 <= self.reference <= 1024:
            raise ParamsError(f"reference must be from 1 to 1024 queries, got {self.reference}", param="reference")
        if not self.ridge > 0:
            raise ParamsError(f"ridge must be above 0, got {self.ridge}", param="ridge")

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Cached.KEYS, Cached.VALUES, Queries(Last(self.reference))})

    def stored(self, context: LayerContext, kept: Sequence[Kept]) -> list[Entries | None]:
        references = References.of(context)
        found: list[Entries | None] = [None] * len(kept)
        fitted = [head for head, stays_P in enumerate(kept) if 0 < len(stays_P) < len(context.k_SKD)]
        if not len(references) or not fitted:
            return found
        seen = [_Seen.of(context, head, kept[head], references.q_KND[head]) for head in fitted]
        factors = self._factors([each.shares_PN for each in seen], context.threads)
        mixed = [each.mixed(factors_P) for each, factors_P in zip(seen, factors, strict=True)]
        lacking = [each.lacking(mixed_PN, context.threads) for each, mixed_PN in zip(seen, mixed, strict=True)]
        fits = self._fit(mixed, lacking, context.threads)
        for head, each, factors_P, fit_PD in zip(fitted, seen, factors, fits, strict=True):
            bias_P, v_PD = np.log(factors_P).astype(np.float32), (each.v_PD + fit_PD).astype(np.float32)
            found[head] = Entries(context.k_SKD[kept[head], head], v_PD, bias_P, np.ones(len(v_PD), np.bool_))
        return found

    def _factors(self, shares: Sequence[Doubles], threads: int) -> list[Doubles]:
        """What each entry is multiplied by, by head, so that together they weigh as much as all did."""
        sums = [shares_PN.sum(axis=0) for shares_PN in shares]
        common = [float(1 / np.maximum(sum_N, 1e-3).mean()) for sum_N in sums]
        lacking = [(1 - factor * sum_N)[:, None] for factor, sum_N in zip(common, sums, strict=True)]
        return [
            np.clip(factor + fit_P1[:, 0], _LEAST * factor, _MOST * factor)
            for factor, fit_P1 in zip(common, self._fit(shares, lacking, threads), strict=True)
        ]

    def _fit(self, x: Sequence[Doubles], y: Sequence[Doubles], threads: int) -> list[Doubles]:
        """(P, D) by head, given (P, N) and (N, D): ridge regression, solved by queries, as they are the fewer."""
        gram_KNN = np.stack([product(x_PN.T, x_PN, threads) for x_PN in x])
        diagonal_KN = np.einsum("knn->kn", gram_KNN)  # a view
        diagonal_KN += self.ridge * diagonal_KN.mean(axis=1, keepdims=True) + 1e-12
        solved_KND = solved(gram_KNN, np.stack(y), threads)
        return [product(x_PN, of_head_ND, threads) for x_PN, of_head_ND in zip(x, solved_KND, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What a head's reference queries see of the whole context, ``wanted_ND``, and what of it is due to those that
    stay: ``shares_PN`` and the values ``v_PD``.
    """

    wanted_ND: Doubles
    shares_PN: Doubles
    v_PD: Doubles

    @staticmethod
    def of(context: LayerContext, head: int, stays_P: Kept, q_ND: Floats) -> _Seen:
        v_SD = context.v_SKD[:, head]
        weights_NS = product(q_ND, context.k_SKD[:, head].T, context.threads)
        weights_NS -= weights_NS.max(axis=1, keepdims=True)
        np.exp(weights_NS, out=weights_NS)
        total_N = weights_NS.sum(axis=1)
        wanted_ND = product(weights_NS, v_SD, context.threads) / total_N[:, None]
        return _Seen(wanted_ND, weights_NS.T[stays_P] / total_N, v_SD[stays_P].astype(np.float64))

    def mixed(self, factors_P: Doubles) -> Doubles:
        """(P, N): the shares if entries are multiplied and nothing else is there."""
        mixed_PN = self.shares_PN * factors_P[:, None]
        mixed_PN /= np.maximum(mixed_PN.sum(axis=0), 1e-30)
        return mixed_PN

    def lacking(self, mixed_PN: Doubles, threads: int) -> Doubles:
        """(N, D): what queries then lack."""
        lacking_ND: Doubles = self.wanted_ND - product(mixed_PN.T, self.v_PD, threads)
        return lacking_ND

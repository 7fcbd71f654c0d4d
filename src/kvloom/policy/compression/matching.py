"""What stays gets biases and values of its own, so that reference queries see what they saw of the whole context.

Source: Attention Matching (arXiv 2602.16284): kept keys stay as they are; biases make up for the weight of what is
gone, and values are fitted to the outputs, both by least squares in closed form. We differ: reference queries are the
last ones of the context, as if they saw all of it; and both fits are held near what was there (``ridge``), as there are
fewer queries than entries.

Legend: S entries, P those that stay, N reference queries, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kvloom.errors import ParamsError
from kvloom.policy.compression.base import Entries, Floats, Kept, LayerContext
from kvloom.policy.compression.needs import Cached, Last, Need, Queries
from kvloom.policy.compression.reference_queries import References, references_of

Doubles = npt.NDArray[np.float64]
_LEAST, _MOST = 0.05, 20.0
"""A bias multiplies what an entry weighs by no less and no more than this, beside what multiplies all of them."""


@dataclass(frozen=True, slots=True)
class Matching:
    """``reference``: how many last queries are matched. ``ridge``: how strongly the fits are held, as a part of the
    mean square of what they are made from.
    """

    name: ClassVar[str] = "matching"
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
        queries = references_of(context)
        return [
            self._matched(context.k_SKD[:, head], context.v_SKD[:, head], stays_P, queries[head])
            for head, stays_P in enumerate(kept)
        ]

    def _matched(self, k_SD: Floats, v_SD: Floats, stays_P: Kept, queries: References) -> Entries | None:
        if not 0 < len(stays_P) < len(k_SD) or not len(queries.q_ND):
            return None
        logits_NS = queries.logits(k_SD)
        shares_NS = np.exp(logits_NS - logits_NS.max(axis=1, keepdims=True))
        shares_NS /= shares_NS.sum(axis=1, keepdims=True)
        wanted_ND, factors_P = shares_NS @ v_SD.astype(np.float64), self._factors(shares_NS[:, stays_P])
        mixed_NP = shares_NS[:, stays_P] * factors_P
        mixed_NP /= np.maximum(mixed_NP.sum(axis=1, keepdims=True), 1e-30)
        v_PD = v_SD[stays_P].astype(np.float64)
        v_PD += self._fit(mixed_NP, wanted_ND - mixed_NP @ v_PD)
        bias_P = np.log(factors_P).astype(np.float32)
        return Entries(k_SD[stays_P], v_PD.astype(np.float32), bias_P, np.ones(len(stays_P), np.bool_))

    def _factors(self, shares_NP: Doubles) -> Doubles:
        """What each entry is multiplied by, so that together they weigh as much as all did."""
        common = 1 / np.maximum(shares_NP.sum(axis=1), 1e-3).mean()
        lacking_N = 1 - common * shares_NP.sum(axis=1)
        fitted_P = common + self._fit(shares_NP, lacking_N[:, None])[:, 0]
        factors_P: Doubles = np.clip(fitted_P, _LEAST * common, _MOST * common)
        return factors_P

    def _fit(self, x_NP: Doubles, y_ND: Doubles) -> Doubles:
        """(P, D): ridge regression, solved by queries, which are fewer than entries."""
        gram_NN = x_NP @ x_NP.T
        held = self.ridge * np.trace(gram_NN) / len(gram_NN)
        fitted_PD: Doubles = x_NP.T @ np.linalg.solve(gram_NN + (held + 1e-12) * np.eye(len(gram_NN)), y_ND)
        return fitted_PD

"""Tokens of mere structure that come again, punctuation and white space, go before anything else does.

They are found everywhere, so that the first of each says what they all say. Which tokens these are is for who knows
their texts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kvloom.policy.compression.base import Floats, LayerContext, Need, Scorer


@dataclass(frozen=True, slots=True)
class Demoted:
    """A scorer whose scores fall below all others' for structure that has come before. ``structure_V``: by token."""

    scorer: Scorer
    structure_V: npt.NDArray[np.bool_] = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        return f"{self.scorer.name}-demoted"

    @property
    def needs(self) -> frozenset[Need]:
        return self.scorer.needs

    def scores(self, context: LayerContext) -> Floats:
        """What is required stays so. The order among what is demoted, and among what is not, is the scorer's."""
        scores_KS = np.asarray(self.scorer.scores(context))
        again_S = self.structure_V[context.tokens_S]
        again_S[np.unique(context.tokens_S, return_index=True)[1]] = False
        finite_KS = scores_KS[np.isfinite(scores_KS)]
        if not finite_KS.size or not again_S.any():
            return scores_KS
        fall = np.float32(finite_KS.max() - finite_KS.min()) * np.float32(1.01) + np.float32(1)
        return np.where(again_S, scores_KS - fall, scores_KS)

"""A shadow: the exact KV of a sequence whose context is compressed, kept to see how far the answer drifts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from kvloom.engine.cache_params import Guard
from kvloom.engine.kv import SequenceKv
from kvloom.engine.outputs import GuardReport
from kvloom.engine.sampling import Logits, NextScores


@dataclass(slots=True, eq=False)
class Shadow:
    """``kv`` follows the sequence's tokens, but only as far as the last check: what was drawn since is computed at the
    next one, in one piece. ``said``: what it says of the next token, until that is compared.
    """

    guard: Guard
    kv: SequenceKv
    said: NextScores | None = None

    def wanted(self, generated: int) -> bool:
        """Whether it has to say what comes after so many tokens of the answer, and has not."""
        return self.said is None and generated % self.guard.every == 0

    def follow(self, tokens: list[int]) -> None:
        if later := tokens[len(self.kv.tokens) :]:
            self.kv.append(*later)

    def say(self, scores: NextScores) -> None:
        """Takes a copy: the comparison may be a step later."""
        self.said = NextScores(scores.logits_V.copy(), scores.argmax)

    def compared(self, exact: NextScores, scores: NextScores, before: GuardReport) -> GuardReport:
        self.said = None
        kl = kl_divergence(exact.logits_V, scores.logits_V)
        return replace(
            before,
            checks=before.checks + 1,
            agreed=before.agreed + (exact.argmax == scores.argmax),
            total_kl=before.total_kl + kl,
            max_kl=max(before.max_kl, kl),
            bytes=self.kv.held_bytes,
        )


_BLOCK = 8192
"""Entries looked at together: arrays as large as a vocabulary would come from the operating system, page by page, each
time, which takes longer than the arithmetic."""


def kl_divergence(exact_V: Logits, other_V: Logits) -> float:
    """Of the second distribution from the first, in nats: 0 when they are the same to the last bit.

    With x, y the logits below their maxima, and X, Y the sums of exp x, exp y: sum(exp x (x - y)) / X - log X + log Y.
    """
    exact_peak, other_peak = float(exact_V.max()), float(other_V.max())
    exact_total = other_total = apart = 0.0
    for start in range(0, len(exact_V), _BLOCK):
        x_B = np.subtract(exact_V[start : start + _BLOCK], exact_peak, dtype=np.float64)
        y_B = np.subtract(other_V[start : start + _BLOCK], other_peak, dtype=np.float64)
        weight_B = np.exp(x_B)
        exact_total += float(weight_B.sum())
        other_total += float(np.exp(y_B).sum())
        if not (possible := np.isfinite(x_B)).all():
            x_B, y_B, weight_B = x_B[possible], y_B[possible], weight_B[possible]
        apart += float(np.dot(weight_B, x_B - y_B))
    return max(0.0, apart / exact_total - math.log(exact_total) + math.log(other_total))

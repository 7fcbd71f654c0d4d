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
    """Of the second distribution from the first, in nats: 0 when they are the same to the last bit."""
    exact_total, other_total = _log_sum_exp(exact_V), _log_sum_exp(other_V)
    kl = 0.0
    for start in range(0, len(exact_V), _BLOCK):
        log_p_B = np.subtract(exact_V[start : start + _BLOCK], exact_total, dtype=np.float64)
        log_q_B = np.subtract(other_V[start : start + _BLOCK], other_total, dtype=np.float64)
        if not (possible := np.isfinite(log_p_B)).all():
            log_p_B, log_q_B = log_p_B[possible], log_q_B[possible]
        kl += float(np.dot(np.exp(log_p_B), log_p_B - log_q_B))
    return max(0.0, kl)


def _log_sum_exp(logits_V: Logits) -> float:
    peak = float(logits_V.max())
    total = 0.0
    for start in range(0, len(logits_V), _BLOCK):
        total += float(np.exp(np.subtract(logits_V[start : start + _BLOCK], peak, dtype=np.float64)).sum())
    return peak + math.log(total)

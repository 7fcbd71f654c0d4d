"""A shadow: the exact KV of a sequence whose context is compressed, kept to see how far the answer drifts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

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


def kl_divergence(exact_V: Logits, other_V: Logits) -> float:
    """Of the second distribution from the first, in nats: 0 when they are the same to the last bit."""
    log_p_V, log_q_V = _log_softmax(exact_V), _log_softmax(other_V)
    possible = np.isfinite(log_p_V)
    log_p_V, log_q_V = log_p_V[possible], log_q_V[possible]
    return max(0.0, float((np.exp(log_p_V) * (log_p_V - log_q_V)).sum()))


def _log_softmax(logits_V: Logits) -> npt.NDArray[np.float64]:
    shifted_V = logits_V.astype(np.float64) - float(logits_V.max())
    return shifted_V - float(np.log(np.exp(shifted_V).sum()))

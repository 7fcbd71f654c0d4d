"""What the cache did for an answer: one line for people, in the words of the window, or facts for ``--json``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kvloom.engine.account import missed_by_reason, reused_by_tier, saved_s, tokens_per_s
from kvloom.engine.outputs import RequestMetrics
from kvloom.policy.cost import PrefillCost

_LEAST_SAVED_S = 0.0005
_TIERS = {"ram": "RAM", "warm": "warm RAM", "warm_int8": "warm RAM in 8 bits", "remote": "the remote server"}
_REASONS = {
    "new": "never seen",
    "differs": "another token here",
    "last-token": "for the logits",
    "reset": "since the cache was reset",
    "too-short": "too short for a page",
    "window": "outside a window",
    "not-loaded": "not delivered by a tier",
    "not-asked": "without asking the cache",
}
"""Where the name of a reason does not explain itself."""


@dataclass(frozen=True, slots=True)
class Account:
    """``cost``: of prefill as it is known by now, None if it is not."""

    prompt_tokens: int
    answer_tokens: int
    metrics: RequestMetrics
    cost: PrefillCost | None

    def line(self) -> str:
        """``412 prompt tokens: 396 reused (396 from RAM), 16 computed (16 never seen); first token in 0.05 s, ...``."""
        parts = (self._prompt(), self._repaired(), ", ".join(self._first_token()), self._answer())
        return "; ".join(filter(None, parts))

    def facts(self) -> dict[str, Any]:
        """For ``--json``. Times in seconds; null: not known."""
        metrics, fused = self.metrics, self.metrics.fused
        return {
            "prompt_tokens": self.prompt_tokens,
            "answer_tokens": self.answer_tokens,
            "cached_tokens": metrics.cached_tokens,
            "lossy_tokens": metrics.lossy_tokens,
            "computed_tokens": metrics.computed_tokens,
            "reused_by_tier": reused_by_tier(metrics),
            "missed_by_reason": missed_by_reason(metrics),
            "repaired_tokens": 0 if fused is None else fused.repaired,
            "kv_bytes": metrics.kv_bytes,
            "ttft_s": metrics.ttft_s,
            "total_s": metrics.total_s,
            "saved_s": saved_s(metrics, self.cost),
            "tokens_per_s": tokens_per_s(metrics),
        }

    def _prompt(self) -> str:
        metrics = self.metrics
        reused = metrics.cached_tokens + metrics.lossy_tokens
        found = (f"{n} from {_TIERS.get(tier, tier)}" for tier, n in reused_by_tier(metrics).items())
        parts = [f"{reused} reused{_listed(found)}"]
        missed = sorted(missed_by_reason(metrics).items(), key=lambda item: -item[1])
        told = (f"{n} {_REASONS.get(why, why)}" for why, n in missed)
        parts.append(f"{self.prompt_tokens - reused} computed{_listed(told)}")
        if metrics.preemptions:
            parts.append(f"begun again {metrics.preemptions} times")
        return f"{self.prompt_tokens} prompt tokens: {', '.join(parts)}"

    def _repaired(self) -> str:
        fused = self.metrics.fused
        if fused is None:
            return ""
        return f"{fused.found} of {fused.documents} document tokens found alone, {fused.repaired} repaired"

    def _first_token(self) -> Iterator[str]:
        if self.metrics.ttft_s is not None:
            yield f"first token in {self.metrics.ttft_s:.2f} s"
        saved = saved_s(self.metrics, self.cost)
        if saved is not None and saved > _LEAST_SAVED_S:
            yield f"about {saved:.2g} s saved"

    def _answer(self) -> str:
        speed = tokens_per_s(self.metrics)
        return f"{self.answer_tokens} tokens" + ("" if speed is None else f" at {speed:.1f}/s")


def _listed(parts: Iterator[str]) -> str:
    told = ", ".join(parts)
    return f" ({told})" if told else ""

"""One answer, as it comes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from kvloom.cli.account import Account
from kvloom.engine.outputs import FinishReason, RequestMetrics
from kvloom.engine.params import SamplingParams
from kvloom.policy.cost import PrefillCost
from kvloom.server.engine_protocol import ServedEngine


@dataclass(slots=True)
class Spoken:
    """The answer so far: also valid when it was stopped early."""

    texts: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    answer_tokens: int = 0
    finish_reason: FinishReason | None = None
    metrics: RequestMetrics = field(default_factory=RequestMetrics)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def account(self, cost: PrefillCost | None) -> Account:
        """``cost``: of prefill, as the engine knows it by now."""
        return Account(self.prompt_tokens, self.answer_tokens, self.metrics, cost)

    def line(self, cost: PrefillCost | None) -> str:
        cut = ", cut by the limit" if self.finish_reason == "length" else ""
        return self.account(cost).line() + cut

    def facts(self, cost: PrefillCost | None) -> dict[str, Any]:
        """For ``--json``."""
        return {"text": self.text, "finish_reason": self.finish_reason} | self.account(cost).facts()


async def speak(
    engine: ServedEngine, prompt: list[int], params: SamplingParams, spoken: Spoken, write: Callable[[str], None]
) -> None:
    """Stream an answer to ``write`` and into ``spoken``. Raises RequestError. Cancel it to abort."""
    async with aclosing(engine.stream(prompt, params)) as updates:
        async for update in updates:
            if update.error is not None:
                raise update.error
            spoken.prompt_tokens = len(update.prompt_token_ids)
            spoken.metrics = update.metrics
            for delta in update.deltas:
                spoken.texts.append(delta.text)
                spoken.answer_tokens += len(delta.token_ids)
                spoken.finish_reason = delta.finish_reason
                write(delta.text)

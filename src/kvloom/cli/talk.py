"""One answer, streamed to standard output."""

from __future__ import annotations

import sys
from contextlib import aclosing
from dataclasses import dataclass, field

from kvloom.cli.say import turn_line
from kvloom.engine.outputs import FinishReason, RequestMetrics
from kvloom.engine.params import SamplingParams
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

    def line(self) -> str:
        cut = ", cut by the limit" if self.finish_reason == "length" else ""
        return turn_line(self.prompt_tokens, self.answer_tokens, self.metrics) + cut


async def speak(engine: ServedEngine, prompt: list[int], params: SamplingParams, spoken: Spoken) -> None:
    """Stream an answer to standard output and into ``spoken``. Raises RequestError. Cancel it to abort."""
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
                sys.stdout.write(delta.text)
            sys.stdout.flush()

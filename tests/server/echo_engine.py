"""The real engine on a tiny model, made to repeat the prompt's words: what comes back can be told in advance."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import tiny
from kvloom.engine.async_engine import AsyncEngine
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.defaults import SamplingDefaults
from kvloom.engine.outputs import CompletionOutput, RequestUpdate
from kvloom.engine.params import SamplingParams
from kvloom.engine.sampling import Sampler
from kvloom.model.base import Logits

from .mock_engine import WordTokenizer


class EchoEngine(AsyncEngine):
    """Remembers what it was asked. ``live``: requests that run now. ``aborted``: those closed before their end."""

    def __init__(self) -> None:
        tokenizer = WordTokenizer()
        self._start(tiny.make_engine(max_model_len=64, tokenizer=tokenizer), tokenizer, "mock", SamplingDefaults())
        self.live: set[str] = set()
        self.seen: list[str] = []
        self.aborted: list[str] = []
        self.params: list[SamplingParams] = []
        self.prompts: list[list[int]] = []
        self.clients: list[str] = []
        self.caches: list[CacheParams] = []
        self.resets = 0

    async def reset_cache(self) -> None:
        self.resets += 1
        await super().reset_cache()

    async def output(self, ids: list[int], **params: Any) -> CompletionOutput:
        """What the library makes of a prompt, without HTTP."""
        outputs = [output async for output in self.generate(ids, SamplingParams(**params))]
        return outputs[-1].outputs[0]

    async def stream(
        self,
        prompt: str | list[int],
        params: SamplingParams,
        request_id: str | None = None,
        *,
        client: str = "",
        cache: CacheParams | None = None,
    ) -> AsyncGenerator[RequestUpdate, None]:
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        self.params.append(params)
        self.prompts.append(ids)
        self.clients.append(client)
        self.caches.append(cache or CacheParams())
        name = request_id or f"request-{len(self.seen)}"
        assert name not in self.seen, f"request id {name} was used twice"
        self.seen.append(name)
        self.live.add(name)
        done = False
        updates = super().stream(ids, params, name, client=client, cache=cache)
        try:
            async for update in updates:
                done = update.finished
                yield update
        finally:
            await updates.aclose()
            self.live.remove(name)
            if not done:
                self.aborted.append(name)


class EchoSampler(Sampler):
    """Continuation i begins with the prompt's token i, and goes round."""

    def __init__(self, params: SamplingParams, prompt: Sequence[int], seeds: Sequence[int]) -> None:
        super().__init__(params, prompt, None)
        self.next = seeds[-1]

    def draw(self, logits_V: Logits, argmax: int | None = None) -> int:
        token = self.prompt[self.next % len(self.prompt)]
        self.next += 1
        return token

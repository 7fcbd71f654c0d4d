"""The real engine on a tiny model, made to repeat the prompt's words: what comes back can be told in advance.

Subprocesses use it too: nothing here imports torch, which takes longer than all of the rest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import tiny_decoder
from kvloom.attend.cpu import CpuAttend
from kvloom.config import CacheConfig, EngineConfig, SchedulerConfig
from kvloom.engine import request
from kvloom.engine.async_engine import AsyncEngine
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.defaults import SamplingDefaults
from kvloom.engine.engine import Engine
from kvloom.engine.factory import make_engine
from kvloom.engine.outputs import CompletionOutput, RequestUpdate
from kvloom.engine.params import SamplingParams
from kvloom.engine.sampling import Sampler
from kvloom.memory.tier.base import Tier
from kvloom.model.base import Logits
from kvloom.policy.retention.lru import LeastRecentlyUsed

from .word_tokenizer import WordTokenizer

KV_BYTES = 4 * 2**20


class EchoEngine(AsyncEngine):
    """Remembers what it was asked. ``live``: streams that are open. ``aborted``: those closed before their end.

    Parameters
    ----------
    vocab_size:
        Of the model: how many words may appear in all prompts together.
    pace_s:
        Seconds by which every step is late.
    held:
        Steps wait until ``gate`` is set.
    """

    def __init__(
        self,
        *,
        max_model_len: int = 64,
        vocab_size: int = tiny_decoder.VOCAB,
        pace_s: float = 0.0,
        held: bool = False,
        tokenizer: Any = None,
        sampling_defaults: SamplingDefaults | None = None,
        tiers: Sequence[Tier] = (),
    ) -> None:
        self.pace_s = pace_s
        self.gate = threading.Event()
        if not held:
            self.gate.set()
        self.live: set[str] = set()
        self.seen: list[str] = []
        self.aborted: list[str] = []
        self.params: list[SamplingParams] = []
        self.prompts: list[list[int]] = []
        self.clients: list[str] = []
        self.caches: list[CacheParams] = []
        self.resets = 0
        tokenizer = tokenizer or WordTokenizer()
        engine = _echoing(_engine(max_model_len, vocab_size, tokenizer, tiers))
        self._start(engine, tokenizer, "mock", sampling_defaults or SamplingDefaults())
        assert self.max_model_len == max_model_len, "the KV budget allows less"

    async def reset_cache(self) -> None:
        self.resets += 1
        await super().reset_cache()

    def close(self) -> None:
        self.gate.set()
        super().close()

    async def output(self, ids: list[int], **params: Any) -> CompletionOutput:
        """What the library makes of a prompt, without HTTP."""
        outputs = [output async for output in self.generate(ids, SamplingParams(**params))]
        return outputs[-1].outputs[0]

    async def assert_idle(self) -> None:
        """Nothing runs, waits or holds KV any more, and the ledger adds up."""
        await self.check()
        stats = self.stats()
        assert self.live == set()
        assert (stats.running, stats.waiting, stats.cache.held_pages) == (0, 0, 0)

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

    def _step(self) -> None:
        self.gate.wait()
        time.sleep(self.pace_s)
        super()._step()


class EchoSampler(Sampler):
    """Continuation i begins with the prompt's token i, and goes round."""

    def __init__(self, params: SamplingParams, prompt: Sequence[int], index: int) -> None:
        super().__init__(params, prompt, None)
        self.next = index

    def draw(self, logits_V: Logits, argmax: int | None = None) -> int:
        token = self.prompt[self.next % len(self.prompt)]
        self.next += 1
        return token


def _engine(max_model_len: int, vocab_size: int, tokenizer: Any, tiers: Sequence[Tier]) -> Engine:
    """As a server makes it: the step in C++, KV in the default format."""
    config = EngineConfig(
        model="tiny",
        max_model_len=max_model_len,
        cache=CacheConfig(kv_bytes=KV_BYTES, slab_bytes=64 * 1024),
        scheduler=SchedulerConfig(step_tokens=64, max_seqs=64),
    )
    model = tiny_decoder.decoder((None, None), vocab_size=vocab_size, context_length=max_model_len)
    return make_engine(
        model,
        tokenizer,
        config,
        lambda arena: CpuAttend(arena.memory, threads=1),
        LeastRecentlyUsed(),
        tier_factory=lambda formats: tiers,
    )


def _echoing(engine: Engine) -> Engine:
    """Sequences of this engine are sampled by EchoSampler."""
    made = engine.intake.sequence

    def sequence(asked: request.Request, index: int) -> request.Sequence:
        found = made(asked, index)
        found.sampler = EchoSampler(asked.params, asked.prompt_token_ids, index)
        return found

    engine.intake.sequence = sequence  # type: ignore[method-assign]
    return engine

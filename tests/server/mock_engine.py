"""An engine without a model, which fails and dawdles on demand: it repeats the prompt's words, one per step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.defaults import SamplingDefaults
from kvloom.engine.outputs import (
    CompletionDelta,
    FinishReason,
    Logprob,
    RequestMetrics,
    RequestUpdate,
    TokenLogprobs,
)
from kvloom.engine.params import SamplingParams
from kvloom.engine.stats import CacheStats, EngineStats
from kvloom.errors import InternalError, KvloomError, ModelError, ParamsError, PromptTooLong, RequestError
from kvloom.model.text.messages import normal_messages, template_variables

BOS = 0


class WordTokenizer:
    """A token per word; ids are given in the order of first sight. Token 0 is the beginning of text."""

    def __init__(self) -> None:
        self._words = ["<s>"]
        self._ids = {"<s>": BOS}
        self.has_template = True
        self.eos_token_ids = frozenset({999})

    @property
    def vocab_size(self) -> int:
        return len(self._words)

    def encode(self, text: str, add_special_tokens: bool | None = True, max_tokens: int | None = None) -> list[int]:
        ids = [self._id(word) for word in text.split()]
        return [BOS, *ids] if add_special_tokens is not False else ids

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(self.token_text(one) for one in ids if not (skip_special_tokens and one == BOS))

    def token_text(self, token_id: int) -> str:
        return f" {self._words[token_id]}" if token_id < len(self._words) else f" <{token_id}>"

    def token_bytes(self, token_id: int) -> bytes:
        return self.token_text(token_id).encode()

    def stream(self, skip_special_tokens: bool, after: Sequence[int] = ()) -> WordStream:
        return WordStream(self, skip_special_tokens)

    def chat_prompt(
        self,
        messages: list[dict[str, Any]],
        add_generation_prompt: bool = True,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> str:
        if not self.has_template:
            raise ModelError("this model has no chat template", hint="use /v1/completions")
        turns = [f"<{turn['role']}> {turn['content']}" for turn in normal_messages(messages, template="")]
        turns[:0] = [f"{name}={value}" for name, value in template_variables(chat_template_kwargs).items()]
        return " ".join([*turns, "<assistant>"] if add_generation_prompt else turns)

    def _id(self, word: str) -> int:
        if word not in self._ids:
            self._ids[word] = len(self._words)
            self._words.append(word)
        return self._ids[word]


@dataclass
class WordStream:
    tokenizer: WordTokenizer
    skip_special_tokens: bool

    def push(self, token_id: int) -> str:
        return self.tokenizer.decode([token_id], self.skip_special_tokens)

    def flush(self) -> str:
        return ""


@dataclass
class MockEngine:
    """``live``: requests that run now. ``aborted``: those that were closed before their end."""

    model_name: str = "mock"
    max_model_len: int = 64
    sampling_defaults: SamplingDefaults = field(default_factory=SamplingDefaults)
    delay_s: float = 0.0
    alive: bool = True
    tokenizer: WordTokenizer = field(default_factory=WordTokenizer)
    live: set[str] = field(default_factory=set)
    seen: list[str] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    params: list[SamplingParams] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    clients: list[str] = field(default_factory=list)
    caches: list[CacheParams] = field(default_factory=list)
    finished: dict[str, int] = field(default_factory=dict)
    generated: int = 0
    hits: int = 0
    misses: int = 0
    resets: int = 0
    audit_fault: str | None = None
    closed: bool = False
    _cache: set[tuple[str | None, tuple[int, ...]]] = field(default_factory=set)

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
        self._admit(ids, params)
        self.clients.append(client)
        self.caches.append(cache or CacheParams())
        name = request_id or f"request-{len(self.seen)}"
        assert name not in self.seen, f"request id {name} was used twice"
        self.seen.append(name)
        self.live.add(name)
        done = False
        try:
            async for update in self._run(name, ids, params, self.caches[-1].salt):
                done = update.finished
                yield update
        finally:
            self.live.remove(name)
            if not done:
                self.aborted.append(name)

    def stats(self) -> EngineStats:
        cache = CacheStats(
            budget_bytes=1000,
            used_bytes=300,
            held_bytes=250,
            cached_bytes=40,
            metadata_bytes=10,
            held_pages=2,
            cached_pages=1,
            hit_tokens=self.hits,
            miss_tokens=self.misses,
            evicted_pages=0,
            misses_by_why={"new": self.misses},
        )
        return EngineStats(
            running=len(self.live),
            waiting=0,
            steps=7,
            prompt_tokens=self.hits + self.misses,
            generated_tokens=self.generated,
            computed_tokens=self.misses + self.generated,
            preemptions=0,
            finished=dict(self.finished),
            cache=cache,
        )

    async def reset_cache(self) -> None:
        self.resets += 1
        self._cache.clear()

    async def check(self) -> None:
        if self.audit_fault is not None:
            raise InternalError(self.audit_fault)

    def close(self) -> None:
        self.closed = True
        self.alive = False

    def _admit(self, ids: list[int], params: SamplingParams) -> None:
        self.params.append(params)
        self.prompts.append(ids)
        if not ids:
            raise RequestError("the prompt is empty", param="prompt")
        if len(ids) >= self.max_model_len:
            raise PromptTooLong(
                f"This model's maximum context length is {self.max_model_len} tokens. However, the prompt has "
                f"{len(ids)} tokens, and the answer needs at least one",
                hint="shorten the prompt",
                param="prompt",
            )
        if any(token >= self.tokenizer.vocab_size for token in ids):
            raise ParamsError(f"token ids must be below {self.tokenizer.vocab_size}", param="prompt")

    async def _run(
        self, name: str, ids: list[int], params: SamplingParams, salt: str | None
    ) -> AsyncGenerator[RequestUpdate, None]:
        started = time.perf_counter()
        metrics = RequestMetrics(cached_tokens=self._look_up(ids, salt), queue_s=0.0)
        limit = min(params.max_tokens or self.max_model_len, self.max_model_len - len(ids))
        answers = [_Answer(self, index, ids, params, limit) for index in range(params.n)]
        scores = None if params.prompt_logprobs is None else [None, *(self.score(one, 0) for one in ids[1:])]
        while any(answer.finish_reason is None for answer in answers):
            await asyncio.sleep(self.delay_s)
            deltas = tuple(answer.step() for answer in answers if answer.finish_reason is None)
            metrics.token_times_s.append(time.perf_counter() - started)
            metrics.ttft_s = metrics.token_times_s[0]
            self.generated += len(deltas)
            over = all(answer.finish_reason is not None for answer in answers)
            if over:
                metrics.total_s = time.perf_counter() - started
                self.finished["length"] = self.finished.get("length", 0) + 1
            yield RequestUpdate(name, ids, deltas, metrics, scores, over, self._failure(ids, metrics))

    def _failure(self, ids: list[int], metrics: RequestMetrics) -> KvloomError | None:
        """The words ``!crash`` and ``!fail`` in a prompt break its third step."""
        words = self.tokenizer.decode(ids).split()
        if len(metrics.token_times_s) < 3:
            return None
        if "!crash" in words:
            raise RuntimeError("secret detail")
        return InternalError("secret detail") if "!fail" in words else None

    def _look_up(self, ids: list[int], salt: str | None) -> int:
        """The longest prefix seen before under this salt, leaving at least one token to compute."""
        reach = range(len(ids) - 1, 0, -1)
        hit = next((length for length in reach if (salt, tuple(ids[:length])) in self._cache), 0)
        self._cache.update((salt, tuple(ids[:length])) for length in range(1, len(ids) + 1))
        self.hits += hit
        self.misses += len(ids) - hit
        return hit

    def score(self, token: int, extra: int) -> TokenLogprobs:
        """The token as second best of ``extra`` likelier and less likely neighbours."""
        found = {token: Logprob(-1.5, 2 if extra else 1, self.tokenizer.token_text(token))}
        for rank in range(1, extra + 1):
            other = (token + rank) % self.tokenizer.vocab_size
            if rank != 2 and other not in found:
                found[other] = Logprob(-float(rank), rank, self.tokenizer.token_text(other))
        return found


@dataclass
class _Answer:
    engine: MockEngine
    index: int
    prompt: list[int]
    params: SamplingParams
    limit: int
    text: str = ""
    count: int = 0
    finish_reason: FinishReason | None = None

    def step(self) -> CompletionDelta:
        token = self.prompt[(self.index + self.count) % len(self.prompt)]
        added = self.engine.tokenizer.decode([token])
        self.count += 1
        stop = next((stop for stop in self.params.stop_strings if stop in self.text + added), None)
        if stop is not None:
            added = (self.text + added)[: (self.text + added).index(stop)][len(self.text) :]
            self.finish_reason = "stop"
        elif self.count >= self.limit:
            self.finish_reason = "length"
        self.text += added
        top = self.params.logprobs
        scores = None if top is None else (self.engine.score(token, top),)
        return CompletionDelta(self.index, added, (token,), scores, self.finish_reason, stop)

"""Answers to prompts, greedily, and their cost: they go through the engine together, whatever is done to contexts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kvloom.engine.assemble import Assembly
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.layout import KvLayout
from kvloom.engine.outputs import RequestOutput
from kvloom.engine.params import SamplingParams
from kvloom.errors import EvalError, InternalError
from kvloom.eval.policy import EXACT, Policy, QueryProtocol
from kvloom.eval.prompt import Prompt
from kvloom.eval.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer and its cost.

    ttft_s: from the start of its work to the first token. ms_per_token: between later tokens, None when there is one
    only. context_bytes_per_token: bytes of the context's pages right after compression, before the question, by its
    tokens: what methods are ranked by, as it does not depend on how long the answer is. kv_bytes_per_token: bytes of
    its pages at the end, by positions covered. peak_kv_bytes: bytes held by all that ran beside it and itself, at most.
    All as the ledger counts.
    """

    text: str
    answer_tokens: int
    cached_tokens: int
    computed_tokens: int
    ttft_s: float
    ms_per_token: float | None
    context_bytes_per_token: float
    kv_bytes_per_token: float
    peak_kv_bytes: int


@dataclass(slots=True)
class _Flight:
    prompt: Prompt
    assembly: Assembly
    cache: CacheParams
    peak_bytes: int = 0


@dataclass(frozen=True, slots=True)
class EngineAnswers:
    """Prompts share the engine's steps, and those of one context its exact KV: they should come one after another.

    Answers come in any order. ``in_flight``: prompts at once at most. Query-agnostic: of a prompt its context is
    compressed; query-aware: all that comes before its last token. Raises EvalError when ``policy`` cannot do that.
    """

    subject: Subject
    in_flight: int
    policy: Policy = EXACT
    protocol: QueryProtocol = "query-agnostic"

    def __post_init__(self) -> None:
        if self.policy.compression is None and self.protocol == "query-aware":
            hint = "leave out --query-aware: what drops nothing has no use for the question"
            raise EvalError("the exact cache cannot be query-aware", hint=hint)

    def answer(self, prompts: Iterable[Prompt]) -> Iterator[tuple[Prompt, Reply]]:
        engine, waiting = self.subject.engine, iter(prompts)
        flights: dict[str, _Flight] = {}
        names = (f"eval-{n}" for n in itertools.count())
        try:
            while True:
                for prompt in itertools.islice(waiting, self.in_flight - len(flights)):
                    name = next(names)
                    params = SamplingParams(temperature=0.0, max_tokens=prompt.max_new_tokens)
                    cache = self._cache(prompt)
                    engine.submit(name, prompt.ids, params, cache=cache)
                    flights[name] = _Flight(prompt, Assembly(name, None, 1), cache)
                if not flights:
                    return
                yield from self._step(flights)
        finally:  # an error, Ctrl-C, or nobody wants the rest
            for name in flights:
                engine.abort(name)

    def _cache(self, prompt: Prompt) -> CacheParams:
        compression = self.policy.compression
        if compression is None or compression.budget is not None or self.protocol == "query-aware":
            return CacheParams(compression=compression)
        return CacheParams(compression=compression, compress_after=len(prompt.context_ids))

    def _step(self, flights: dict[str, _Flight]) -> Iterator[tuple[Prompt, Reply]]:
        engine = self.subject.engine
        updates = engine.step()
        for flight in flights.values():
            flight.peak_bytes = max(flight.peak_bytes, engine.held_bytes)
        for update in updates:
            flight = flights[update.request_id]
            output = flight.assembly.add(update)
            if output.error is not None:
                raise InternalError(f"{flight.prompt.sample.task} sample {flight.prompt.sample.index}: {output.error}")
            if output.finished:
                del flights[update.request_id]
                yield flight.prompt, _engine_reply(flight, output, engine.layout)


def _engine_reply(flight: _Flight, output: RequestOutput, layout: KvLayout) -> Reply:
    metrics, said = output.metrics, output.outputs[0]
    times, context, compressed = metrics.token_times_s, len(flight.prompt.context_ids), metrics.compressed
    if compressed is not None:
        context = compressed.tokens
    context_bytes = layout.dense_bytes(context) if compressed is None else compressed.bytes
    return Reply(
        text=said.text,
        answer_tokens=len(said.token_ids),
        cached_tokens=metrics.cached_tokens,
        computed_tokens=metrics.computed_tokens,
        ttft_s=(metrics.ttft_s or 0.0) - (metrics.queue_s or 0.0),
        ms_per_token=1000 * (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None,
        context_bytes_per_token=context_bytes / max(1, context),
        kv_bytes_per_token=metrics.kv_bytes / (flight.prompt.num_tokens + len(said.token_ids) - 1),
        peak_kv_bytes=flight.peak_bytes,
    )

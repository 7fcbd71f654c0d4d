"""Answers to prompts, greedily, and their cost. Exact ones go through the engine together, thinned-out ones alone."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from kvloom.engine.assemble import Assembly
from kvloom.engine.layout import KvLayout
from kvloom.engine.outputs import RequestOutput
from kvloom.engine.params import SamplingParams
from kvloom.errors import EvalError, InternalError
from kvloom.eval.policy import Exact, KeepPolicy, Policy, QueryProtocol
from kvloom.eval.prompt import Prompt
from kvloom.eval.single import SingleSequence
from kvloom.eval.subject import Subject
from kvloom.memory.arena import page_stride
from kvloom.memory.format import PAGE_TOKENS


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


class Answerer(Protocol):
    """Answers prompts, not necessarily in their order. Those of one context should come one after another."""

    @property
    def in_flight(self) -> int:
        """Prompts that it works on at once at most."""
        ...

    def answer(self, prompts: Iterable[Prompt]) -> Iterator[tuple[Prompt, Reply]]: ...


def answerer_of(subject: Subject, policy: Policy, protocol: QueryProtocol, in_flight: int) -> Answerer:
    """Who can run this policy; ``in_flight`` is for the exact one. Raises EvalError when nobody can."""
    if isinstance(policy, Exact):
        if protocol == "query-aware":
            hint = "leave out --query-aware: what drops nothing has no use for the question"
            raise EvalError("the exact cache cannot be query-aware", hint=hint)
        return EngineAnswers(subject, in_flight)
    if isinstance(policy, KeepPolicy):
        return KeptAnswers(subject, policy, protocol)
    raise EvalError(f"policy `{policy.name}` neither declares itself exact nor says what it keeps")


@dataclass(slots=True)
class _Flight:
    prompt: Prompt
    assembly: Assembly
    peak_bytes: int = 0


@dataclass(frozen=True, slots=True)
class EngineAnswers:
    """Prompts share the engine's steps, and those of one context its KV. ``in_flight``: prompts at once at most."""

    subject: Subject
    in_flight: int

    def answer(self, prompts: Iterable[Prompt]) -> Iterator[tuple[Prompt, Reply]]:
        engine, waiting = self.subject.engine, iter(prompts)
        flights: dict[str, _Flight] = {}
        names = (f"eval-{n}" for n in itertools.count())
        try:
            while True:
                for prompt in itertools.islice(waiting, self.in_flight - len(flights)):
                    name = next(names)
                    params = SamplingParams(temperature=0.0, max_tokens=prompt.max_new_tokens)
                    engine.submit(name, prompt.ids, params)
                    flights[name] = _Flight(prompt, Assembly(name, None, 1))
                if not flights:
                    return
                yield from self._step(flights)
        finally:  # an error, Ctrl-C, or nobody wants the rest
            for name in flights:
                engine.abort(name)

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
    times, context = metrics.token_times_s, len(flight.prompt.context_ids)
    return Reply(
        text=said.text,
        answer_tokens=len(said.token_ids),
        cached_tokens=metrics.cached_tokens,
        computed_tokens=metrics.computed_tokens,
        ttft_s=(metrics.ttft_s or 0.0) - (metrics.queue_s or 0.0),
        ms_per_token=1000 * (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None,
        context_bytes_per_token=dense_bytes(layout, context) / max(1, context),
        kv_bytes_per_token=metrics.kv_bytes / (flight.prompt.num_tokens + len(said.token_ids) - 1),
        peak_kv_bytes=flight.peak_bytes,
    )


def dense_bytes(layout: KvLayout, tokens: int) -> int:
    """What the pages of so many tokens take when nothing is compressed; a window keeps what the next token sees."""
    total = 0
    for fmt, window in zip(layout.formats, layout.windows, strict=True):
        first = 0 if window is None else max(0, tokens - window + 1) // PAGE_TOKENS
        total += (-(-tokens // PAGE_TOKENS) - first) * page_stride(fmt)
    return total


@dataclass(slots=True)
class KeptAnswers:
    """One prompt at a time, over a context thinned out by a policy.

    Query-agnostic: once per context, before its questions are looked at. Query-aware: anew for every question, which
    the policy sees as the end of the context.
    """

    subject: Subject
    policy: KeepPolicy
    protocol: QueryProtocol
    _context: tuple[list[int], SingleSequence] | None = field(default=None, init=False)

    @property
    def in_flight(self) -> int:
        return 1

    def answer(self, prompts: Iterable[Prompt]) -> Iterator[tuple[Prompt, Reply]]:
        for prompt in prompts:
            yield prompt, self._reply(prompt)

    def _reply(self, prompt: Prompt) -> Reply:
        started = time.perf_counter()
        if self.protocol == "query-aware":
            sequence = SingleSequence(self.subject.engine, prompt.num_tokens + prompt.max_new_tokens)
            cached, rest = 0, prompt.question_ids[-1:]
            self._thin_out(sequence, prompt.ids[:-1])
        else:
            sequence, cached = self._sequence(prompt)
            rest = prompt.question_ids
        context_bytes_per_token = sequence.held_bytes / sequence.length
        ids, times = self._greedy(sequence, rest, prompt.max_new_tokens)
        return Reply(
            text=self.subject.tokenizer.decode(ids),
            answer_tokens=len(ids),
            cached_tokens=cached,
            computed_tokens=prompt.num_tokens - cached + len(ids) - 1,
            ttft_s=times[0] - started,
            ms_per_token=1000 * (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None,
            context_bytes_per_token=context_bytes_per_token,
            kv_bytes_per_token=sequence.held_bytes / sequence.length,
            peak_kv_bytes=sequence.peak_bytes,
        )

    def _sequence(self, prompt: Prompt) -> tuple[SingleSequence, int]:
        """The context, ready for a question, and how many tokens of it were there already."""
        if self._context is not None and self._context[0] == prompt.context_ids:
            self._context[1].rewind()
            return self._context[1], len(prompt.context_ids)
        capacity = len(prompt.context_ids) + prompt.context_room
        sequence = SingleSequence(self.subject.engine, capacity)
        self._thin_out(sequence, prompt.context_ids)
        self._context = prompt.context_ids, sequence
        return sequence, 0

    def _thin_out(self, sequence: SingleSequence, ids: list[int]) -> None:
        sequence.append(ids)
        sequence.mark()
        sequence.retain(self.policy)

    def _greedy(self, sequence: SingleSequence, ids: list[int], count: int) -> tuple[list[int], list[float]]:
        """Tokens up to end-of-text or ``count``, and when each came."""
        made: list[int] = []
        times: list[float] = []
        ends = self.subject.tokenizer.eos_token_ids
        logits_V = sequence.append(ids)
        while True:
            token = int(logits_V.argmax())
            made.append(token)
            times.append(time.perf_counter())
            if token in ends or len(made) == count:
                return made, times
            logits_V = sequence.append([token])

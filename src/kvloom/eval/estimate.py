"""Estimates how long a run will take: a few seconds of measurement on the real engine, then arithmetic."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvloom.engine.params import SamplingParams
from kvloom.errors import ConfigError
from kvloom.eval.prompt import prompts_of
from kvloom.eval.records import RunStore
from kvloom.eval.run import Work
from kvloom.eval.subject import Subject

_NEW_TOKENS = 8
_SHORT = 128


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds per token, linear in the position: ``(at 0, growth per position)``; ``answer``: of the whole batch."""

    prefill: tuple[float, float]
    answer: tuple[float, float]

    def seconds(self, prompt_tokens: int, computed_from: int, new_tokens: int) -> float:
        """One prompt whose first ``computed_from`` tokens are cached, and its share of the batch's answers."""
        at_0, growth = self.prefill
        count = prompt_tokens - computed_from
        prefill = count * at_0 + growth * count * (prompt_tokens + computed_from) / 2
        return prefill + new_tokens * (self.answer[0] + self.answer[1] * prompt_tokens)


@dataclass(frozen=True, slots=True)
class Estimate:
    """From answers of one token each (``least_s``) to answers of maximum length (``most_s``)."""

    least_s: float
    most_s: float
    prompts: int
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True, slots=True)
class _Kind:
    """``count`` equal prompts. ``cached``: tokens of each that an earlier turn has computed."""

    count: float
    prompt_tokens: int
    cached: int
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Pending:
    """Prompts without an answer."""

    kinds: tuple[_Kind, ...]

    @property
    def prompts(self) -> int:
        return round(sum(kind.count for kind in self.kinds))

    def at(self, speed: Speed) -> Estimate:
        """How long they take."""
        costs = [(kind.count, kind.prompt_tokens, kind.cached) for kind in self.kinds]
        longest = [kind.max_new_tokens for kind in self.kinds]
        return Estimate(
            least_s=sum(count * speed.seconds(tokens, cached, 1) for count, tokens, cached in costs),
            most_s=sum(
                n * speed.seconds(tokens, cached, new) for (n, tokens, cached), new in zip(costs, longest, strict=True)
            ),
            prompts=self.prompts,
            prompt_tokens=round(sum(count * tokens for count, tokens, _ in costs)),
            new_tokens=round(sum(kind.count * kind.max_new_tokens for kind in self.kinds)),
        )


def calibrate(subject: Subject, longest: int, in_flight: int) -> Speed:
    """Measure one prompt of ``longest`` tokens, a batch of answers after a short one, and one answer after either.

    Prompts of a run usually share nothing, so a batch reads the KV of each: a position costs a batched answer's token
    as much as a lone one's.
    """
    engine = subject.engine
    room = engine.max_len - _NEW_TOKENS
    rng = random.Random(0)
    tokens = [rng.randrange(engine.model.vocab_size) for _ in range(max(2, min(longest, room)))]
    engine.reset_cache()
    prefill = _prefill_line(subject, tokens)
    short = tokens[: max(1, min(_SHORT, len(tokens) // 2))]
    together = _answer_seconds(subject, short, in_flight)
    near, far = (_answer_seconds(subject, part, 1) for part in (short, tokens))
    growth = max(0.0, (far - near) / (len(tokens) - len(short)))
    engine.reset_cache()
    return Speed(prefill, (max(0.0, together - growth * len(short)), growth))


def estimate(work: Work, subject: Subject, speed: Speed, store: RunStore | None = None) -> Estimate:
    """How long the rest of a run takes; answers in the store take no time."""
    return pending(work, subject, store).at(speed)


def pending(work: Work, subject: Subject, store: RunStore | None = None, cached: bool = False) -> Pending:
    """What is left of a run, judged by the first sample of every cell. ``cached``: all contexts are, from the start."""
    kinds = []
    for cell in work.cells():
        try:
            first = work.first_sample(cell, subject)
        except ConfigError:  # it will be skipped
            continue
        if first is None:
            continue
        done = 0 if store is None else sum(key[:2] == (first.task, first.length) for key in store.rows)
        turns = prompts_of(cell.task, first, subject, work.frame)
        left = max(0.0, cell.count - done / len(turns))
        for prompt in turns:
            known = len(prompt.context_ids) if cached or prompt.turn else 0
            kinds.append(_Kind(left, prompt.num_tokens, known, prompt.max_new_tokens))
    return Pending(tuple(kinds))


def _prefill_line(subject: Subject, tokens: Sequence[int]) -> tuple[float, float]:
    """Seconds per token by position, fitted to the steps of one long prompt."""
    engine = subject.engine
    engine.submit("calibrate", list(tokens), SamplingParams(temperature=0.0, max_tokens=1))
    middles, costs, done = [], [], 0
    while engine.has_work:
        before = engine.commit.computed_tokens
        started = time.perf_counter()
        engine.step()
        rows = engine.commit.computed_tokens - before
        if rows:
            middles.append(done + rows / 2)
            costs.append((time.perf_counter() - started) / rows)
            done += rows
    if len(costs) < 2:
        return costs[0], 0.0
    growth, at_0 = np.polyfit(middles, costs, 1)
    return (float(at_0), float(growth)) if growth > 0 and at_0 > 0 else (float(np.mean(costs)), 0.0)


def _answer_seconds(subject: Subject, tokens: Sequence[int], in_flight: int) -> float:
    """Seconds per new token when that many prompts on one cached context are answered together."""
    engine = subject.engine
    params = SamplingParams(temperature=0.0, max_tokens=_NEW_TOKENS, ignore_eos=True)
    engine.submit("warm", list(tokens), SamplingParams(temperature=0.0, max_tokens=1))
    while engine.has_work:
        engine.step()
    for n in range(in_flight):
        engine.submit(f"calibrate-{n}", [*tokens], params)
    engine.step()  # the first tokens
    started, before = time.perf_counter(), engine.commit.generated_tokens
    while engine.has_work:
        engine.step()
    return (time.perf_counter() - started) / max(1, engine.commit.generated_tokens - before)

"""How long a study of compression takes, by a trial of the model on this machine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench.side_by_side import IN_FLIGHT, SEED, SideBySide, name_of
from bench.study import MethodAtRatio, Study, seen_by, turns_of
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.engine import Engine
from kvloom.engine.params import SamplingParams
from kvloom.eval.estimate import Speed, calibrate, pending
from kvloom.eval.policy import Policy
from kvloom.eval.prompt import Prompt
from kvloom.eval.records import read_rows
from kvloom.eval.run import Benchmark
from kvloom.policy.compression import Compression


@dataclass(frozen=True, slots=True)
class Expected:
    """Seconds, from answers of one token each to answers of maximum length; and how many answers."""

    least_s: float = 0.0
    most_s: float = 0.0
    answers: int = 0

    def __add__(self, other: Expected) -> Expected:
        return Expected(self.least_s + other.least_s, self.most_s + other.most_s, self.answers + other.answers)

    def __str__(self) -> str:
        return f"{self.answers:,} answers to go: {self.least_s / 3600:.2f} to {self.most_s / 3600:.2f} hours"


@dataclass(frozen=True, slots=True)
class _Trial:
    """Seconds for a context: of each method's answer of one token, and of the pass in which all see what they need."""

    first_s: dict[str, float]
    seeing_s: float


def expected(study: Study, policies: Sequence[MethodAtRatio]) -> Expected:
    """How long the rest of a study takes, texts apart."""
    plan = study.plan
    speed = calibrate(study.subject, max(plan.lengths), IN_FLIGHT)
    there = {name_of(policy): _rows_there(study.beside, policy) for *_, policy in policies}
    total = Expected()
    for length in plan.lengths:
        trial = _tried(study, policies, plan.tasks[0], length)
        for task in plan.tasks:
            total += _cell(study, policies, task, length, speed, trial, there)
    return total


def _cell(
    study: Study,
    policies: Sequence[MethodAtRatio],
    task: Benchmark,
    length: int,
    speed: Speed,
    trial: _Trial,
    there: dict[str, Counter[tuple[str, int]]],
) -> Expected:
    work = study.beside.work(task, length, 1, SEED)
    turns = next(turns_of(work, study.subject), [])
    if not turns:
        return Expected()
    cached, fresh = (pending(work, study.subject, cached=known).at(speed) for known in (True, False))
    total, contexts = Expected(), 0.0
    for method, _, policy in policies:
        samples = max(0.0, study.plan.samples - there[name_of(policy)][task.name, length] / len(turns))
        least_s = trial.first_s[method] * len(turns)
        most_s = least_s + cached.most_s - cached.least_s
        total += Expected(samples * least_s, samples * most_s, round(samples * len(turns)))
        contexts = max(contexts, samples)
    exact = 2 * fresh.least_s, 2 * fresh.most_s  # on the samples, and on others that choose the tasks
    return total + Expected(*(contexts * (trial.seeing_s + each_s) for each_s in exact))


def _tried(study: Study, policies: Sequence[MethodAtRatio], task: Benchmark, length: int) -> _Trial:
    subject = study.subject
    prompt = next(turns_of(study.beside.work(task, length, 1, SEED), subject))[0]
    by_method = {method: policy.compression for method, _, policy in policies if policy.compression is not None}
    started = time.perf_counter()
    seen = seen_by(subject, list(by_method.values()), prompt.context_ids)
    seeing_s = time.perf_counter() - started
    _first_token_s(subject.engine, prompt, None)  # its context is cached from then on
    subject.engine.intake.seen |= seen
    try:
        first_s = {name: _first_token_s(subject.engine, prompt, each) for name, each in by_method.items()}
    finally:
        subject.engine.intake.seen.clear()
        subject.engine.reset_cache()
    return _Trial(first_s, seeing_s)


def _first_token_s(engine: Engine, prompt: Prompt, compression: Compression | None) -> float:
    after = None if compression is None else len(prompt.context_ids)
    cache = CacheParams(compression=compression, compress_after=after)
    started = time.perf_counter()
    engine.submit("trial", prompt.ids, SamplingParams(temperature=0.0, max_tokens=1), cache=cache)
    while engine.has_work:
        engine.step()
    return time.perf_counter() - started


def _rows_there(beside: SideBySide, policy: Policy) -> Counter[tuple[str, int]]:
    """By task and length."""
    directory = beside.directory(policy, SEED)
    rows = read_rows(directory) if directory.exists() else []
    return Counter((row.task, row.length) for row in rows)

"""Many methods answer the same prompts, one after another on the same cached contexts; answers are kept by method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.drive import load
from kvloom.eval.answering import EngineAnswers
from kvloom.eval.frame import frame_of
from kvloom.eval.policy import Policy
from kvloom.eval.records import Row, RunStore, Settings, read_rows
from kvloom.eval.run import Benchmark, Work, run, settings_of
from kvloom.eval.subject import Subject
from kvloom.eval.task import Sample, TextLength

SEED, JUDGE_SEED = 0, 1
"""Of the samples that methods are measured on, and of others, on which exact answers choose the tasks that count."""

IN_FLIGHT = 8
BATCH = 4
"""Samples of a cell whose contexts stay in the cache while one method after another answers."""

KV_BYTES = "768MiB"


@dataclass(frozen=True, slots=True)
class SideBySide:
    """A model's answers below ``place``, a directory for each method and seed."""

    subject: Subject
    place: Path

    def run(self, policy: Policy, seed: int, work: Work) -> None:
        """Answer what is not there yet."""
        with self.store(policy, seed) as store:
            run(work, self.subject, EngineAnswers(self.subject, IN_FLIGHT, policy), store)

    def work(self, task: Benchmark, length: int, count: int, seed: int) -> Work:
        return Work(tasks=(task,), lengths=(length,), count=count, seed=seed, frame=frame_of(self.subject))

    def store(self, policy: Policy, seed: int) -> RunStore:
        return RunStore(self.directory(policy, seed), self.settings(policy, seed))

    def settings(self, policy: Policy, seed: int) -> Settings:
        return settings_of(self.subject, policy, seed=seed, in_flight=IN_FLIGHT, frame=frame_of(self.subject))

    def rows(
        self, policy: Policy, seed: int, tasks: Sequence[Benchmark], lengths: Sequence[int], samples: int
    ) -> list[Row]:
        """Those of these samples."""
        wanted = {task.name for task in tasks}
        rows = [row for row in read_rows(self.directory(policy, seed)) if row.task in wanted]
        return [row for row in rows if row.length in lengths and row.index < samples]

    def directory(self, policy: Policy, seed: int) -> Path:
        return self.place / name_of(policy) / f"answers-{seed}"


@dataclass(frozen=True, slots=True)
class Once:
    """A task whose samples are made once, ``most`` of them, however many methods answer them."""

    task: Benchmark
    most: int
    _made: dict[tuple[int, int], list[Sample]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def group(self) -> str:
        return self.task.group

    def score(self, sample: Sample, turn: int, output: str) -> float:
        return self.task.score(sample, turn, output)

    def samples(self, *, length: int, count: int, seed: int, text_length: TextLength) -> Iterator[Sample]:
        key = length, seed
        if key not in self._made or len(self._made[key]) < count:
            most = max(count, self.most)
            made = self.task.samples(length=length, count=most, seed=seed, text_length=text_length)
            self._made[key] = list(made)
        return iter(self._made[key][:count])


def name_of(policy: Policy) -> str:
    return "-".join([policy.name, *(f"{key}={value}" for key, value in policy.params.items())])


def subject_named(model: str) -> Subject:
    engines = load(model)
    return Subject(engines.loaded.manifest.name, engines.loaded.tokenizer, engines.make(KV_BYTES))


def steps(samples: int) -> list[int]:
    """How many samples are there after each batch.

    >>> steps(10)
    [4, 8, 10]
    """
    return [*range(BATCH, samples, BATCH), samples]

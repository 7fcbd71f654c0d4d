"""Run benchmarks: samples become prompts, prompts answers, answers scored rows on disk."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Protocol

import numpy as np

from kvloom.config import default_threads
from kvloom.errors import ConfigError, EvalError
from kvloom.eval.answering import EngineAnswers, Reply
from kvloom.eval.frame import Frame
from kvloom.eval.identity import policy_digest
from kvloom.eval.policy import Policy, QueryProtocol
from kvloom.eval.prompt import Judged, Prompt, prompts_of
from kvloom.eval.records import Row, RunStore, Settings
from kvloom.eval.subject import Subject
from kvloom.eval.task import Sample, TextLength, document_id
from kvloom.eval.tasks.material import EDITION, OWN, Material


class Benchmark(Judged, Protocol):
    """What a run needs of a task: its samples, and how to score them."""

    def samples(self, *, length: int, count: int, seed: int, text_length: TextLength) -> Iterator[Sample]: ...


class Watch(Protocol):
    """Is told how far a run is."""

    def answered(self, prompt: Prompt, row: Row) -> None: ...
    def skipped(self, cell: Cell, why: str) -> None:
        """The task cannot be made at this length."""
        ...


class Unwatched:
    """A watch that looks away."""

    def answered(self, prompt: Prompt, row: Row) -> None: ...
    def skipped(self, cell: Cell, why: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Cell:
    """``count`` samples of one task at one length."""

    task: Benchmark
    length: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What to run: every task at every length, in a chat if there is a ``frame``."""

    tasks: Sequence[Benchmark]
    lengths: Sequence[int]
    count: int
    seed: int
    frame: Frame | None = None

    def __post_init__(self) -> None:
        if not self.tasks or not self.lengths or self.count < 1:
            raise EvalError("there is nothing to run: name tasks, lengths and at least one sample")

    def samples(self, cell: Cell, subject: Subject) -> Iterator[Sample]:
        """Samples of a cell, which leave room for the frame."""
        around = 0 if self.frame is None else self.frame.num_tokens(subject)
        made = cell.task.samples(
            length=cell.length - around, count=cell.count, seed=self.seed, text_length=subject.text_length
        )
        return (dataclasses.replace(sample, length=cell.length) for sample in made)

    def first_sample(self, cell: Cell, subject: Subject) -> Sample | None:
        """What a cell looks like; None when there is nothing, as in an empty file."""
        return next(self.samples(dataclasses.replace(cell, count=1), subject), None)

    def cells(self) -> Iterator[Cell]:
        """Short lengths first: what goes wrong shows early."""
        for length in self.lengths:
            for task in self.tasks:
                yield Cell(task, length, self.count)


def settings_of(
    subject: Subject,
    policy: Policy,
    *,
    seed: int,
    protocol: QueryProtocol = "query-agnostic",
    in_flight: int = 8,
    data: Mapping[str, str] | None = None,
    frame: Frame | None = None,
    material: Material = OWN,
) -> Settings:
    """The settings that rows of such a run carry."""
    engine = subject.engine
    return Settings(
        model=subject.name,
        weights_id=engine.model.weights_id,
        kv_dtype=engine.config.cache.kv_dtype,
        activations=engine.config.activations,
        policy=policy.name,
        params=dict(policy.params),
        protocol=protocol,
        seed=seed,
        in_flight=in_flight,
        threads=engine.config.threads or default_threads(),
        versions={"kvloom": version("kvloom"), "numpy": np.__version__, "tasks": str(EDITION)},
        data=dict(data or {}),
        code=policy_digest(policy),
        chat="" if frame is None else frame.digest,
        wording=material.wording,
        haystack="text" if data and "text" in data else material.haystack,
    )


def run(work: Work, subject: Subject, answerer: EngineAnswers, store: RunStore, watch: Watch | None = None) -> None:
    """Answer and score whatever is not in the store yet.

    Nothing that is in the store is computed again. A task that cannot be made at a length is skipped. Raises EvalError
    when a length or a sample does not fit the model; what was answered before stays.
    """
    check_lengths(work.lengths, subject)
    recorder, told = _Recorder(store), watch or Unwatched()
    for prompt, reply in answerer.answer(_missing(work, subject, store, told)):
        told.answered(prompt, recorder.record(prompt, reply))


def check_lengths(lengths: Sequence[int], subject: Subject) -> None:
    """Raises EvalError when a length is beyond the model."""
    limit = subject.engine.max_len
    beyond = [length for length in lengths if length > limit]
    if beyond:
        raise EvalError(
            f"lengths {', '.join(map(str, beyond))} are beyond `{subject.name}`, which holds {limit} tokens",
            hint=f"choose lengths up to {limit}, or raise kv_bytes or max_model_len if the model allows",
        )


def _missing(work: Work, subject: Subject, store: RunStore, watch: Watch) -> Iterator[Prompt]:
    """Prompts without a row, lazily; samples of one context stand together, so that its KV is found."""
    for cell in work.cells():
        by_context: dict[str, list[Sample]] = {}
        try:
            for sample in work.samples(cell, subject):
                by_context.setdefault(sample.context, []).append(sample)
        except ConfigError as error:
            watch.skipped(cell, str(error))
            continue
        for sample in itertools.chain.from_iterable(by_context.values()):
            turns = [turn for turn in range(len(sample.turns)) if _key(sample, turn) not in store]
            if turns:
                prompts = prompts_of(cell.task, sample, subject, work.frame)
                yield from (prompts[turn] for turn in turns)


def _key(sample: Sample, turn: int) -> tuple[str, int, int, int]:
    return sample.task, sample.length, sample.index, turn


@dataclass(slots=True)
class _Recorder:
    """Scores replies. Keeps the last output of each (task, length) to score it against the next sample: the control."""

    store: RunStore
    _last: dict[tuple[str, int], Row] = field(init=False)

    def __post_init__(self) -> None:
        self._last = {(row.task, row.length): row for row in self.store.rows.values()}

    def record(self, prompt: Prompt, reply: Reply) -> Row:
        sample, task = prompt.sample, prompt.task
        cell = sample.task, sample.length
        last = self._last.get(cell)
        other = last is not None and last.answers != sample.turns[prompt.turn].answers
        row = Row(
            settings=self.store.settings,
            task=sample.task,
            group=task.group,
            length=sample.length,
            index=sample.index,
            turn=prompt.turn,
            score=task.score(sample, prompt.turn, reply.text),
            control=task.score(sample, prompt.turn, last.output) if last is not None and other else None,
            output=reply.text,
            answers=sample.turns[prompt.turn].answers,
            depth=_depth(sample),
            prompt_tokens=prompt.num_tokens,
            document=sample.document or document_id(sample.context),
            **{name: value for name, value in dataclasses.asdict(reply).items() if name != "text"},
        )
        self.store.append(row)
        self._last[cell] = row
        return row


def _depth(sample: Sample) -> float | None:
    depth = sample.facts.get("depth")
    return float(depth) if isinstance(depth, int | float) else None

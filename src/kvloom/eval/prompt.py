"""From a sample to token ids: first the context, so that its KV can be compressed and shared, then a question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from kvloom.errors import EvalError
from kvloom.eval.frame import Frame
from kvloom.eval.subject import Subject
from kvloom.eval.task import Sample


class Judged(Protocol):
    """What the runner needs of a task besides its samples."""

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...
    def score(self, sample: Sample, turn: int, output: str) -> float: ...


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """One turn of a sample, in tokens: ``context_ids`` are those of all turns, ``question_ids`` this turn's own.

    Turns do not see each other: each asks the context alone, so that one wrong answer does not spoil the next.
    """

    task: Judged
    sample: Sample
    turn: int
    context_ids: list[int]
    question_ids: list[int]

    @property
    def max_new_tokens(self) -> int:
        return self.sample.turns[self.turn].max_new_tokens

    @property
    def num_tokens(self) -> int:
        return len(self.context_ids) + len(self.question_ids)

    @property
    def ids(self) -> list[int]:
        return self.context_ids + self.question_ids


def prompts_of(task: Judged, sample: Sample, subject: Subject, frame: Frame | None = None) -> list[Prompt]:
    """All turns of a sample, in a chat if there is a frame. Raises EvalError when one does not fit the model."""
    context_ids, questions = (
        _plain(sample, subject) if frame is None or not sample.chat else _chat(sample, subject, frame)
    )
    if not all(questions):
        raise EvalError(f"{sample.task} sample {sample.index} has no question")
    room = max(len(ids) + turn.max_new_tokens for ids, turn in zip(questions, sample.turns, strict=True))
    if len(context_ids) + room > subject.engine.max_len:
        raise EvalError(
            f"{sample.task} sample {sample.index} needs {len(context_ids) + room} tokens with its answer; "
            f"`{subject.name}` holds {subject.engine.max_len}",
            hint="choose shorter lengths, or raise kv_bytes or max_model_len if the model allows",
        )
    return [Prompt(task, sample, turn, context_ids, ids) for turn, ids in enumerate(questions)]


def _plain(sample: Sample, subject: Subject) -> tuple[list[int], list[list[int]]]:
    """(tokens of the context, of every question): plain texts, with the model's start token prepended."""
    encode = subject.tokenizer.encode
    asked = (turn.question + sample.answer_begins(n) for n, turn in enumerate(sample.turns))
    return encode(sample.context), [encode(text, add_special_tokens=False) for text in asked]


def _chat(sample: Sample, subject: Subject, frame: Frame) -> tuple[list[int], list[list[int]]]:
    """The context after the header; after a question the footer, and then the given beginning of the answer."""

    def encode(text: str) -> list[int]:
        return subject.tokenizer.encode(text, add_special_tokens=False)  # the template writes them

    asked = (turn.question.rstrip() + frame.footer + sample.answer_begins(n) for n, turn in enumerate(sample.turns))
    return encode(frame.header + sample.context), [encode(text) for text in asked]

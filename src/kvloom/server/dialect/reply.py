"""From engine updates to response documents: whole, or chunk by chunk.

Plain dicts on purpose: these run for every token, and a validated model per token would cost more than the
token's share of a step.
"""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from kvloom.engine.outputs import CompletionDelta, FinishReason, RequestUpdate, TokenLogprobs
from kvloom.server.dialect.fields import Json
from kvloom.server.dialect.told import told
from kvloom.server.job import Job
from kvloom.server.pieces import TokenCount


@dataclass(slots=True)
class Answer:
    """One choice so far."""

    prompt: int
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None

    def take(self, delta: CompletionDelta) -> None:
        self.texts.append(delta.text)
        self.token_ids.extend(delta.token_ids)
        self.logprobs.extend(delta.logprobs or ())
        self.finish_reason = delta.finish_reason
        self.stop_reason = delta.stop_reason


class Reply(ABC):
    """Accumulates the updates of one job. One per request; call either ``add`` or ``chunks``, not both."""

    prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, model: str, job: Job) -> None:
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = model
        self.job = job
        self._answers: dict[int, Answer] = {}
        self._latest: dict[int, RequestUpdate] = {}
        self._prompt_logprobs: dict[int, list[TokenLogprobs | None]] = {}
        self._generated = 0
        self._reasoning: dict[int, TokenCount] = {}
        self._unsent: dict[int, list[int]] = {}  # token ids whose text is held back, by choice

    def add(self, prompt: int, update: RequestUpdate) -> None:
        """Add an update for ``whole``."""
        for index, delta in self._note(prompt, update):
            self._answers.setdefault(index, Answer(prompt)).take(delta)

    def whole(self) -> Json:
        choices = [self._with_ids(index, answer) for index, answer in sorted(self._answers.items())]
        return self.head(self.whole_object) | {"choices": choices, "usage": self.usage()}

    def chunks(self, prompt: int, update: RequestUpdate) -> list[Json]:
        """The choices to stream for an update, one chunk each."""
        noted = self._note(prompt, update)
        if self.job.show_token_ids:
            return [chunk for index, delta in noted for chunk in self._delta_with_ids(index, prompt, delta)]
        return [chunk for index, delta in noted for chunk in self.delta(index, prompt, delta)]

    def opening(self) -> Json:
        """Additional fields of a stream's first chunk."""
        return {}

    def prompt_ids(self, prompt: int) -> Json:
        return {"prompt_token_ids": self.job.prompts[prompt].token_ids}

    def head(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def usage(self) -> Json:
        prompt_tokens = sum(len(update.prompt_token_ids) for update in self._latest.values())
        cached = sum(update.metrics.cached_tokens for update in self._latest.values())
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self._generated,
            "total_tokens": prompt_tokens + self._generated,
            "prompt_tokens_details": {"cached_tokens": cached},
            **self._details(),
            **told((prompt, len(it.prompt_token_ids), it.metrics) for prompt, it in sorted(self._latest.items())),
        }

    def _count(self, index: int, delta: CompletionDelta) -> None:
        """Tokens of reasoning, where it is told apart."""
        if self.job.new_tokens is None:
            return
        if index not in self._reasoning:
            self._reasoning[index] = self.job.new_tokens()
        self._reasoning[index].take(delta.token_ids)

    def _details(self) -> Json:
        if self.job.new_tokens is None:
            return {}
        count = sum(tokens.value for tokens in self._reasoning.values())
        return {"completion_tokens_details": {"reasoning_tokens": count}}

    @abstractmethod
    def choice(self, index: int, answer: Answer) -> Json:
        """One choice of the whole document."""

    @abstractmethod
    def delta(self, index: int, prompt: int, delta: CompletionDelta) -> list[Json]:
        """The choices, usually one, that stream ``delta``."""

    def _with_ids(self, index: int, answer: Answer) -> Json:
        choice = self.choice(index, answer)
        return choice | {"token_ids": answer.token_ids} if self.job.show_token_ids else choice

    def _delta_with_ids(self, index: int, prompt: int, delta: CompletionDelta) -> list[Json]:
        """Ids are sent with the text that they are part of; the last chunk of an answer is never empty."""
        unsent = self._unsent.setdefault(index, [])
        unsent.extend(delta.token_ids)
        chunks = self.delta(index, prompt, delta)
        if chunks:
            chunks[-1]["token_ids"] = self._unsent.pop(index)
        return chunks

    def _note(self, prompt: int, update: RequestUpdate) -> list[tuple[int, CompletionDelta]]:
        self._latest[prompt] = update
        if update.prompt_logprobs is not None:
            self._prompt_logprobs[prompt] = update.prompt_logprobs
        first, noted = prompt * self.job.params.n, []
        for delta in update.deltas:
            self._generated += len(delta.token_ids)
            self._count(first + delta.index, delta)
            noted.append((first + delta.index, delta))
        return noted

"""How a dialect writes an answer's pieces: whole, or as events that together say the same.

    update of the engine  ->  PieceReader  ->  pieces  ->  Writer  ->  events  ->  frames

A dialect with one prompt and one answer is a parser into a ``Job`` and a ``Writer``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from pydantic_core import to_json

from kvloom.engine.outputs import CompletionDelta, FinishReason, RequestMetrics, RequestUpdate
from kvloom.server.dialect.fields import Json
from kvloom.server.dialect.told import told
from kvloom.server.errors import ErrorReply
from kvloom.server.job import Job
from kvloom.server.pieces import Piece, PieceReader, TokenCount
from kvloom.server.updates import Updates


@dataclass(frozen=True, slots=True)
class Finish:
    """``stop``: the stop string or token that ended the answer, None for end-of-text. ``calls``: tool calls in it."""

    reason: FinishReason
    stop: str | int | None
    calls: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens so far: of the prompt, and generated, ``reasoning`` among these. ``metrics`` are the engine's."""

    prompt: int
    generated: int
    metrics: RequestMetrics
    reasoning: int = 0

    @property
    def cached(self) -> int:
        """Prompt tokens whose KV was reused, exactly as it was."""
        return self.metrics.cached_tokens

    @property
    def told(self) -> Json:
        """What no API has a field for."""
        return told([(0, self.prompt, self.metrics)])


@dataclass(slots=True)
class Answer:
    """What reads one answer. ``tokens``: None where reasoning is not told apart."""

    reader: PieceReader
    tokens: TokenCount | None
    generated: int = 0

    @classmethod
    def of(cls, job: Job) -> Answer:
        return cls(job.new_reader(), None if job.new_tokens is None else job.new_tokens())

    def take(self, delta: CompletionDelta) -> list[Piece]:
        self.generated += len(delta.token_ids)
        if self.tokens is not None:
            self.tokens.take(delta.token_ids)
        return self.reader.push(delta.text)

    def usage(self, update: RequestUpdate) -> Usage:
        reasoning = 0 if self.tokens is None else self.tokens.value
        return Usage(len(update.prompt_token_ids), self.generated, update.metrics, reasoning)


class Writer(Protocol):
    """Writes one answer. Events are documents with a ``type``. One per request."""

    def begin(self, usage: Usage) -> Iterable[Json]:
        """What goes out before the first piece, when the engine has begun."""
        ...

    def piece(self, piece: Piece) -> Iterable[Json]: ...
    def end(self, finish: Finish, usage: Usage) -> Iterable[Json]:
        """What goes out after the last piece."""
        ...

    def failed(self, reply: ErrorReply) -> Iterable[Json]:
        """The last events of an answer that cannot be completed. It may not have begun."""
        ...

    def whole(self) -> Json:
        """The document that all events together stand for, after ``end``."""
        ...


async def whole(writer: Writer, answer: Answer, updates: Updates) -> Json:
    """The answer of a job with one prompt."""
    async with aclosing(_events(writer, answer, updates)) as parts:
        async for _ in parts:
            pass
    return writer.whole()


async def frames(writer: Writer, answer: Answer, updates: Updates) -> AsyncGenerator[bytes, None]:
    """The same as an event stream, one frame per update."""
    async with aclosing(_events(writer, answer, updates)) as parts:
        async for events in parts:
            yield to_frames(events)


def to_frames(events: Iterable[Json]) -> bytes:
    """Server-sent events, named by their types."""
    return b"".join(b"event: " + event["type"].encode() + b"\ndata: " + to_json(event) + b"\n\n" for event in events)


async def _events(writer: Writer, answer: Answer, updates: Updates) -> AsyncGenerator[list[Json], None]:
    begun = False
    async with aclosing(updates) as pairs:
        async for _, update in pairs:
            events: list[Json] = []
            if not begun:
                events += writer.begin(answer.usage(update))
                begun = True
            for delta in update.deltas:
                events += _written(writer, answer.take(delta))
                if delta.finish_reason is not None:
                    events += _written(writer, answer.reader.finish())
                    finish = Finish(delta.finish_reason, delta.stop_reason, answer.reader.calls)
                    events += writer.end(finish, answer.usage(update))
            yield events


def _written(writer: Writer, pieces: Sequence[Piece]) -> list[Json]:
    return [event for piece in pieces for event in writer.piece(piece)]

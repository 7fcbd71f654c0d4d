"""Computing passages beside serving: as requests of a client of their own, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol, TypeVar

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.chunks.computing import Added, Progress, computed_alone, request_kind
from kvloom.engine.chunks.passage import Given, Passage, PassageTokenizer, passage_of
from kvloom.engine.chunks.stored import StoredChunk, chunks_in_ram, find
from kvloom.engine.driving import NO_ANSWER
from kvloom.engine.engine import Engine
from kvloom.engine.outputs import RequestUpdate
from kvloom.engine.params import SamplingParams
from kvloom.errors import KvloomError

_CLIENT = "chunks"
_AT_ONCE = 4
"""Passages on their way at a time: clients take turns, and what streams meanwhile is spared by the prefill budget."""

T = TypeVar("T")
Enough = Callable[[StoredChunk], bool]


class Serving(Protocol):
    """What is needed of an engine that serves."""

    @property
    def engine(self) -> Engine: ...

    def stream(
        self,
        prompt: list[int],
        params: SamplingParams,
        request_id: str | None = None,
        *,
        client: str = "",
        cache: CacheParams | None = None,
    ) -> AsyncGenerator[RequestUpdate, None]: ...

    def ask(self, question: Callable[[Engine], T]) -> Awaitable[T]:
        """Answer on the engine's thread, between two steps."""
        ...

    def in_background(self, work: Callable[[], T]) -> Awaitable[T]:
        """Do something that takes its time elsewhere than on the event loop."""
        ...


@dataclass(frozen=True, slots=True)
class AsyncChunks:
    """The chunk store of an engine that serves; see ``Chunks``."""

    serving: Serving
    tokenizer: PassageTokenizer

    async def add(
        self, passages: Sequence[Given], *, salt: str | None = None, progress: Progress | None = None
    ) -> list[Added]:
        """As ``Chunks.add``; ``progress`` is called on the event loop. Cancelling it leaves what is there."""
        return await self._computed(passages, salt, progress, lambda found: found.kept)

    async def bring(
        self, passages: Sequence[Given], *, salt: str | None = None, progress: Progress | None = None
    ) -> list[Added]:
        """As ``Chunks.bring``."""
        return await self._computed(passages, salt, progress, lambda found: found.in_ram)

    async def find(self, passage: Given, *, salt: str | None = None) -> StoredChunk | None:
        """Where the KV of a passage is; None: nowhere. Raises RequestError."""
        known = await self._passage(passage)
        return await self.serving.ask(lambda engine: find(engine, known, salt))

    async def ls(self, *, salt: str | None = None) -> list[StoredChunk]:
        """What is in RAM."""
        lead = len(self.tokenizer.lead)
        return await self.serving.ask(lambda engine: chunks_in_ram(engine, salt, lead))

    # -- inside ----------------------------------------------------------------------------------------------------

    async def _computed(
        self, passages: Sequence[Given], salt: str | None, progress: Progress | None, enough: Enough
    ) -> list[Added]:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(number: int, given: Given) -> Added | KvloomError:
            async with gate:
                try:
                    added = await self._add(number, given, salt, enough)
                except KvloomError as error:
                    return error
            if progress is not None:
                progress(added)
            return added

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(number, given)) for number, given in enumerate(passages)]
        results = [task.result() for task in tasks]
        added = [each for each in results if isinstance(each, Added)]
        for each in results:
            if isinstance(each, KvloomError):
                raise each
        return added

    async def _passage(self, given: Given) -> Passage:
        limit = self.serving.engine.max_len
        return await self.serving.in_background(lambda: passage_of(given, self.tokenizer, limit))

    async def _add(self, number: int, given: Given, salt: str | None, enough: Enough) -> Added:
        passage = await self._passage(given)
        tokens = list(passage.tokens)
        found = await self.serving.ask(lambda engine: find(engine, passage, salt))
        if found is not None and enough(found):
            return Added(number, len(tokens), 0)
        computed = 0
        async with aclosing(
            self.serving.stream(tokens, NO_ANSWER, client=_CLIENT, cache=computed_alone(salt, request_kind(found)))
        ) as updates:
            async for update in updates:
                if update.error is not None:
                    raise update.error
                computed = update.metrics.computed_tokens
        return Added(number, len(tokens), computed)

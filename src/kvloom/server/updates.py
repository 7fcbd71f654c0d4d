"""Running a job: one engine request per prompt, with updates merged as they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.outputs import RequestUpdate
from kvloom.engine.params import SamplingParams
from kvloom.server.admin.record import Ends, Record
from kvloom.server.admin.tracing import Asked, Operation
from kvloom.server.edge.caller import Caller
from kvloom.server.engine_protocol import ServedEngine
from kvloom.server.errors import RequestAborted
from kvloom.server.fallback import Stream, or_else
from kvloom.server.job import Job, blamed
from kvloom.server.waiting import Waiting

Updates = AsyncGenerator[tuple[int, RequestUpdate], None]

_AT_ONCE = 16
"""Prompts of one body that are validated, or handed over, before others have the event loop again."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """A prompt's updates have ended; ``error`` is the reason, unless the answer is complete."""

    error: BaseException | None


async def run_job(
    engine: ServedEngine, record: Record, waiting: Waiting, job: Job, reply_id: str, caller: Caller
) -> Updates:
    """Yield (prompt index, update). Closing this generator aborts all requests still running.

    Raises RequestError before the first update if any prompt is invalid, QueueFull if there is no place for them in
    ``waiting``, RequestAborted or the engine's error later.
    """
    cache = caller.own(job.cache)
    otherwise = None if job.otherwise is None else caller.own(job.otherwise)

    def ask(index: int) -> Stream:
        ids, name = job.prompts[index].token_ids, f"{reply_id}-{index}"
        record.begun(reply_id, name, caller)
        asked = engine.stream(ids, job.params, name, client=caller.client, cache=cache)
        if otherwise is None:
            return asked
        record.begun(reply_id, f"{name}-exact", caller)
        plain = engine.stream(ids, job.params, f"{name}-exact", client=caller.client, cache=otherwise)
        return or_else(asked, plain, record.metrics.default_refused)

    count = len(job.prompts)
    asked = Asked(_operation(job), reply_id, job.params, caller.owner, caller.traceparent)
    with record.of(asked, count) as ends, waiting.places(count) as places, blamed(job.prompt_field):
        if count == 1:  # direct, without the merging layer: this runs for every token
            async with aclosing(ask(0)) as updates:
                async for update in updates:
                    places.begun(0)
                    yield 0, _checked(update, ends, cache, job.params)
        else:
            await _validate(engine, job, otherwise or cache)
            async with aclosing(_merged(ask, count)) as pairs:
                async for index, update in pairs:
                    places.begun(index)
                    yield index, _checked(update, ends, cache, job.params)


def _operation(job: Job) -> Operation:
    if job.params.prompt_embedding:
        return "embeddings"
    return "text_completion" if job.prompt_field == "prompt" else "chat"


async def _validate(engine: ServedEngine, job: Job, cache: CacheParams) -> None:
    """Once one prompt has begun to stream, it is too late to refuse another with a status code."""
    for index, prompt in enumerate(job.prompts):
        engine.validate(prompt.token_ids, job.params, cache)
        if index % _AT_ONCE == _AT_ONCE - 1:
            await asyncio.sleep(0)


def _checked(update: RequestUpdate, ends: Ends, cache: CacheParams, params: SamplingParams) -> RequestUpdate:
    ends.begun = True
    if update.error is not None:
        raise update.error
    if update.finished:
        if any(delta.finish_reason == "abort" for delta in update.deltas):
            raise RequestAborted("the request was aborted")
        ends.answered(update, cache, params)
    return update


async def _merged(ask: Callable[[int], Stream], count: int) -> Updates:
    queue: asyncio.Queue[tuple[int, RequestUpdate | _Ended]] = asyncio.Queue()

    async def pump(index: int) -> None:
        error: BaseException | None = None
        try:
            async with aclosing(ask(index)) as updates:
                async for update in updates:
                    queue.put_nowait((index, update))
        except Exception as raised:
            error = raised
        queue.put_nowait((index, _Ended(error)))

    async def start() -> None:
        for index in range(count):
            pumps.append(asyncio.create_task(pump(index)))
            if index % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)

    pumps: list[asyncio.Task[None]] = []
    starter = asyncio.create_task(start())
    try:
        left = count
        while left:
            index, item = await queue.get()
            if not isinstance(item, _Ended):
                yield index, item
            elif item.error is not None:
                raise item.error
            else:
                left -= 1
    finally:
        starter.cancel()
        await asyncio.gather(starter, return_exceptions=True)
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

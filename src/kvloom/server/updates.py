"""Running a job: one engine request per prompt, their updates merged as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from kvloom.engine.outputs import RequestUpdate
from kvloom.server.engine_protocol import ServedEngine
from kvloom.server.errors import RequestAborted
from kvloom.server.job import Job
from kvloom.server.metrics import Metrics

Updates = AsyncGenerator[tuple[int, RequestUpdate], None]


@dataclass(frozen=True, slots=True)
class _Ended:
    """A prompt's updates are over; ``error`` says why when it was not the end of the answer."""

    error: BaseException | None


async def run_job(engine: ServedEngine, metrics: Metrics, job: Job, reply_id: str) -> Updates:
    """Yield (prompt index, update). Closing this generator aborts whatever still runs.

    Raises RequestError before any update of the prompt at fault, RequestAborted or the engine's error later.
    """
    streams = [
        engine.stream(prompt.token_ids, job.params, f"{reply_id}-{index}") for index, prompt in enumerate(job.prompts)
    ]
    if len(streams) == 1:  # no layer in between: this runs for every token
        async with aclosing(streams[0]) as updates:
            async for update in updates:
                yield 0, _checked(update, metrics)
    else:
        async with aclosing(_merged(streams)) as pairs:
            async for index, update in pairs:
                yield index, _checked(update, metrics)


def _checked(update: RequestUpdate, metrics: Metrics) -> RequestUpdate:
    if update.error is not None:
        raise update.error
    if update.finished:
        if any(delta.finish_reason == "abort" for delta in update.deltas):
            raise RequestAborted("the request was aborted")
        metrics.observe(update)
    return update


async def _merged(streams: list[AsyncGenerator[RequestUpdate, None]]) -> Updates:
    queue: asyncio.Queue[tuple[int, RequestUpdate | _Ended]] = asyncio.Queue()

    async def pump(index: int, stream: AsyncGenerator[RequestUpdate, None]) -> None:
        error: BaseException | None = None
        try:
            async with aclosing(stream) as updates:
                async for update in updates:
                    queue.put_nowait((index, update))
        except Exception as raised:
            error = raised
        queue.put_nowait((index, _Ended(error)))

    pumps = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        left = len(pumps)
        while left:
            index, item = await queue.get()
            if not isinstance(item, _Ended):
                yield index, item
            elif item.error is not None:
                raise item.error
            else:
                left -= 1
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

"""A default that a prompt cannot have: it is answered without it, as nobody asked for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from kvloom.engine.outputs import RequestUpdate
from kvloom.errors import KvloomError, RequestError

Stream = AsyncGenerator[RequestUpdate, None]


async def or_else(first: Stream, second: Stream, refused: Callable[[], None]) -> Stream:
    """The updates of ``first``; if it ends with a RequestError before it says anything, those of ``second``.

    Neither has been started. ``refused`` is called in the latter case.
    """
    async with aclosing(first), aclosing(second):
        error: KvloomError | None
        try:
            update = await anext(first)
            error = update.error
        except RequestError as raised:
            error = raised
        if not isinstance(error, RequestError):
            yield update
            async for update in first:
                yield update
            return
        refused()
        async for update in second:
            yield update

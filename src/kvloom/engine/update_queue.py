"""Where one request's updates arrive: a queue on the event loop of whoever streams it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from kvloom.engine.outputs import RequestUpdate
from kvloom.errors import KvloomError

logger = logging.getLogger(__name__)

Update = RequestUpdate | KvloomError


class UpdateQueue:
    """Belongs to the event loop on which it was made."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._updates: deque[Update] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, update: Update) -> None:
        """Called on the event loop."""
        self._updates.append(update)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> Update:
        """The next update. One caller at a time."""
        while not self._updates:
            self._waiter = self.loop.create_future()
            await self._waiter
        return self._updates.popleft()


def tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *arguments: object) -> None:
    """Run a callback on an event loop of another thread, if the loop is still there."""
    try:
        loop.call_soon_threadsafe(callback, *arguments)
    except RuntimeError:
        logger.debug("an update arrived after the event loop was closed")

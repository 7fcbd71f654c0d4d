"""Updates on their way from the engine's thread to the event loops that wait for them."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import deque
from collections.abc import Callable

from kvloom.engine.outputs import RequestUpdate
from kvloom.errors import KvloomError

logger = logging.getLogger(__name__)

Mail = RequestUpdate | KvloomError

CROWD = 16
"""Streams from which on steps share a wake-up."""

PACE_S = 0.04
"""How long a crowd's mail may wait for that of the next step: text that moves 25 times a second flows."""


class Inbox:
    """Where one request's updates arrive, on the event loop that asked for them."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._mail: deque[Mail] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, mail: Mail) -> None:
        """Called on the event loop."""
        self._mail.append(mail)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> Mail:
        """The next piece of mail. One caller at a time."""
        while not self._mail:
            self._waiter = self.loop.create_future()
            await self._waiter
        return self._mail.popleft()


class Postbag:
    """Gathers mail on the engine's thread: one wake-up of an event loop brings all that there is for it.

    Waking a crowd of readers takes a millisecond or two from the cores that compute, so a crowd is not woken for every
    step when steps are short: it gets the tokens of two or three at once. First tokens, last ones and errors never
    wait. ``clock``: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._bags: dict[asyncio.AbstractEventLoop, dict[Inbox, list[Mail]]] = {}
        self._hurry = False
        self._next_s = 0.0

    def add(self, inbox: Inbox, mail: Mail) -> None:
        waiting = self._bags.setdefault(inbox.loop, {}).setdefault(inbox, [])
        if waiting and isinstance(waiting[-1], RequestUpdate) and isinstance(mail, RequestUpdate):
            waiting[-1] = _joined(waiting[-1], mail)
        else:
            waiting.append(mail)
        self._hurry = self._hurry or isinstance(mail, KvloomError) or mail.finished or _is_first(mail)

    def send(self, *, hurry: bool) -> None:
        """After a step. ``hurry``: nothing may stay behind, for no step follows."""
        now = self._clock()
        crowded = sum(map(len, self._bags.values())) >= CROWD
        if crowded and now < self._next_s and not self._hurry and not hurry:
            return
        self._next_s, self._hurry = now + PACE_S, False
        bags, self._bags = self._bags, {}
        for loop, bag in bags.items():
            tell(loop, _put_all, bag)


def tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *arguments: object) -> None:
    """Run a callback on an event loop of another thread, if the loop is still there."""
    try:
        loop.call_soon_threadsafe(callback, *arguments)
    except RuntimeError:
        logger.debug("news arrived after the event loop was closed")


def _is_first(update: RequestUpdate) -> bool:
    return len(update.metrics.token_times_s) < 2


def _joined(earlier: RequestUpdate, later: RequestUpdate) -> RequestUpdate:
    """One update that says what two would have said."""
    scores = earlier.prompt_logprobs if later.prompt_logprobs is None else later.prompt_logprobs
    return dataclasses.replace(later, deltas=earlier.deltas + later.deltas, prompt_logprobs=scores)


def _put_all(bag: dict[Inbox, list[Mail]]) -> None:
    for inbox, mails in bag.items():
        for mail in mails:
            inbox.put(mail)

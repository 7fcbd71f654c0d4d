"""Threads for work that would hold up an event loop: a few, so that they leave cores to the rest.

Not asyncio's own executor: Python joins its threads when it exits, and a text that takes long would hold up the exit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from kvloom.engine.threads import Threads
from kvloom.engine.update_queue import tell

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Job(Generic[T]):
    work: Callable[[], T]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[T]

    def run(self) -> None:
        if self.done.cancelled():
            return
        try:
            result = self.work()
        except BaseException as error:
            tell(self.loop, _fail, self.done, error)
        else:
            tell(self.loop, _settle, self.done, result)


class Workers:
    """At most ``count`` threads."""

    def __init__(self, name: str, count: int) -> None:
        self._threads = Threads(name, count)

    async def run(self, work: Callable[[], T]) -> T:
        """Do ``work`` on a thread, in the order of calls. What is cancelled before its turn is not begun."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._threads.submit(_Job(work, loop, done).run)
        return await done


def _settle(done: asyncio.Future[T], result: T) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: asyncio.Future[T], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)

"""Threads for work that would hold up an event loop: a few, so that they leave cores to the rest.

Not asyncio's own executor: Python joins its threads when it exits, and a text that takes long would hold up the exit.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from kvloom.engine.update_queue import tell

T = TypeVar("T")

_IDLE_S = 5.0


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
    """At most ``count`` threads, begun when there is work and gone when there is none for a while."""

    def __init__(self, name: str, count: int) -> None:
        self._name, self._count, self._running = name, count, 0
        self._jobs: queue.SimpleQueue[_Job[Any]] = queue.SimpleQueue()
        self._lock = threading.Lock()

    async def run(self, work: Callable[[], T]) -> T:
        """Do ``work`` on a thread, in the order of calls. What is cancelled before its turn is not begun."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        with self._lock:
            self._jobs.put(_Job(work, loop, done))
            begin = self._running < self._count
            self._running += begin
        if begin:
            threading.Thread(target=self._serve, name=self._name, daemon=True).start()
        return await done

    def _serve(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._jobs.empty():
                        self._running -= 1
                        return
            else:
                job.run()
                del job  # while it waits for the next, what this one held is free


def _settle(done: asyncio.Future[T], result: T) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: asyncio.Future[T], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)

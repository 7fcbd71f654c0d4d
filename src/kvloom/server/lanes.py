"""Worker threads that prepare requests: off the event loop, a few at a time, small ones never behind large ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from kvloom.engine.workers import Workers
from kvloom.model.heap import give_back_memory_of_this_thread

T = TypeVar("T")

LARGE = 64 * 2**10
"""Bytes or characters from which on work is large: reading or tokenizing so much takes 10 to 50 ms."""

_TRIM_AFTER_S = 1.0
"""By then a request that was refused is gone, and what it held is free to be given back."""


class Lanes:
    """Two threads for small work and one for large."""

    def __init__(self) -> None:
        self._small = Workers("kvloom-small-text", count=2)
        self._large = Workers("kvloom-large-text", count=1)
        self._trim: asyncio.Task[None] | None = None

    async def run(self, work: Callable[[], T], size: int) -> T:
        """Do ``work`` over ``size`` bytes or characters."""
        if size < LARGE:
            return await self._small.run(work)
        try:
            return await self._large.run(work)
        finally:
            if self._trim is not None:
                self._trim.cancel()
            self._trim = asyncio.create_task(self._trim_later())

    async def _trim_later(self) -> None:
        await asyncio.sleep(_TRIM_AFTER_S)
        await self._large.run(give_back_memory_of_this_thread)

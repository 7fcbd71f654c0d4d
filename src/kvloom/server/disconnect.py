"""Cancelling work whose client has disconnected."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from starlette.types import Receive

T = TypeVar("T")


class ClientGone(Exception):
    """The client has disconnected."""


async def unless_gone(work: Coroutine[object, object, T], receive: Receive) -> T:
    """Do ``work``; cancel it and raise ClientGone when the client disconnects first.

    The request's body must have been read: what ``receive`` gives next is then the disconnect. When this call
    is itself cancelled, the work is too, and its clean-up has run before the cancellation goes on.
    """
    task = asyncio.create_task(work)
    watch = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

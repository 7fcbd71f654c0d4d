"""A whole server over an engine, its connections' limits included, on the test's own event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from kvloom.config import ServerConfig
from kvloom.server.app import create_app
from kvloom.server.engine_protocol import ServedEngine
from kvloom.server.run import bind, make_server, url_of


@dataclass
class Listening:
    port: int
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def listening(engine: ServedEngine, config: ServerConfig) -> AsyncIterator[Listening]:
    """Until the block is left, or ``stopping`` is set: then it drains."""
    bound = bind(config)
    server = make_server(create_app(engine, config), config)
    found = Listening(bound.getsockname()[1])
    serving = asyncio.create_task(server.serve(sockets=[bound]))

    async def stop() -> None:
        await found.stopping.wait()
        server.should_exit = True

    stopper = asyncio.create_task(stop())
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield found
    finally:
        found.stopping.set()
        await stopper
        await asyncio.wait_for(serving, 60)


@contextmanager
def listening_in_thread(engine: ServedEngine, config: ServerConfig) -> Iterator[str]:
    """The same on an event loop of its own, for clients that block; gives the URL. The engine is closed at the end."""
    bound = bind(config)
    server = make_server(create_app(engine, config), config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[bound])))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield url_of(bound)
    finally:
        server.should_exit = True
        thread.join(10)
        bound.close()
        engine.close()

"""A whole server over an engine, its connections' limits included, on the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from kvloom.config import ServerConfig
from kvloom.server.app import create_app
from kvloom.server.engine_protocol import ServedEngine
from kvloom.server.run import bind, make_server


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

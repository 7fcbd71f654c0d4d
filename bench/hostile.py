"""Clients that leave, are slow or send rubbish: each a coroutine that speaks to the server over a plain socket.

What they are told does not matter here, but that the server neither keeps anything of them nor waits for them.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from bench.floods import Flood, Target, deep_json, exchange, post

_PATIENCE_S = 60.0
_READ_MOST = 40


def _generation(target: Target, stream: bool) -> bytes:
    """One of the endpoints that generate, with a prompt of its own."""
    word = "".join(target.rng.choice("abcdefghij ") for _ in range(target.rng.randrange(4, 40)))
    turns = [{"role": "user", "content": word}]
    path, body = target.rng.choice(
        (
            ("/v1/completions", {"prompt": word, "max_tokens": 48, "ignore_eos": True}),
            ("/v1/chat/completions", {"messages": turns, "max_tokens": 48, "ignore_eos": True}),
            ("/v1/responses", {"input": word, "max_output_tokens": 48, "store": False}),
            ("/v1/messages", {"messages": turns, "max_tokens": 48}),
        )
    )
    said: dict[str, Any] = {"model": target.model, "stream": stream, **body}
    return post(target, path, json.dumps(said).encode(), "Content-Type: application/json")


async def _asked(target: Target, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(target.host, target.port)
    writer.write(request)
    await writer.drain()
    return reader, writer


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close without a farewell: what is in flight is lost, and the server sees a reset."""
    connection = writer.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def leaves_mid_line(target: Target) -> str:
    """Reads some bytes of a stream, and closes wherever that is."""
    return await _mid_line(target, asyncio.StreamWriter.close)


async def resets_mid_line(target: Target) -> str:
    """The same, with a reset."""
    return await _mid_line(target, _reset)


async def _mid_line(target: Target, leave: Callable[[asyncio.StreamWriter], None]) -> str:
    reader, writer = await _asked(target, _generation(target, stream=True))
    try:
        await asyncio.wait_for(reader.readexactly(target.rng.randrange(1, 2000)), _PATIENCE_S)
    except asyncio.IncompleteReadError:
        return "ended"
    finally:
        leave(writer)
    return "left"


async def leaves_at_once(target: Target) -> str:
    """Asks, streamed or not, and is gone before anything can come."""
    _, writer = await _asked(target, _generation(target, stream=target.rng.random() < 0.5))
    await asyncio.sleep(target.rng.choice((0.0, 0.0, 0.01, 0.1)))
    if target.rng.random() < 0.5:
        _reset(writer)
    else:
        writer.close()
    return "left"


async def sends_half_a_body(target: Target) -> str:
    """Closes in the middle of the body."""
    request = _generation(target, stream=True)
    _, writer = await _asked(target, request[: -target.rng.randrange(1, 60)])
    writer.close()
    return "left"


async def reads_nothing(target: Target) -> str:
    """Leaves the answer where it is for half a second."""
    _, writer = await _asked(target, _generation(target, stream=True))
    await asyncio.sleep(0.5)
    _reset(writer)
    return "left"


async def reads_bytewise(target: Target) -> str:
    """A byte at a time, and gives up."""
    reader, writer = await _asked(target, _generation(target, stream=True))
    try:
        for _ in range(_READ_MOST):
            await asyncio.wait_for(reader.read(1), _PATIENCE_S)
            await asyncio.sleep(0.02)
    finally:
        writer.close()
    return "left"


async def says_another_type(target: Target) -> str:
    """A body that is said to be something else."""
    kind = target.rng.choice(("text/html", "multipart/form-data; boundary=x", "application/xml", "\xff/\xfe"))
    body = target.rng.choice((b"<x/>", b"--x\r\n\r\n--x--", b"a=b&c=d", b""))
    return await exchange(target, post(target, "/v1/completions", body, f"Content-Type: {kind}"))


async def huge_header(target: Target) -> str:
    """One header of 60,000 bytes."""
    head = f"GET /health HTTP/1.1\r\nHost: {target.host}\r\nConnection: close\r\nx: ".encode()
    return await exchange(target, head + b"y" * 60_000 + b"\r\n\r\n")


KINDS: dict[Flood, int] = {
    leaves_mid_line: 6,
    resets_mid_line: 6,
    leaves_at_once: 6,
    sends_half_a_body: 2,
    reads_nothing: 1,
    reads_bytewise: 1,
    says_another_type: 1,
    deep_json: 1,
    huge_header: 1,
}
"""How often each is asked for, of their sum."""


async def beset(target: Target, count: int, together: int) -> dict[str, Counter[str]]:
    """So many clients, ``together`` at once. Returns by kind: how often each ended in which way."""
    tallies: dict[str, Counter[str]] = {kind.__name__: Counter() for kind in KINDS}
    drawn = iter(target.rng.choices(list(KINDS), list(KINDS.values()), k=count))

    async def one_after_the_other() -> None:
        for kind in drawn:
            try:
                ending = await kind(target)
            except ConnectionError:
                ending = "closed"
            except TimeoutError:
                ending = "no answer"
            tallies[kind.__name__][ending] += 1

    await asyncio.gather(*(one_after_the_other() for _ in range(together)))
    return tallies

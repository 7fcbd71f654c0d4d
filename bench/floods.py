"""Abusive clients, in a process of their own: ``python -m bench.floods HOST PORT MODEL SECONDS``.

Every kind sends at its own rate until the time is up. The last line printed is one JSON object: by kind, how often each
status was returned (``closed``: the server closed the connection without one).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send. ``rng``: for what differs between requests."""

    host: str
    port: int
    model: str
    rng: random.Random


Flood = Callable[[Target], Awaitable[str]]


async def exchange(target: Target, *pieces: bytes, pause_s: float = 0.0) -> str:
    """Send pieces one after the other; the status that came back, or ``closed``."""
    reader, writer = await asyncio.open_connection(target.host, target.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            if pause_s:
                await asyncio.sleep(pause_s)
        line = await asyncio.wait_for(reader.readline(), _PATIENCE_S)
        return line.split()[1].decode() if line else "closed"
    except ConnectionError:
        return "closed"
    except TimeoutError:
        return "no answer"
    finally:
        writer.close()


def post(target: Target, path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: {target.host}", "Connection: close", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "\r\n"]).encode() + body


def _completion(target: Target, **fields: Any) -> bytes:
    return post(target, "/v1/completions", json.dumps({"model": target.model, **fields}).encode())


class Prepared:
    """A request that is built once: a real attacker would not use the server's cores for that."""

    def __init__(self, make: Callable[[Target], bytes]) -> None:
        self._make = make
        self._made: bytes | None = None

    def of(self, target: Target) -> bytes:
        if self._made is None:
            self._made = self._make(target)
        return self._made


def _turns(target: Target) -> bytes:
    turns = [{"role": "user", "content": "x" * 100}] * 20_000
    return post(target, "/v1/chat/completions", json.dumps({"model": target.model, "messages": turns}).encode())


def _letters(target: Target) -> str:
    return "".join(target.rng.choice("abcdefghijklmnopqrstuvwxyz  ") for _ in range(4096))


_HEADERS = b"".join(b"x-%d: y\r\n" % n for n in range(8192))
_HUGE = Prepared(lambda target: _completion(target, prompt="all work and no play " * 790_000))
_LONG = Prepared(lambda target: _completion(target, prompt=_letters(target) * 1024))
_SEQUENCES = Prepared(lambda target: _completion(target, prompt=["hello"] * 1024, n=128, max_tokens=64))
_DEEP = Prepared(lambda target: post(target, "/v1/chat/completions", b'{"messages":' + b"[" * 100_000))
_TURNS = Prepared(_turns)


async def huge_text(target: Target) -> str:
    """A prompt of nearly 16 MB."""
    return await exchange(target, _HUGE.of(target))


async def long_text(target: Target) -> str:
    """A prompt of 4 MB, of letters that seldom make a token together."""
    return await exchange(target, _LONG.of(target))


async def huge_headers(target: Target) -> str:
    """Up to 100 MiB of small headers, before anything can be checked."""
    head = f"GET /health HTTP/1.1\r\nHost: {target.host}\r\n".encode()
    return await exchange(target, head, *[_HEADERS] * 1200)


async def slow_headers(target: Target) -> str:
    """A header now and then."""
    head = f"GET /health HTTP/1.1\r\nHost: {target.host}\r\n".encode()
    return await exchange(target, head, *[b"x: y\r\n"] * 10, pause_s=0.5)


async def stalled_body(target: Target) -> str:
    """A body that stops arriving."""
    return await exchange(target, _completion(target, prompt="hello")[:-5])


async def many_sequences(target: Target) -> str:
    """1,024 prompts with 128 continuations each."""
    return await exchange(target, _SEQUENCES.of(target))


async def impossible_fields(target: Target) -> str:
    """Values out of range, one after another."""
    odd = target.rng.choice(
        [
            {"temperature": -1},
            {"logit_bias": {"999999": 5}},
            {"stop": [""]},
            {"n": 0},
            {"repetition_penalty": 1e-38},
            {"prompt": [10**9]},
            {"grammar": "root ::= x"},
            {"max_tokens": "many"},
        ]
    )
    return await exchange(target, _completion(target, **({"prompt": "hello"} | odd)))


async def deep_json(target: Target) -> str:
    """A body of 100,000 brackets."""
    return await exchange(target, _DEEP.of(target))


async def odd_chat(target: Target) -> str:
    """A conversation too long for any template: 20,000 turns."""
    return await exchange(target, _TURNS.of(target))


async def wrong_paths(target: Target) -> str:
    """Unknown paths and methods."""
    path = target.rng.choice(["/", "/v1/embeddings", "/chat/completions", "/" + "a" * 60_000, "/v1/../cache"])
    return await exchange(target, post(target, path, b"{}"))


async def not_http(target: Target) -> str:
    """Bytes."""
    return await exchange(target, target.rng.randbytes(20_000) + b"\r\n\r\n")


PACES_S: dict[Flood, float] = {
    huge_text: 3.0,
    long_text: 3.0,
    huge_headers: 1.0,
    slow_headers: 0.5,
    stalled_body: 0.5,
    many_sequences: 1.0,
    impossible_fields: 0.1,
    deep_json: 0.5,
    odd_chat: 2.0,
    wrong_paths: 0.1,
    not_http: 0.2,
}
"""Seconds from one request of a kind to its next."""


async def flood(target: Target, stop_s: float) -> dict[str, Counter[str]]:
    """All kinds at once until ``stop_s`` (monotonic)."""
    tallies: dict[str, Counter[str]] = {kind.__name__: Counter() for kind in PACES_S}

    async def one(kind: Flood) -> None:
        try:
            tallies[kind.__name__][await kind(target)] += 1
        except OSError as error:
            tallies[kind.__name__][type(error).__name__] += 1

    async def go_on(kind: Flood, pace_s: float) -> None:
        under_way: set[asyncio.Task[None]] = set()
        while time.monotonic() < stop_s:
            if len(under_way) < 50:
                task = asyncio.create_task(one(kind))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            await asyncio.sleep(pace_s)
        await asyncio.gather(*under_way)

    await asyncio.gather(*(go_on(kind, pace_s) for kind, pace_s in PACES_S.items()))
    return tallies


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.floods")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("model")
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    target = Target(options.host, options.port, options.model, random.Random(5))
    print(json.dumps(asyncio.run(flood(target, time.monotonic() + options.seconds))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

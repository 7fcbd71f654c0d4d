"""``kvloom serve`` in a process of its own, and a client that costs little: plain sockets, no HTTP library."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Self
from urllib.error import URLError
from urllib.request import Request, urlopen

_SERVE = "from kvloom.cli import main; main()"
_PATIENCE_S = 30.0


@dataclass(slots=True)
class Arrivals:
    """What one stream brought. ``times_s``: of ``time.perf_counter``, of every event with text; ``tokens``: as told."""

    times_s: list[float] = field(default_factory=list)
    tokens: int = 0

    def gaps_s(self, start: float, end: float) -> list[float]:
        """Times between neighbouring events, for those that came between ``start`` and ``end``."""
        pairs = zip(self.times_s, self.times_s[1:], strict=False)
        return [later - earlier for earlier, later in pairs if start <= later <= end]


class Served:
    """A context: starts the server, waits until it listens, ends it."""

    def __init__(self, model: str, *flags: str) -> None:
        self.model = model
        self._command = [sys.executable, "-c", _SERVE, "serve", model, "--port", "0", *flags]
        self.host, self.port = "", 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        assert self._process.stderr is not None
        said = []
        for line in self._process.stderr:
            said.append(line.strip())
            found = re.search(r"http://([^:/]+):(\d+)", line)
            if found is not None:
                self.host, self.port = found[1], int(found[2])
                threading.Thread(target=_drain, args=(self._process.stderr,), daemon=True).start()
                self._wait_until_it_answers()
                return self
        raise RuntimeError(f"`kvloom serve` ended: {said[-1] if said else 'without a word'}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _wait_until_it_answers(self) -> None:
        """It says where it will listen a moment before it does."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                with urlopen(f"http://{self.host}:{self.port}/health") as response:
                    response.read()
                return
            except URLError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def pause(self) -> None:
        """Let others have the machine."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self._process.pid, signal.SIGCONT)

    def reset_cache(self) -> None:
        with urlopen(Request(f"http://{self.host}:{self.port}/cache/reset", method="POST")) as response:
            response.read()

    async def stream(self, prompt: list[int], num_new: int, into: Arrivals) -> Arrivals:
        """Ask for exactly ``num_new`` tokens, and note when events come. Raises RuntimeError."""
        body = {"model": self.model, "prompt": prompt, "max_tokens": num_new, "temperature": 0, "stream": True}
        body |= {"ignore_eos": True, "stream_options": {"include_usage": True}}
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(_post(self.host, json.dumps(body).encode()))
            await _read(reader, into)
        finally:
            writer.close()
        if into.tokens != num_new:
            raise RuntimeError(f"a stream brought {into.tokens} tokens, not {num_new}")
        return into


def _post(host: str, body: bytes) -> bytes:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


async def _read(reader: asyncio.StreamReader, into: Arrivals) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise RuntimeError(f"the server said {head.splitlines()[0]!r}: {(await reader.read())[:200]!r}")
    async for line in _lines(reader):
        if not line.startswith(b"data: {"):
            continue
        if b'"usage":{' in line or b'"usage": {' in line:
            into.tokens = json.loads(line.removeprefix(b"data: "))["usage"]["completion_tokens"]
        else:
            into.times_s.append(time.perf_counter())


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Lines of a chunked body."""
    rest = b""
    while size := int(await reader.readline(), 16):
        *lines, rest = (rest + (await reader.readexactly(size + 2))[:-2]).split(b"\n")
        for line in lines:
            yield line


def _drain(stream: IO[str]) -> None:
    for _ in stream:
        pass

"""``kvloom serve`` in a process of its own, and a client that costs little: plain sockets, no HTTP library."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast
from urllib.error import URLError
from urllib.request import Request, urlopen

from bench.remote import HERE, Checkout

_SERVE = "from kvloom.cli import main; main()"
_PATIENCE_S = 30.0
_REST_S = 0.002


@dataclass(slots=True)
class Arrivals:
    """Result of one stream. ``times_s``: ``time.perf_counter`` at every event with text; ``tokens``: as reported."""

    times_s: list[float] = field(default_factory=list)
    tokens: int = 0

    def gaps_s(self, start: float, end: float) -> list[float]:
        """Times between neighbouring events, for those that came between ``start`` and ``end``."""
        pairs = zip(self.times_s, self.times_s[1:], strict=False)
        return [later - earlier for earlier, later in pairs if start <= later <= end]


class Served:
    """A context: starts the server of a checkout, waits until it listens, ends it."""

    def __init__(self, model: str, *flags: str, checkout: Checkout = HERE) -> None:
        self.model = model
        self._command = [str(checkout.python), "-c", _SERVE, "serve", model, "--port", "0", *flags]
        self._checkout = checkout
        self.host, self.port = "", 0
        self._rest = _Rest()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=self._checkout.environment,
        )
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
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _wait_until_it_answers(self) -> None:
        """It reports its address shortly before it listens."""
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

    def resident_bytes(self) -> int:
        """Physical memory of the server's process."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """Tell the server to answer what it has, and to end."""
        self._process.send_signal(signal.SIGTERM)

    def ended(self, patience_s: float) -> int | None:
        """The status with which it ended; None: it has not."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(patience_s)
        return None

    def pause(self) -> None:
        """Yield the machine to others."""
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
        stream = _Stream(_post(self.host, json.dumps(body).encode()), into, self._rest)
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: stream, self.host, self.port)
        try:
            await stream.done
        finally:
            transport.close()
        if into.tokens != num_new:
            raise RuntimeError(f"a stream brought {into.tokens} tokens, not {num_new}")
        return into


def _post(host: str, body: bytes) -> bytes:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


class _Rest:
    """Lets all of this process's streams wait a moment after an event, so that those of a step wake it once or twice
    together, not each for itself: it stands for clients who have machines of their own."""

    def __init__(self) -> None:
        self._due = False

    def soon(self) -> None:
        """After what is there already has been read."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._take)

    def _take(self) -> None:
        time.sleep(_REST_S)
        self._due = False


class _Stream(asyncio.Protocol):
    """Sends one request, gathers what comes until the server closes. ``done`` ends then, or with a RuntimeError.

    During the stream it only counts events: it shares the server's cores.
    """

    def __init__(self, request: bytes, into: Arrivals, rest: _Rest) -> None:
        self._request, self._into, self._rest = request, into, rest
        self._pieces: list[bytes] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._pieces.append(data)
        self._rest.soon()
        self._into.times_s += [now] * data.count(b'"choices":[{')

    def connection_lost(self, error: Exception | None) -> None:
        if self.done.done():
            return
        said = b"".join(self._pieces)
        told = re.findall(rb'"usage":\{.*?"completion_tokens":(\d+)', said)
        if told and said.endswith(b"0\r\n\r\n"):
            self._into.tokens = int(told[-1])
            self.done.set_result(None)
        else:
            self.done.set_exception(RuntimeError(f"the stream broke ({error}); it ended in {said[-200:]!r}"))


def _drain(stream: IO[str]) -> None:
    with stream:
        for _ in stream:
            pass


def audit(url: str) -> str:
    """The ledger's, by a server that listens there: ``passes``, or what it says."""
    try:
        with urlopen(Request(f"{url}/cache/check", method="POST"), timeout=60) as response:
            response.read()
    except OSError as error:
        return str(error)
    return "passes"

"""Well-behaved clients: each sends one request after the other, over plain sockets, and records answers and times."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Question:
    """One request of the pool. ``path`` below the server's root, ``body`` without the model's name."""

    name: str
    path: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Heard:
    """One answer. ``text`` None: the stream was lost (``said`` is what was received)."""

    question: str
    started_s: float
    first_s: float | None
    text: str | None
    said: str = ""


@dataclass(slots=True)
class Traffic:
    """Asks ``questions`` of one server."""

    host: str
    port: int
    model: str
    questions: Sequence[Question]
    heard: list[Heard] = field(default_factory=list)

    async def run(self, clients: int, stop_s: float) -> list[Heard]:
        """Clients cycle through the questions, each from its own start, until ``stop_s`` (perf_counter).

        Returns the answers of this call; requests in flight at the end are completed.
        """
        self.heard = []
        await asyncio.gather(*(self._client(number, stop_s) for number in range(clients)))
        return self.heard

    async def _client(self, number: int, stop_s: float) -> None:
        asked = number * 5
        while time.perf_counter() < stop_s:
            self.heard.append(await self.ask(self.questions[asked % len(self.questions)]))
            asked += 1

    async def ask(self, question: Question) -> Heard:
        """Stream one answer. Any failure counts as a lost answer."""
        body = {"model": self.model, "stream": True, **question.body}
        wire = await streamed(self.host, self.port, question.path, body, 120)
        if wire.fault is not None:
            return Heard(question.name, wire.sent_s, wire.first_s, None, wire.fault)
        text = text_of(wire.said)
        left = "" if text is not None else wire.said[-300:].decode(errors="replace")
        return Heard(question.name, wire.sent_s, wire.first_s, text, left)


@dataclass(frozen=True, slots=True)
class Wire:
    """A response as it came. ``sent_s``: perf_counter. ``first_s``: from there to the first choice. ``fault``: what
    ended it too soon.
    """

    sent_s: float
    first_s: float | None
    said: bytes
    fault: str | None = None


async def streamed(host: str, port: int, path: str, body: dict[str, Any], patience_s: float) -> Wire:
    """Post a body and read to the end. ``patience_s``: between two pieces. Raises nothing."""
    sent_s, first_s, said = time.perf_counter(), None, bytearray()
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    try:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(f"{head}Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content)
            while piece := await asyncio.wait_for(reader.read(65536), patience_s):
                said += piece
                if first_s is None and b'"choices":[{' in said:
                    first_s = time.perf_counter() - sent_s
        finally:
            writer.close()
    except (OSError, TimeoutError) as error:
        return Wire(sent_s, first_s, bytes(said), f"{type(error).__name__}: {error}")
    return Wire(sent_s, first_s, bytes(said))


def text_of(said: bytes) -> str | None:
    """The text of a whole event stream as it came over the wire; None when it was refused, broken or cut short."""
    if not said.startswith(b"HTTP/1.1 200") or b"data: [DONE]" not in said:
        return None
    pieces, ended = [], False
    for line in said.split(b"\n"):
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if "error" in event:
            return None
        for choice in event["choices"]:
            pieces.append(choice.get("text") or choice.get("delta", {}).get("content") or "")
            ended = ended or choice["finish_reason"] in ("stop", "length")
    return "".join(pieces) if ended else None

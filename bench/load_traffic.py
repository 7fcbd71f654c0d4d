"""Streams that can tell whether an answer is theirs: each carries a number that must come back, whole and in its place.

Half of the requests hold the answer to a regex with the number at both ends; the others have their prompt, in which the
number stands, echoed. Plain sockets: the clients share the server's cores.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.good_traffic import streamed, text_of

End = Literal["whole", "mixed", "refused", "broken", "turned away"]
_PATIENCE_S = 300.0
_LETTERS = 24
"""Between the two numbers."""


@dataclass(frozen=True, slots=True)
class Told:
    """One request. ``end``: ``refused`` with 429 and a time to come again; ``turned away`` before it had been taken in
    by a server that was stopping. ``sent_s``, ``ended_s``: perf_counter. ``said``: seconds to wait where it was
    refused, and otherwise what was wrong.
    """

    end: End
    sent_s: float
    ended_s: float = field(default_factory=time.perf_counter)
    first_s: float | None = None
    tokens: int = 0
    said: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    path: str
    body: dict[str, Any]
    expected: re.Pattern[str]


def question(number: int, tokens: int) -> Question:
    """``number``: of eight digits. ``tokens``: of the answers that are echoed."""
    if number % 2:
        form = f"{number} [a-z ]{{{_LETTERS}}} {number}"
        body = {"messages": [{"role": "user", "content": f"Say {number}"}], "max_tokens": 64}
        return Question("/v1/chat/completions", body | {"structured_outputs": {"regex": form}}, re.compile(form))
    prompt = f"The number of this request is {number}."
    body = {"prompt": prompt, "echo": True, "max_tokens": tokens, "ignore_eos": True}
    return Question("/v1/completions", body, re.compile(re.escape(prompt) + "(?s:.*)"))


@dataclass(slots=True)
class Load:
    """``leaving_s``: when the server was told to stop; None before. ``tokens``: of the answers that are echoed."""

    host: str
    port: int
    model: str
    tokens: int = 24
    told: list[Told] = field(default_factory=list)
    leaving_s: float | None = None
    _numbers: random.Random = field(default_factory=lambda: random.Random(11))

    async def run(self, streams: int, seconds: float, burst: int, stop: Callable[[], None]) -> list[Told]:
        """Clients ask one question after the other for so long; half-way ``burst`` more come, once each. At the end,
        with all of them waiting for answers, ``stop`` tells the server to drain."""
        clients = [asyncio.create_task(self._client()) for _ in range(streams)]
        await asyncio.sleep(seconds / 2)
        extra = [asyncio.create_task(self._once()) for _ in range(burst)]
        await asyncio.sleep(seconds / 2)
        self.leaving_s = time.perf_counter()
        stop()
        await asyncio.gather(*clients, *extra)
        return self.told

    async def _client(self) -> None:
        while self.leaving_s is None:
            told = await self._once()
            if told.end == "refused":
                await asyncio.sleep(float(told.said))

    async def _once(self) -> Told:
        told = await self.ask(question(self._numbers.randrange(10**7, 10**8), self.tokens))
        self.told.append(told)
        return told

    async def ask(self, asked: Question) -> Told:
        stream = {"stream": True, "stream_options": {"include_usage": True}}
        body = {"model": self.model, **stream, **asked.body}
        wire = await streamed(self.host, self.port, asked.path, body, _PATIENCE_S)
        fault = wire.fault or (None if wire.said else "closed without an answer")
        if fault is not None:
            return self._cut(wire.sent_s, fault)
        return judge(wire.said, asked.expected, wire.sent_s, wire.first_s)

    def _cut(self, started: float, words: str) -> Told:
        """A server that is stopping takes in no more; what it had before, it must answer."""
        away = self.leaving_s is not None and started > self.leaving_s - _IN_FLIGHT_S
        return Told("turned away" if away else "broken", started, said=words)


_IN_FLIGHT_S = 0.5
"""What was sent so shortly before the signal may not have been read when it came."""


def judge(said: bytes, expected: re.Pattern[str], sent_s: float, first_s: float | None) -> Told:
    """What an answer is, as it came over the wire."""
    head, _, body = said.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 429"):
        after = re.search(rb"(?im)^retry-after: *([0-9]+)", head)
        if after is None or int(after[1]) < 1 or b"queue_full" not in body:
            return Told("broken", sent_s, said=said[:300].decode(errors="replace"))
        return Told("refused", sent_s, said=after[1].decode())
    if head.startswith(b"HTTP/1.1 503") and b"server_stopping" in body:
        return Told("turned away", sent_s)
    text = text_of(said)
    if text is None:
        return Told("broken", sent_s, first_s=first_s, said=said[-300:].decode(errors="replace"))
    if expected.fullmatch(text) is None:
        return Told("mixed", sent_s, first_s=first_s, said=text)
    tokens = [int(count) for count in re.findall(rb'"completion_tokens":(\d+)', body)]
    return Told("whole", sent_s, first_s=first_s, tokens=tokens[-1] if tokens else 0)

"""A log of answered requests, for ``kvloom plan trace``: how long they were, and what they had in common. No text.

One line for each, in the Mooncake format (``kvloom.bench.trace``): when it arrived, how many tokens it had and got, and
a number for every 512 tokens of its prompt and all before them. Numbers are equal where these tokens and the salt are:
the first 53 bits of a BLAKE2b under a secret that the process draws at its start and tells nobody, so that a text
cannot be guessed from a log. After a restart, equal texts therefore get other numbers.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from kvloom.bench.trace import BLOCK_TOKENS
from kvloom.engine.outputs import RequestUpdate
from kvloom.engine.threads import Threads
from kvloom.errors import ConfigError

_WAITING = 1024
"""Requests that wait to be written, each with its tokens: what is more is not logged, and counted."""


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """Numbers for what prompts have in common. ``secret``: up to 64 bytes, without which nobody can compute them."""

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def of(self, tokens: Sequence[int], salt: str | None) -> list[int]:
        """One for each block of 512 tokens, the last of which may end before it is full."""
        root = b"shared" if salt is None else b"salt " + salt.encode()
        digest, numbers = self._digest(root), []
        for start in range(0, len(tokens), BLOCK_TOKENS):
            block = tokens[start : start + BLOCK_TOKENS]
            digest = self._digest(digest + struct.pack(f"<{len(block)}q", *block))
            numbers.append(int.from_bytes(digest[:8], "big") >> 11)  # JSON's numbers are exact to 53 bits
        return numbers

    def _digest(self, data: bytes) -> bytes:
        return blake2b(data, key=self.secret, digest_size=32).digest()


class RequestLog:
    """Lines are written by a thread of their own, in the order in which answers end.

    Parameters
    ----------
    path:
        A file that lines are appended to; made if need be, for this user alone.
    max_bytes:
        Nothing is written that would make the file larger. Raises ConfigError where it cannot be written to.
    say:
        Told once when nothing more is logged, and why.
    """

    def __init__(
        self, path: Path, max_bytes: int, say: Callable[[str], None], now: Callable[[], float] = time.time
    ) -> None:
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"cannot log requests in `{path}`: {error.strerror}", hint="name a file that can be written to"
            ) from None
        self.dropped = 0
        self._path, self._say, self._now = path, say, now
        self._room = max_bytes - os.fstat(self._file).st_size
        self._names = Fingerprints()
        self._threads = Threads("kvloom-request-log", 1)
        self._lock = threading.Lock()
        self._written = threading.Condition(self._lock)
        self._waiting = 0
        self._open = True

    def answered(self, update: RequestUpdate, salt: str | None) -> None:
        """Log a finished request: the length of its first continuation, and when it came. Takes no time."""
        metrics, ids = update.metrics, update.prompt_token_ids
        answer = len(metrics.token_times_s)
        if not ids or not answer or metrics.total_s is None:
            return
        arrived_ms = int((self._now() - metrics.total_s) * 1000)
        with self._lock:
            if not self._open or self._waiting >= _WAITING:
                self.dropped += 1
                return
            self._waiting += 1
        self._threads.submit(lambda: self._write(arrived_ms, ids, answer, salt))

    def close(self, seconds: float = 5.0) -> None:
        """Write what waits, for at most so long, and nothing after that."""
        with self._lock:
            self._written.wait_for(lambda: not self._waiting, seconds)
            if self._open:
                self._end()

    def _write(self, arrived_ms: int, ids: Sequence[int], answer: int, salt: str | None) -> None:
        lengths = {"timestamp": arrived_ms, "input_length": len(ids), "output_length": answer}
        line = json.dumps(lengths | {"hash_ids": self._names.of(ids, salt)}, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            if self._open:
                self._append(line)
            self._waiting -= 1
            self._written.notify_all()

    def _append(self, line: bytes) -> None:
        if len(line) > self._room:
            self._give_up("it is as large as it may be")
            return
        try:
            written = os.write(self._file, line)
        except OSError as error:
            self._give_up(error.strerror or str(error))
            return
        self._room -= written
        if written < len(line):
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            self._give_up("the disk is full")

    def _give_up(self, why: str) -> None:
        self._say(f"warning: requests are not logged in `{self._path}` any more: {why}")
        self._end()

    def _end(self) -> None:
        self._open = False
        os.close(self._file)

"""Runs chat templates in a separate process, ``template_worker.py``, which is killed when it exceeds its limits."""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from kvloom.errors import InternalError, ModelFileError, RequestError

RENDER_SECONDS = 3.0
"""A long conversation takes some 20 ms; a template that takes longer than this does not terminate."""

MAX_CHARS = 16 * 2**20
MAX_BYTES = 512 * 2**20
"""Limits of a prompt's characters and of the process's memory."""

_START_SECONDS = 20.0
_WORKER = Path(__file__).with_name("template_worker.py")
_HEAD, _CHAR_BYTES, _MAX_WORDS = 9, 4, 1024
# The worker's letters, repeated there: it imports nothing of ours, and its Jinja is not imported here.
_READY, _TEXT, _BROKEN, _REFUSED, _EXHAUSTED = b"R", b"T", b"B", b"F", b"M"
_CODING = ("utf-8", "surrogatepass")


class TemplateProcess:
    """One worker, started on first use and replaced when it was killed. Safe to share between threads."""

    def __init__(
        self, render_seconds: float = RENDER_SECONDS, max_chars: int = MAX_CHARS, max_bytes: int = MAX_BYTES
    ) -> None:
        self._render_seconds, self._max_chars, self._max_bytes = render_seconds, max_chars, max_bytes
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._worker: _Worker | None = None

    @property
    def worker_pid(self) -> int | None:
        return self._worker.process.pid if self._worker is not None else None

    def start(self) -> None:
        """Start the worker if there is none, without waiting for it."""
        with self._lock:
            self._alive()

    def render(self, template: str, messages: str, variables: str) -> str:
        """``messages`` and ``variables``: as JSON. Raises RequestError, ModelFileError or InternalError."""
        limits = f'"seconds":{self._render_seconds},"max_chars":{self._max_chars}'
        quoted = json.dumps(template, ensure_ascii=False)
        data = f'{{"template":{quoted},"messages":{messages},"variables":{variables},{limits}}}'.encode(*_CODING)
        with self._lock:
            kind, text = self._ask(data)
            if kind == _EXHAUSTED:
                self._end()
        return self._judge(kind, text)

    def close(self) -> None:
        """Kill the worker. Rendering again starts another."""
        if os.getpid() == self._owner:  # a fork of this process does not own it
            self._end()

    def _ask(self, data: bytes) -> tuple[bytes, str]:
        worker = self._alive()
        try:
            return worker.ask(data, self._render_seconds, self._max_chars)
        except TimeoutError:
            self._end()
            raise RequestError(
                f"the model's chat template took too long: it had not rendered these messages after "
                f"{self._render_seconds:g} s",
                param="messages",
            ) from None
        except OSError:
            self._end()
            raise _refused("it ended the process that it ran in") from None
        except BaseException:  # Ctrl-C: the worker's answer would be mistaken for that to the next request
            self._end()
            raise

    def _judge(self, kind: bytes, text: str) -> str:
        if kind == _TEXT:
            return text
        if kind == _BROKEN:
            raise ModelFileError(f"the model's chat template is broken {text}")
        if kind == _EXHAUSTED:
            text = f"it needs more than {self._max_bytes >> 20} MiB of memory"
        raise _refused(text)

    def _alive(self) -> _Worker:
        if self._worker is not None and self._worker.process.poll() is not None:
            self._end()  # killed from outside
        if self._worker is None:
            self._worker = _Worker(self._max_bytes)
            atexit.register(self.close)
        return self._worker

    def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()
            atexit.unregister(self.close)


def _refused(why: str) -> RequestError:
    return RequestError(f"the model's chat template refuses these messages: {why}", param="messages")


class _Worker:
    """A running process, and the socket to it (a socket: its operations take a timeout on every system)."""

    def __init__(self, max_bytes: int) -> None:
        self._socket, theirs = socket.socketpair()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-P", str(_WORKER), str(max_bytes)],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                # It finds Jinja where this process did. Not -I: that would prevent it.
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONUTF8": "1"},
                process_group=0,  # Ctrl-C in a terminal is for us
            )
        except OSError as error:
            self._socket.close()
            raise InternalError(f"cannot start the process that renders chat templates: {error}") from error
        finally:
            theirs.close()
        self._ready = False

    def ask(self, data: bytes, seconds: float, max_chars: int) -> tuple[bytes, str]:
        """Raises TimeoutError, or another OSError when the process ended."""
        if not self._ready:
            self._await_start()
        deadline = time.monotonic() + seconds
        self._socket.settimeout(seconds)
        self._socket.sendall(len(data).to_bytes(8, "big"))
        self._socket.sendall(data)
        head = self._receive(_HEAD, deadline)
        count = int.from_bytes(head[1:], "big")
        if count > _CHAR_BYTES * max(max_chars, _MAX_WORDS):
            raise ConnectionResetError  # not our worker's protocol
        return bytes(head[:1]), self._receive(count, deadline).decode(*_CODING)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._socket.close()

    def _await_start(self) -> None:
        try:
            self._ready = self._receive(1, time.monotonic() + _START_SECONDS) == _READY
        except OSError:
            raise InternalError(
                "the process that renders chat templates does not start",
                hint=f"`{sys.executable} -c 'import jinja2'` should say nothing",
            ) from None

    def _receive(self, count: int, deadline: float) -> bytearray:
        data = bytearray(count)
        view, done = memoryview(data), 0
        while done < count:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            got = self._socket.recv_into(view[done:])
            if not got:
                raise ConnectionResetError
            done += got
        return data

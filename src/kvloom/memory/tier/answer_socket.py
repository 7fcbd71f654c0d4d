"""A socket whose answers are there in time or not at all: a timeout of sockets ends when the next byte arrives."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

Got = TypeVar("Got")


class AnswerSocket:
    """Everything that is received after a command was sent has to arrive within ``seconds`` of it, or TimeoutError.

    In place of a socket for a client library that sends with ``sendall`` and polls with a timeout of 0.
    """

    def __init__(self, connected: socket.socket, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._socket, self._clock = connected, clock
        self._seconds = seconds
        self._timeout: float | None = seconds
        self._until = self._clock() + seconds

    def sendall(self, data: bytes) -> None:
        self._socket.settimeout(self._seconds)
        self._socket.sendall(data)
        self._until = self._clock() + self._seconds

    def settimeout(self, seconds: float | None) -> None:
        self._timeout = seconds

    def recv(self, size: int) -> bytes:
        return self._in_time(lambda: self._socket.recv(size))

    def recv_into(self, buffer: Any) -> int:
        return self._in_time(lambda: self._socket.recv_into(buffer))

    def _in_time(self, receive: Callable[[], Got]) -> Got:
        left = self._until - self._clock() if self._timeout != 0 else 0
        if left < 0:
            raise TimeoutError("the answer did not arrive in time")
        self._socket.settimeout(left)
        return receive()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def answering_in_time(connection_class: Any) -> Any:
    """The same kind of connection of the library ``valkey``, with such a socket."""

    def connect(self: Any) -> AnswerSocket:
        return AnswerSocket(connection_class._connect(self), self.socket_timeout)

    return type(connection_class.__name__, (connection_class,), {"_connect": connect})

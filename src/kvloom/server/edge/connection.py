"""HTTP connections with bounds on every part of a request, applied while it arrives and before keys are checked.

    IDLE --- first byte ---> HEAD --- headers complete ---> BODY --- message complete ---> IDLE
     keep_alive_seconds       header_seconds                 body_seconds                   send_seconds, until the
                              max_url_bytes, max_headers,                                   answer is complete
                              max_header_bytes

A connection on which a request is still arriving, or which is idle, makes room for a new one when there are too many:
slow clients cannot keep others out. A refused request gets the reason in OpenAI's format.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from kvloom.config import ServerConfig
from kvloom.server.edge import refusals
from kvloom.server.errors import ErrorReply

_LINGER_S = 1.0
"""How long a refused connection stays open for its client to read why. Closed at once, with bytes of the client's
unread, it would be reset, and the answer lost."""

_SLOWEST_BODY = 1024
"""Bytes a second that a body must bring on the whole. Without it a byte now and then would hold a connection."""

_PIPELINED = 16
"""Requests that may wait on one connection for the answers before them."""


class Stage(Enum):
    """The part of a request that is expected next."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"


class Refused(Exception):
    """Raised inside the parser, to stop it."""

    def __init__(self, reply: ErrorReply) -> None:
        super().__init__(reply.message)
        self.reply = reply


class Connection(HttpToolsProtocol):
    """One client connection. ``connection_class`` makes the class for a server.

    ``arriving``: the server's connections that have no whole request, the longest so first.
    """

    limits: ClassVar[ServerConfig]
    arriving: ClassVar[dict[Connection, None]]

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._stage = Stage.IDLE
        self._serving: deque[RequestResponseCycle] = deque()  # started or pipelined, and not answered yet
        self._clock: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._refused = False
        self._reply = refusals.INVALID
        self._head_bytes = self._num_headers = 0
        self._progress, self._barren_bytes = False, 0
        self._body_bytes, self._body_began_s, self._heard_s = 0, 0.0, 0.0

    # -- from the transport ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        crowded = len(self.connections) > self.limits.max_connections
        oldest = next(iter(self.arriving), None) if crowded else None
        self.arriving[self] = None
        if oldest is not None:
            oldest._make_room()
        if crowded and oldest is None:
            self._refuse(refusals.too_many_connections(self.limits))
        else:
            self._set_clock(self.limits.header_seconds, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self.arriving.pop(self, None)
        self._stop_clock()
        self._is_read()
        for cycle in self._serving:  # uvicorn notifies the last one only
            _disconnect(cycle)
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._progress = False
        super().data_received(data)
        if self._refused or self.transport.is_closing():
            return
        self._barren_bytes = 0 if self._progress else self._barren_bytes + len(data)
        if self._barren_bytes > self.limits.max_header_bytes:
            # An unterminated header, or chunk framing: the parser buffers it without a callback.
            self._refuse(refusals.headers_too_large(self.limits))
        elif self._stage is Stage.BODY:
            self._watch_body()
        elif self._clock is None and not self._serving:
            self._set_clock(self.limits.header_seconds, self._head_is_late)

    # -- from the parser -------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._stage = Stage.HEAD
        self._head_bytes = self._num_headers = 0
        if len(self._serving) > _PIPELINED:
            self._stop(refusals.INVALID)

    def on_url(self, url: bytes) -> None:
        if len(self.url) + len(url) > self.limits.max_url_bytes:
            self._stop(refusals.url_too_long(self.limits))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + len(b": \r\n")
        self._num_headers += 1
        if self._head_bytes > self.limits.max_header_bytes or self._num_headers > self.limits.max_headers:
            self._stop(refusals.headers_too_large(self.limits))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._stage, self._progress = Stage.BODY, True
        self._stop_clock()
        self._serving.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._progress = True
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._stage, self._progress, self._body_bytes = Stage.IDLE, True, 0
        self._stop_clock()
        if self._serving:
            self.arriving.pop(self, None)

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn when the parser has stopped, for any reason."""
        self._refuse(self._reply)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.limits.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_read()

    def shutdown(self) -> None:
        """The server is stopping: connections that only linger after a refusal are not waited for."""
        if self._refused and not self._serving:
            self.transport.close()
        else:
            super().shutdown()

    # -- from the answer -------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        self._serving.popleft()
        super().on_response_complete()
        if self._serving or self.transport.is_closing():
            return
        self.arriving[self] = None
        if self._stage is Stage.BODY:  # answered early: the client may finish its message, within the time limit
            self._set_clock(_LINGER_S, self.transport.close)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _stop(self, reply: ErrorReply) -> None:
        """Stop the parser. Raises Refused."""
        self._reply = reply
        raise Refused(reply)

    def _refuse(self, reply: ErrorReply) -> None:
        """Accept no more from this client, and close once its earlier requests are answered."""
        self._refused = True
        self._stop_clock()
        self._unset_keepalive_if_required()
        answered = self._give_up_body() if self._stage is Stage.BODY else False
        if self._serving:
            self._serving[-1].keep_alive = False
        elif answered:
            self.transport.close()
        else:
            self.transport.write(refusals.raw_answer(reply, self.server_state.default_headers))
            self._linger()

    def _give_up_body(self) -> bool:
        """End the request whose body was arriving. Returns True if its response has already started."""
        if not self._serving:
            return True
        cycle = self._serving.pop()
        if self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()
        _disconnect(cycle)
        return cycle.response_started

    def _linger(self) -> None:
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.pause_reading()
        self._set_clock(_LINGER_S, self.transport.close)

    def _make_room(self) -> None:
        """Close this connection to admit another: it has been without a complete request for longest."""
        del self.arriving[self]
        if self._refused:
            self.transport.abort()
        elif self._stage is Stage.IDLE:
            self.transport.close()
        else:
            self._refuse(refusals.too_many_connections(self.limits))
            self.transport.close()

    def _head_is_late(self) -> None:
        self._clock = None
        if self._serving:
            return
        if self._stage is Stage.IDLE:  # no request has started: nothing to answer
            self.transport.close()
        else:
            self._refuse(refusals.head_too_slow(self.limits))

    def _watch_body(self) -> None:
        self._heard_s = self.loop.time()
        if self._clock is None:
            self._body_began_s = self._heard_s
            self._set_clock(self.limits.body_seconds / 4, self._look_at_body)

    def _look_at_body(self) -> None:
        now_s, patience_s = self.loop.time(), self.limits.body_seconds
        if self.flow.read_paused:  # reading is paused by us
            self._heard_s = self._body_began_s = now_s
        allowed_s = patience_s + self._body_bytes / _SLOWEST_BODY
        if now_s - self._heard_s > patience_s or now_s - self._body_began_s > allowed_s:
            self._refuse(refusals.body_too_slow(self.limits))
        else:
            self._set_clock(patience_s / 4, self._look_at_body)

    def _is_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _set_clock(self, seconds: float, then: Any) -> None:
        self._stop_clock()
        self._clock = self.loop.call_later(seconds, then)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None


def connection_class(config: ServerConfig) -> type[Connection]:
    """Make the connection class for one server: uvicorn creates the instances and passes no settings of ours."""

    class Bounded(Connection):
        limits = config
        arriving: ClassVar[dict[Connection, None]] = {}

    return Bounded


def _disconnect(cycle: RequestResponseCycle) -> None:
    """Notify the application that its client has disconnected."""
    if not cycle.response_complete:
        cycle.disconnected = True
        cycle.message_event.set()

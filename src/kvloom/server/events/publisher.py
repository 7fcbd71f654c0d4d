"""A thread that publishes what a ``Feed`` heard, and answers who missed something.

PUB      topic, sequence number, batch                  numbers ascend by one from 0 on
REPLAY   a number --> each batch from there on that is kept, with its number; then -1 and nothing
SNAPSHOT "snapshot" --> the last number, the publisher's id, batches with all that was stored then

Numbers are 8 bytes, the highest first.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Sequence

import msgspec
import zmq

from kvloom.config import EventsConfig
from kvloom.errors import ConfigError
from kvloom.server.events.feed import Feed
from kvloom.server.events.told import Event, Told, in_parts
from kvloom.server.events.wire import Batch

logger = logging.getLogger(__name__)

_POLL_S = 0.05
_HEARTBEAT_S = 1.0
"""A publisher of snapshots is never silent for longer: subscribers take 5 seconds of silence for its end."""
_PART = 1000
"""Events of one batch."""
_END = (-1).to_bytes(8, "big", signed=True)
_NO_LIMIT = 0
"""Messages that an answer may have: what is asked for is bounded by what is kept."""
_UNBOUND = "choose another port, or leave the endpoint out"


class Publisher:
    """Opens its sockets and starts its thread on construction. Raises ConfigError when an address cannot be had."""

    def __init__(self, config: EventsConfig, feed: Feed, told: Told) -> None:
        self.batches = 0
        self._feed, self._told = feed, told
        self._topic, self._id = config.kv_events_topic.encode(), secrets.token_bytes(16)
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=config.kv_events_buffer_steps)
        self._encode = msgspec.msgpack.Encoder().encode
        self._context = zmq.Context()
        try:
            self._pub = self._open(zmq.PUB, config.kv_events_endpoint, config.kv_events_hwm)
            self._replay = self._open(zmq.ROUTER, config.kv_events_replay_endpoint, _NO_LIMIT)
            self._snapshot = self._open(zmq.ROUTER, config.kv_events_snapshot_endpoint, _NO_LIMIT)
        except ConfigError:
            self._context.destroy(linger=0)
            raise
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kvloom-kv-events", daemon=True)
        self._thread.start()

    def close(self, seconds: float = 2.0) -> None:
        """Publish what waits, for at most so long."""
        self._closing.set()
        self._feed.wake()
        self._thread.join(seconds)

    def _open(self, kind: int, endpoint: str | None, hwm: int) -> zmq.Socket[bytes] | None:
        if endpoint is None:
            return None
        socket = self._context.socket(kind)
        socket.set_hwm(hwm)
        binds = kind != zmq.PUB or "*" in endpoint or "::" in endpoint or endpoint.startswith(("ipc:", "inproc:"))
        try:
            (socket.bind if binds else socket.connect)(endpoint)
        except zmq.ZMQError as error:
            raise ConfigError(f"cannot use `{endpoint}` for events about KV: {error}", hint=_UNBOUND) from None
        return socket

    def _run(self) -> None:
        beat_s = time.monotonic() + _HEARTBEAT_S
        try:
            while True:
                changes = self._feed.take(_POLL_S)
                events = self._told.events(changes)
                if events or (self._snapshot is not None and time.monotonic() >= beat_s):
                    for part in in_parts(events, _PART):
                        self._publish(part)
                    beat_s = time.monotonic() + _HEARTBEAT_S
                self._answer()
                if self._closing.is_set() and not changes:
                    return
        except Exception:
            logger.exception("events about KV are not published any more")
        finally:
            self._context.destroy(linger=100)

    def _publish(self, events: Sequence[Event]) -> None:
        """Never waits for a subscriber: PUB drops what one has no room for, who sees that by the number."""
        payload = self._batch(events)
        if self._pub is not None:
            self._pub.send_multipart((self._topic, self.batches.to_bytes(8, "big"), payload))
        self._kept.append((self.batches, payload))
        self.batches += 1

    def _batch(self, events: Sequence[Event]) -> bytes:
        return self._encode(Batch(time.time(), list(events), 0, None if self._snapshot is None else self._id))

    def _answer(self) -> None:
        for socket, reply in ((self._replay, self._replay_to), (self._snapshot, self._snapshot_to)):
            while socket is not None and socket.poll(0):
                asked = socket.recv_multipart()
                with contextlib.suppress(zmq.Again):  # whoever asks and does not read misses the rest
                    reply(socket, asked)

    def _replay_to(self, socket: zmq.Socket[bytes], asked: list[bytes]) -> None:
        if len(asked) != 3 or len(asked[2]) != 8:
            return
        client, first = asked[0], int.from_bytes(asked[2], "big")
        for number, payload in [kept for kept in self._kept if kept[0] >= first]:
            socket.send_multipart((client, b"", number.to_bytes(8, "big"), payload), zmq.NOBLOCK)
        socket.send_multipart((client, b"", _END, b""), zmq.NOBLOCK)

    def _snapshot_to(self, socket: zmq.Socket[bytes], asked: list[bytes]) -> None:
        if len(asked) != 3 or asked[2] != b"snapshot":
            return
        last = (self.batches - 1).to_bytes(8, "big", signed=True)
        parts = [self._batch(part) for part in in_parts(list(self._told.snapshot()), _PART)]
        socket.send_multipart((asked[0], b"", last, self._id, *parts), zmq.NOBLOCK)

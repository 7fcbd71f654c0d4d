"""How many requests a client may send: in a minute, and at once.

allowance += (now - before) * requests_per_minute / 60, at most requests_per_minute      a request takes 1
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kvloom.server.errors import TooManyRequests

_CLIENTS = 10_000
"""Clients remembered; of more, those that were here longest ago are forgotten, unless a request of theirs runs."""

_SOON_S = 1
"""When to come again while too many requests of one's own are running: nobody knows when one ends."""


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit."""

    requests_per_minute: int | None = None
    concurrent_requests: int | None = None


NO_LIMITS = Limits()


@dataclass(slots=True)
class _Meter:
    allowance: float
    at_s: float
    running: int = 0


@dataclass(slots=True)
class Meters:
    """What each client has used. On the event loop only. ``clock``: monotonic seconds."""

    clock: Callable[[], float] = time.monotonic
    _meters: OrderedDict[str, _Meter] = field(default_factory=OrderedDict)

    @contextmanager
    def admitted(self, client: str, limits: Limits) -> Iterator[None]:
        """While a request of ``client`` is answered. Raises TooManyRequests."""
        if limits == NO_LIMITS:
            yield
            return
        meter = self._meter(client, limits)
        self._check(meter, limits)
        meter.allowance -= 1
        meter.running += 1
        try:
            yield
        finally:
            meter.running -= 1

    def _meter(self, client: str, limits: Limits) -> _Meter:
        now, most = self.clock(), float(limits.requests_per_minute or 0)
        meter = self._meters.setdefault(client, _Meter(most, now))
        self._meters.move_to_end(client)
        meter.allowance = min(most, meter.allowance + (now - meter.at_s) * most / 60)
        meter.at_s = now
        if len(self._meters) > _CLIENTS:
            oldest = next((name for name, other in self._meters.items() if not other.running), None)
            if oldest is not None:
                del self._meters[oldest]
        return meter

    def _check(self, meter: _Meter, limits: Limits) -> None:
        at_once, rate = limits.concurrent_requests, limits.requests_per_minute
        if at_once is not None and meter.running >= at_once:
            raise TooManyRequests(f"{meter.running} requests of yours are running, at most {at_once} may", _SOON_S)
        if rate is not None and meter.allowance < 1:
            wait_s = math.ceil((1 - meter.allowance) * 60 / rate)
            raise TooManyRequests(f"at most {rate} requests may be sent per minute", wait_s)

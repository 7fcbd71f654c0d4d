"""A circuit breaker: a service that failed several times in a row is left alone for a while, then tried by one call."""

from __future__ import annotations

import math
from collections.abc import Callable
from threading import Lock


class Breaker:
    """Opens after ``faults`` in a row, for ``rest_seconds``; then one call per ``rest_seconds`` may try. Thread-safe.

    A call that went well closes it. ``clock``: seconds that only grow.
    """

    def __init__(self, *, faults: int, rest_seconds: float, clock: Callable[[], float]) -> None:
        self._limit = faults
        self._rest_seconds = rest_seconds
        self._clock = clock
        self._faults = 0
        self._open_until = -math.inf
        self._lock = Lock()

    @property
    def is_open(self) -> bool:
        """Whether a call would be turned away now."""
        return self._faults >= self._limit and self._clock() < self._open_until

    def admit(self) -> bool:
        """Whether a call may be made; its outcome is to be told by ``went_well`` or ``went_wrong``."""
        with self._lock:
            if self._faults < self._limit:
                return True
            now = self._clock()
            if now < self._open_until:
                return False
            self._open_until = now + self._rest_seconds  # the others wait for this one's outcome
            return True

    def went_well(self) -> None:
        with self._lock:
            self._faults = 0

    def went_wrong(self) -> None:
        with self._lock:
            self._faults += 1
            if self._faults >= self._limit:
                self._open_until = self._clock() + self._rest_seconds

"""Time that passes only when somebody says so."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count


@dataclass(order=True, slots=True)
class Event:
    """``number``: of those at the same time, the order in which they were asked for."""

    at_s: float
    number: int
    call: Callable[[], None] | None = field(compare=False)

    def cancel(self) -> None:
        self.call = None

    def is_alive(self) -> bool:
        """Whether it has still to happen."""
        return self.call is not None


@dataclass(slots=True)
class SimulatedClock:
    """Seconds since the start: call it to read it."""

    now: float = 0.0
    _events: list[Event] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=count)

    def __call__(self) -> float:
        return self.now

    def after(self, seconds: float, call: Callable[[], None]) -> Event:
        """Call it when so much time has passed, with the clock at that time."""
        event = Event(self.now + seconds, next(self._numbers), call)
        heapq.heappush(self._events, event)
        return event

    def advance(self, seconds: float) -> None:
        """Let so much time pass. Raises ValueError when it is negative: time never goes back."""
        if not seconds >= 0:
            raise ValueError(f"time cannot advance by {seconds} s")
        until_s = self.now + seconds
        while self._events and self._events[0].at_s <= until_s:
            self._happen()
        self.now = until_s

    def wait(self, seconds: float) -> None:
        """Let time pass until something happens, at most so much."""
        while self._events and not self._events[0].is_alive():
            heapq.heappop(self._events)
        if self._events and self._events[0].at_s <= self.now + seconds:
            self._happen()
        else:
            self.advance(seconds)

    def _happen(self) -> None:
        event = heapq.heappop(self._events)
        call, event.call = event.call, None
        if call is not None:
            self.now = max(self.now, event.at_s)
            call()

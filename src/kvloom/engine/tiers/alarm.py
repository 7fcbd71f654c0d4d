"""An alarm: news when there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol


class Timer(Protocol):
    def cancel(self) -> None: ...
    def is_alive(self) -> bool:
        """Whether it has still to go off."""
        ...


BeginTimer = Callable[[float, Callable[[], None]], Timer]
"""Calls what it is given in so many seconds, unless it is cancelled before."""


@dataclass(eq=False)
class Alarm:
    """Calls ``ring`` ``seconds`` after it was set."""

    seconds: float
    ring: Callable[[], None]
    begin: BeginTimer
    _timer: Timer | None = field(default=None, init=False)

    def set(self) -> None:
        """Unless it is set already."""
        if self._timer is None or not self._timer.is_alive():
            self._timer = self.begin(self.seconds, self.ring)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

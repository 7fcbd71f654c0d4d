"""An alarm: news when there is none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(eq=False)
class Alarm:
    """Calls ``ring``, from a thread of its own, ``seconds`` after it was set."""

    seconds: float
    ring: Callable[[], None]
    _timer: threading.Timer | None = field(default=None, init=False)

    def set(self) -> None:
        """Unless it is set already."""
        if self._timer is None or not self._timer.is_alive():
            self._timer = threading.Timer(self.seconds, self.ring)
            self._timer.daemon = True
            self._timer.start()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

"""Something done again and again in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread


class Repeated:
    """Calls ``do`` at once and then every ``seconds``, until it is closed."""

    def __init__(self, do: Callable[[], None], seconds: float, *, name: str) -> None:
        self._do = do
        self._seconds = seconds
        self._closed = Event()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self, timeout_seconds: float) -> None:
        """Waits for a call that is under way, for so long at most."""
        self._closed.set()
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        self._do()
        while not self._closed.wait(self._seconds):
            self._do()

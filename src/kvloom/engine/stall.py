"""Whether steps get anywhere: an engine all of whose requests wait for something outside it sleeps."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Stall:
    """A step that computed nothing and changed nothing would do the same again, until somebody brings news.

    The engine's thread tells of its steps; all else may be called from any thread. News that comes in the middle of a
    step is not lost: only a step that begins later takes it.

    ``interrupt``: called with news from outside, by whoever sleeps in a way of its own.
    """

    def __init__(self) -> None:
        self._news = threading.Event()
        self._stuck = False
        self._state: object = None
        self.interrupt: Callable[[], None] = lambda: None

    @property
    def over(self) -> bool:
        """Whether the next step may get somewhere."""
        return not self._stuck or self._news.is_set()

    def wake(self) -> None:
        self._news.set()

    def tell(self) -> None:
        """News from outside, which the engine's thread does not expect: as ``wake``, wherever that thread sleeps."""
        self.wake()
        self.interrupt()

    def sleep(self, seconds: float) -> None:
        """Until there is news, at most ``seconds``."""
        self._news.wait(seconds)

    def step_begins(self) -> None:
        if self._news.is_set():  # asking is cheaper than clearing, and this is asked for every step
            self._news.clear()

    def step_worked(self) -> None:
        self._stuck, self._state = False, None

    def step_idled(self, state: object) -> None:
        """It computed nothing. ``state``: all that steps change; twice the same means that nothing moves."""
        self._stuck, self._state = state == self._state, state

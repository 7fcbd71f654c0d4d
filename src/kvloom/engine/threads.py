"""Threads that nobody waits for: a few, begun when there is work, gone when there is none for a while.

They do not delay the exit of the process, as those of ``concurrent.futures`` do, which Python joins: work hangs where a
disk or a server does.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

_IDLE_S = 5.0


class Threads:
    """At most ``count`` threads of this name."""

    def __init__(self, name: str, count: int) -> None:
        self._name, self._count, self._running = name, count, 0
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()

    def submit(self, work: Callable[[], None]) -> None:
        """Do ``work``, which must not raise, on one of them, in the order of calls."""
        with self._lock:
            self._jobs.put(work)
            begin = self._running < self._count
            self._running += begin
        if begin:
            threading.Thread(target=self._serve, name=self._name, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                work = self._jobs.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._jobs.empty():
                        self._running -= 1
                        return
            else:
                work()
                del work  # while it waits for the next, what this one held is free

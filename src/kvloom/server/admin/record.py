"""What is remembered of requests when they are over: measurements, and a line in a log if there is one."""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.outputs import RequestUpdate
from kvloom.server.admin.metrics import Metrics
from kvloom.server.admin.request_log import RequestLog


@dataclass(frozen=True, slots=True)
class Record:
    """``log``: None, there is none."""

    metrics: Metrics
    log: RequestLog | None = None

    def answered(self, update: RequestUpdate, cache: CacheParams) -> None:
        """A request has been answered in full."""
        self.metrics.observe(update)
        if self.log is not None:
            self.log.answered(update, cache.salt)

"""What is remembered of requests: whose they are, measurements, and a line in a log if there is one."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.outputs import RequestUpdate
from kvloom.server.admin.metrics import Metrics
from kvloom.server.admin.recent import Recent
from kvloom.server.admin.request_log import RequestLog
from kvloom.server.edge.caller import Caller


@dataclass(frozen=True, slots=True)
class Record:
    """``log``: None, there is none."""

    metrics: Metrics
    log: RequestLog | None = None
    recent: Recent = field(default_factory=Recent)

    def begun(self, request_id: str, caller: Caller) -> None:
        """A request is about to be handed to the engine."""
        self.recent.begun(request_id, caller)

    def answered(self, update: RequestUpdate, cache: CacheParams) -> None:
        """A request has been answered in full."""
        self.metrics.observe(update)
        self.recent.answered(update)
        if self.log is not None:
            self.log.answered(update, cache.salt)

"""What is remembered of requests: whose they are, what they took and found, and a line in a log if there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.outputs import FinishReason, RequestUpdate
from kvloom.engine.params import SamplingParams
from kvloom.errors import KvloomError
from kvloom.server.admin.metrics import Metrics
from kvloom.server.admin.recent import Recent
from kvloom.server.admin.request_log import RequestLog
from kvloom.server.admin.tracing import Asked, Tracing
from kvloom.server.edge.caller import Caller


@dataclass(frozen=True, slots=True)
class Record:
    """``log``, ``tracing``: None, there is none."""

    metrics: Metrics
    log: RequestLog | None = None
    tracing: Tracing | None = None
    recent: Recent = field(default_factory=Recent)

    def begun(self, reply_id: str, request_id: str, caller: Caller) -> None:
        """A request is about to be handed to the engine."""
        self.recent.begun(reply_id, request_id, caller)

    @contextmanager
    def of(self, asked: Asked, prompts: int) -> Iterator[Ends]:
        """Note how each of the requests for so many prompts ends, once, whatever happens.

        Those that are left when nobody listens any more, or when another prompt of the body failed, were aborted. What
        the engine refuses is no request.
        """
        ends = Ends(self, asked, prompts)
        try:
            yield ends
        except KvloomError:
            if ends.begun:
                ends.break_off("error")
                ends.leave_all("abort")
            raise
        except BaseException:
            ends.leave_all("abort")
            raise


@dataclass(slots=True)
class Ends:
    """Of the prompts of one body. ``open``: how many have not ended. ``begun``: whether any has come to something."""

    record: Record
    asked: Asked
    open: int
    begun: bool = False

    def answered(self, update: RequestUpdate, cache: CacheParams, params: SamplingParams) -> None:
        """One has been answered in full. The answer that ended last says why."""
        reasons = [delta.finish_reason for delta in update.deltas if delta.finish_reason is not None]
        reason = reasons[-1] if reasons else "stop"
        self._leave(reason)
        self.record.metrics.observe(update, params)
        self.record.recent.answered(update)
        if self.record.tracing is not None:
            self.record.tracing.answered(self.asked, update, reason)
        if self.record.log is not None:
            self.record.log.answered(update, cache.salt)

    def break_off(self, reason: FinishReason) -> None:
        self._leave(reason)
        if self.record.tracing is not None:
            self.record.tracing.broken_off(self.asked, reason)

    def leave_all(self, reason: FinishReason) -> None:
        while self.open > 0:
            self.break_off(reason)

    def _leave(self, reason: FinishReason) -> None:
        self.open -= 1
        self.record.metrics.ended(reason)

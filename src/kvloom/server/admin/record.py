"""What is remembered of requests when they are over: measurements, and a line in a log if there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.outputs import FinishReason, RequestUpdate
from kvloom.engine.params import SamplingParams
from kvloom.errors import KvloomError
from kvloom.server.admin.metrics import Metrics
from kvloom.server.admin.request_log import RequestLog


@dataclass(frozen=True, slots=True)
class Record:
    """``log``: None, there is none."""

    metrics: Metrics
    log: RequestLog | None = None

    @contextmanager
    def of(self, prompts: int) -> Iterator[Ends]:
        """Count how each of the requests for so many prompts ends, once, whatever happens.

        Those that are left when nobody listens any more, or when another prompt of the body failed, were aborted. What
        the engine refuses is no request.
        """
        ends = Ends(self, prompts)
        try:
            yield ends
        except KvloomError:
            if ends.begun:
                ends.leave("error")
                ends.leave_all("abort")
            raise
        except BaseException:
            ends.leave_all("abort")
            raise


@dataclass(slots=True)
class Ends:
    """Of the prompts of one body. ``open``: how many have not ended. ``begun``: whether any has come to something."""

    record: Record
    open: int
    begun: bool = False

    def answered(self, update: RequestUpdate, cache: CacheParams, params: SamplingParams) -> None:
        """One has been answered in full. The answer that ended last says why."""
        reasons = [delta.finish_reason for delta in update.deltas if delta.finish_reason is not None]
        self.leave(reasons[-1] if reasons else "stop")
        self.record.metrics.observe(update, params)
        if self.record.log is not None:
            self.record.log.answered(update, cache.salt)

    def leave(self, reason: FinishReason) -> None:
        self.open -= 1
        self.record.metrics.ended(reason)

    def leave_all(self, reason: FinishReason) -> None:
        while self.open > 0:
            self.leave(reason)

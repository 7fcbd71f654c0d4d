"""Replay a trace on an engine: requests arrive when they did, or faster."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from kvloom.bench.trace import TraceRequest
from kvloom.engine.engine import Engine
from kvloom.engine.outputs import RequestMetrics, RequestUpdate
from kvloom.engine.params import SamplingParams
from kvloom.errors import RequestError


@dataclass(slots=True)
class Replayed:
    """The result of a trace. refused: requests that can never fit. Seconds are of the replay's clock."""

    seconds: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    refused: int = 0
    ttft_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)

    def add(self, request: TraceRequest, metrics: RequestMetrics) -> None:
        """A request that ended."""
        self.input_tokens += request.input_length
        self.output_tokens += len(metrics.token_times_s)
        self.cached_tokens += metrics.cached_tokens
        self.ttft_s += [] if metrics.ttft_s is None else [metrics.ttft_s]
        times = metrics.token_times_s
        self.gaps_s += [later - earlier for earlier, later in pairwise(times)]


@dataclass(slots=True)
class Replay:
    """``speed``: how many times faster than recorded the requests arrive. ``on_end``: called when one has ended."""

    engine: Engine
    speed: float = 1.0
    on_end: Callable[[], None] = lambda: None
    sleep: Callable[[float], None] = time.sleep
    result: Replayed = field(default_factory=Replayed)
    _running: dict[str, TraceRequest] = field(default_factory=dict)

    def run(self, requests: Sequence[TraceRequest]) -> Replayed:
        """To the end of the last request, from an empty cache."""
        self.engine.reset_cache()
        started = self.engine.clock()
        waiting = list(requests)[::-1]
        try:
            while waiting or self.engine.has_work:
                now = self.engine.clock() - started
                while waiting and waiting[-1].arrival_s / self.speed <= now:
                    self._submit(f"trace-{len(waiting)}", waiting.pop())
                if self.engine.has_work:
                    for update in self.engine.step():
                        self._hear(update)
                elif waiting:
                    self.sleep(max(0.0, waiting[-1].arrival_s / self.speed - now))
        finally:  # an error or Ctrl-C: leave nothing behind
            for name in self._running:
                self.engine.abort(name)
        self.result.seconds = self.engine.clock() - started
        return self.result

    def _submit(self, name: str, request: TraceRequest) -> None:
        params = SamplingParams(temperature=0.0, max_tokens=request.output_length, ignore_eos=True)
        try:
            self.engine.submit(name, request.prompt(self.engine.model.vocab_size), params)
        except RequestError:
            self.result.refused += 1
            self.on_end()
        else:
            self._running[name] = request

    def _hear(self, update: RequestUpdate) -> None:
        if update.error is not None:
            raise update.error
        if update.finished:
            self.result.add(self._running.pop(update.request_id), update.metrics)
            self.on_end()

"""Replay requests on an engine: they arrive when they did, or faster, whether earlier ones are answered or not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

from kvloom.engine.cache_params import CacheParams
from kvloom.engine.engine import Engine
from kvloom.engine.outputs import RequestMetrics, RequestUpdate
from kvloom.engine.params import SamplingParams
from kvloom.errors import RequestError


class Arriving(Protocol):
    """A request of a trace. ``arrival_s``: since the trace's start."""

    @property
    def arrival_s(self) -> float: ...
    @property
    def input_length(self) -> int: ...
    @property
    def output_length(self) -> int: ...
    def prompt(self, vocab_size: int) -> list[int]: ...


_LONGEST_WAIT_S = 60.0
"""For what the engine waits for, before it is asked again."""

Asked = TypeVar("Asked", bound=Arriving)
Asked_contra = TypeVar("Asked_contra", bound=Arriving, contravariant=True)


class Listening(Protocol[Asked_contra]):
    """Hears how every request ended."""

    def add(self, request: Asked_contra, metrics: RequestMetrics, late_s: float) -> None:
        """It was answered. It had to wait ``late_s`` for a step to end before it could be submitted."""
        ...

    def refuse(self, request: Asked_contra) -> None:
        """It can never fit."""
        ...


@dataclass(slots=True)
class Replayed:
    """The result of a trace. refused: requests that can never fit. Seconds are of the replay's clock. ``on_end``:
    called when a request has ended.
    """

    on_end: Callable[[], None] = lambda: None
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    refused: int = 0
    ttft_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)

    def add(self, request: Arriving, metrics: RequestMetrics, late_s: float) -> None:
        self.input_tokens += request.input_length
        self.output_tokens += len(metrics.token_times_s)
        self.cached_tokens += metrics.cached_tokens
        self.ttft_s += [] if metrics.ttft_s is None else [late_s + metrics.ttft_s]
        times = metrics.token_times_s
        self.gaps_s += [later - earlier for earlier, later in pairwise(times)]
        self.on_end()

    def refuse(self, request: Arriving) -> None:
        self.refused += 1
        self.on_end()


@dataclass(slots=True)
class Replay(Generic[Asked]):
    """``speed``: how many times faster than recorded the requests arrive. ``sleep``: waits, by the engine's clock, at
    most so long, for the next request or for what the engine waits for; None: in real time. ``cache``: what a request
    says of the cache.
    """

    engine: Engine
    result: Listening[Asked]
    speed: float = 1.0
    sleep: Callable[[float], None] | None = None
    cache: Callable[[Asked], CacheParams | None] = lambda request: None
    _running: dict[str, tuple[Asked, float]] = field(default_factory=dict)

    def run(self, requests: Sequence[Asked]) -> float:
        """To the end of the last request, from an empty cache; returns seconds. ``requests``: by arrival."""
        self.engine.reset_cache()
        started = self.engine.clock()
        waiting = list(requests)[::-1]
        try:
            while waiting or self.engine.has_work:
                now = self.engine.clock() - started
                while waiting and waiting[-1].arrival_s / self.speed <= now:
                    due = waiting[-1].arrival_s / self.speed
                    self._submit(f"trace-{len(waiting)}", waiting.pop(), now - due)
                if self.engine.runnable:
                    for update in self.engine.step():
                        self._hear(update)
                elif waiting or self.engine.has_work:
                    self._wait(waiting[-1].arrival_s / self.speed - now if waiting else _LONGEST_WAIT_S)
        finally:  # an error or Ctrl-C: leave nothing behind
            for name in self._running:
                self.engine.abort(name)
        return self.engine.clock() - started

    def _wait(self, seconds: float) -> None:
        if self.sleep is not None:
            self.sleep(max(0.0, seconds))
        elif self.engine.has_work:
            self.engine.sleep(seconds)
        else:
            time.sleep(max(0.0, seconds))

    def _submit(self, name: str, request: Asked, late_s: float) -> None:
        params = SamplingParams(temperature=0.0, max_tokens=request.output_length, ignore_eos=True)
        try:
            prompt = request.prompt(self.engine.model.vocab_size)
            self.engine.submit(name, prompt, params, cache=self.cache(request))
        except RequestError:
            self.result.refuse(request)
        else:
            self._running[name] = request, late_s

    def _hear(self, update: RequestUpdate) -> None:
        if update.error is not None:
            raise update.error
        if update.finished:
            request, late_s = self._running.pop(update.request_id)
            self.result.add(request, update.metrics, late_s)

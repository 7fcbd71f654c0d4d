"""Updates on their way from the engine's thread to the event loops that wait for them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

from kvloom.engine.outputs import RequestUpdate
from kvloom.engine.update_queue import Update, UpdateQueue, tell
from kvloom.errors import KvloomError

CROWD = 16
"""Streams from which on steps share a wake-up."""

PACE_S = 0.04
"""How long a crowd's updates may wait for those of the next step: text that moves 25 times a second flows."""


class UpdateBatcher:
    """Gathers updates on the engine's thread: one wake-up of an event loop brings all that there are for it.

    Waking a crowd of readers takes a millisecond or two from the cores that compute, so a crowd is not woken for every
    step when steps are short: it gets the tokens of two or three at once. First tokens, last ones and errors never
    wait. ``clock``: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._batches: dict[asyncio.AbstractEventLoop, dict[UpdateQueue, list[Update]]] = {}
        self._urgent = False
        self._next_s = 0.0

    def add(self, queue: UpdateQueue, update: Update) -> None:
        waiting = self._batches.setdefault(queue.loop, {}).setdefault(queue, [])
        if waiting and isinstance(waiting[-1], RequestUpdate) and isinstance(update, RequestUpdate):
            waiting[-1] = _joined(waiting[-1], update)
        else:
            waiting.append(update)
        self._urgent = self._urgent or isinstance(update, KvloomError) or update.finished or _is_first(update)

    def send(self, *, urgent: bool) -> None:
        """After a step. ``urgent``: nothing may stay behind, for no step follows."""
        now = self._clock()
        crowded = sum(map(len, self._batches.values())) >= CROWD
        if crowded and now < self._next_s and not self._urgent and not urgent:
            return
        self._next_s, self._urgent = now + PACE_S, False
        batches, self._batches = self._batches, {}
        for loop, batch in batches.items():
            tell(loop, _put_all, batch)


def _is_first(update: RequestUpdate) -> bool:
    return len(update.metrics.token_times_s) < 2


def _joined(earlier: RequestUpdate, later: RequestUpdate) -> RequestUpdate:
    """One update that says what two would have said."""
    scores = earlier.prompt_logprobs if later.prompt_logprobs is None else later.prompt_logprobs
    return dataclasses.replace(later, deltas=earlier.deltas + later.deltas, prompt_logprobs=scores)


def _put_all(batch: dict[UpdateQueue, list[Update]]) -> None:
    for queue, updates in batch.items():
        for update in updates:
            queue.put(update)

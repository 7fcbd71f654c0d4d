"""Updates from the engine's thread: in order, all of it, and a crowd is not woken for every step."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from kvloom.engine.outputs import CompletionDelta, RequestMetrics, RequestUpdate
from kvloom.engine.update_batcher import CROWD, PACE_S, UpdateBatcher
from kvloom.engine.update_queue import Update, UpdateQueue
from kvloom.errors import InternalError


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def update(number: int, *, first: bool = False, finished: bool = False) -> RequestUpdate:
    metrics = RequestMetrics(token_times_s=[0.1] if first else [0.1] * 5)
    return RequestUpdate(f"r{number}", [1], (CompletionDelta(0, "a", (number,), None),), metrics, finished=finished)


async def arrived(queue: UpdateQueue) -> list[Update]:
    """What is there once the event loop has had its turn."""
    await asyncio.sleep(0)
    found = []
    while True:
        try:
            found.append(await asyncio.wait_for(queue.get(), 0.001))
        except TimeoutError:
            return found


def step(batcher: UpdateBatcher, queues: list[UpdateQueue], number: int) -> list[RequestUpdate]:
    """Every queue gets one update."""
    sent = [update(number) for _ in queues]
    for queue, each in zip(queues, sent, strict=True):
        batcher.add(queue, each)
    batcher.send(urgent=False)
    return sent


async def test_few_readers_are_woken_for_every_step() -> None:
    batcher, queues = UpdateBatcher(Clock()), [UpdateQueue() for _ in range(CROWD - 1)]
    for number in range(3):
        sent = step(batcher, queues, number)
        assert [await arrived(queue) for queue in queues] == [[each] for each in sent]


async def test_a_crowd_waits_for_the_next_step_and_misses_nothing() -> None:
    clock = Clock()
    batcher, queues = UpdateBatcher(clock), [UpdateQueue() for _ in range(CROWD)]
    first = step(batcher, queues, 0)
    assert [await arrived(queue) for queue in queues] == [[each] for each in first], "nobody has waited yet"
    clock.now += PACE_S / 2
    step(batcher, queues, 1)
    assert await arrived(queues[0]) == []
    clock.now += PACE_S
    step(batcher, queues, 2)
    for queue in queues:
        updates = await arrived(queue)
        assert len(updates) == 1
        assert tokens_of(updates) == [1, 2]


async def test_long_steps_are_never_held() -> None:
    clock = Clock()
    batcher, queues = UpdateBatcher(clock), [UpdateQueue() for _ in range(CROWD)]
    for number in range(3):
        sent = step(batcher, queues, number)
        assert await arrived(queues[0]) == sent[:1]
        clock.now += PACE_S


@pytest.mark.parametrize("news", [update(2, first=True), update(2, finished=True)], ids=["first", "last"])
async def test_first_tokens_and_last_ones_do_not_wait(news: RequestUpdate) -> None:
    batcher, queues = UpdateBatcher(Clock()), [UpdateQueue() for _ in range(CROWD)]
    step(batcher, queues, 0)
    step(batcher, queues, 1)
    assert tokens_of(await arrived(queues[3])) == [0]
    batcher.add(queues[0], news)
    batcher.send(urgent=False)
    assert tokens_of(await arrived(queues[0])) == [0, 1, 2]
    assert tokens_of(await arrived(queues[3])) == [1], "what waited comes along"


async def test_an_error_does_not_wait_and_swallows_nothing() -> None:
    batcher, queues = UpdateBatcher(Clock()), [UpdateQueue() for _ in range(CROWD)]
    step(batcher, queues, 0)
    step(batcher, queues, 1)
    error = InternalError("broken")
    batcher.add(queues[0], error)
    batcher.send(urgent=False)
    *before, newest = await arrived(queues[0])
    assert tokens_of(before) == [0, 1]
    assert newest is error


async def test_nothing_stays_behind_when_no_step_follows() -> None:
    batcher, queues = UpdateBatcher(Clock()), [UpdateQueue() for _ in range(CROWD)]
    step(batcher, queues, 0)
    step(batcher, queues, 1)
    batcher.send(urgent=True)
    assert tokens_of(await arrived(queues[0])) == [0, 1]


def tokens_of(updates: list[Update]) -> list[int]:
    return [token for update in updates for delta in update.deltas for token in delta.token_ids]

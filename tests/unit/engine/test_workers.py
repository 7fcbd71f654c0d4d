"""A few threads for what would hold up an event loop."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from kvloom.engine import threads as threads_of
from kvloom.engine.workers import Workers


async def test_results_and_errors_come_back() -> None:
    some = Workers("test", count=2)
    assert await some.run(lambda: 1 + 1) == 2
    with pytest.raises(ZeroDivisionError):
        await some.run(lambda: 1 // 0)
    assert await asyncio.gather(*(some.run(lambda n=n: n) for n in range(50))) == list(range(50))


async def test_no_more_than_a_few_at_once_in_order() -> None:
    some, lock, order = Workers("test", count=2), threading.Lock(), []
    now = most = 0

    def work(number: int) -> None:
        nonlocal now, most
        with lock:
            now, order[len(order) :] = now + 1, [number]
            most = max(most, now)
        time.sleep(0.002)
        with lock:
            now -= 1

    await asyncio.gather(*(some.run(lambda n=n: work(n)) for n in range(20)))
    assert most == 2
    assert sorted(order) == list(range(20))
    assert all(abs(place - number) <= 1 for place, number in enumerate(order))


async def test_what_is_cancelled_in_time_is_not_begun() -> None:
    one, gate, begun = Workers("test", count=1), threading.Event(), []
    first = asyncio.create_task(one.run(gate.wait))
    second = asyncio.create_task(one.run(lambda: begun.append(2)))
    await asyncio.sleep(0.01)
    first.cancel()
    second.cancel()
    gate.set()
    await one.run(lambda: None)
    assert begun == []


async def test_threads_hold_up_no_exit_and_go_when_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_of, "_IDLE_S", 0.02)
    some = Workers("idle-test", count=3)
    threads = [await some.run(threading.current_thread) for _ in range(3)]
    assert all(thread.daemon for thread in threads)
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert await some.run(lambda: 7) == 7, "another begins when there is work again"


def test_it_serves_several_loops() -> None:
    some = Workers("test", count=1)
    for number in range(3):
        assert asyncio.run(some.run(lambda n=number: n)) == number

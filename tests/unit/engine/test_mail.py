"""Mail from the engine's thread: in order, all of it, and a crowd is not woken for every step."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from kvloom.engine.mail import CROWD, PACE_S, Inbox, Mail, Postbag
from kvloom.engine.outputs import CompletionDelta, RequestMetrics, RequestUpdate
from kvloom.errors import InternalError


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def update(number: int, *, first: bool = False, finished: bool = False) -> RequestUpdate:
    metrics = RequestMetrics(token_times_s=[0.1] if first else [0.1] * 5)
    return RequestUpdate(f"r{number}", [1], (CompletionDelta(0, "a", (number,), None),), metrics, finished=finished)


async def arrived(inbox: Inbox) -> list[Mail]:
    """What is there once the event loop has had its turn."""
    await asyncio.sleep(0)
    found = []
    while True:
        try:
            found.append(await asyncio.wait_for(inbox.get(), 0.001))
        except TimeoutError:
            return found


def step(post: Postbag, inboxes: list[Inbox], number: int) -> list[RequestUpdate]:
    """Every inbox gets one update."""
    sent = [update(number) for _ in inboxes]
    for inbox, each in zip(inboxes, sent, strict=True):
        post.add(inbox, each)
    post.send(hurry=False)
    return sent


async def test_few_readers_are_woken_for_every_step() -> None:
    post, inboxes = Postbag(Clock()), [Inbox() for _ in range(CROWD - 1)]
    for number in range(3):
        sent = step(post, inboxes, number)
        assert [await arrived(inbox) for inbox in inboxes] == [[each] for each in sent]


async def test_a_crowd_waits_for_the_next_step_and_misses_nothing() -> None:
    clock = Clock()
    post, inboxes = Postbag(clock), [Inbox() for _ in range(CROWD)]
    first = step(post, inboxes, 0)
    assert [await arrived(inbox) for inbox in inboxes] == [[each] for each in first], "nobody has waited yet"
    clock.now += PACE_S / 2
    step(post, inboxes, 1)
    assert await arrived(inboxes[0]) == []
    clock.now += PACE_S
    step(post, inboxes, 2)
    for inbox in inboxes:
        mails = await arrived(inbox)
        assert len(mails) == 1
        assert tokens_of(mails) == [1, 2]


async def test_long_steps_are_never_held() -> None:
    clock = Clock()
    post, inboxes = Postbag(clock), [Inbox() for _ in range(CROWD)]
    for number in range(3):
        sent = step(post, inboxes, number)
        assert await arrived(inboxes[0]) == sent[:1]
        clock.now += PACE_S


@pytest.mark.parametrize("news", [update(2, first=True), update(2, finished=True)], ids=["first", "last"])
async def test_first_tokens_and_last_ones_do_not_wait(news: RequestUpdate) -> None:
    post, inboxes = Postbag(Clock()), [Inbox() for _ in range(CROWD)]
    step(post, inboxes, 0)
    step(post, inboxes, 1)
    assert tokens_of(await arrived(inboxes[3])) == [0]
    post.add(inboxes[0], news)
    post.send(hurry=False)
    assert tokens_of(await arrived(inboxes[0])) == [0, 1, 2]
    assert tokens_of(await arrived(inboxes[3])) == [1], "what waited comes along"


async def test_an_error_does_not_wait_and_swallows_nothing() -> None:
    post, inboxes = Postbag(Clock()), [Inbox() for _ in range(CROWD)]
    step(post, inboxes, 0)
    step(post, inboxes, 1)
    error = InternalError("broken")
    post.add(inboxes[0], error)
    post.send(hurry=False)
    *before, newest = await arrived(inboxes[0])
    assert tokens_of(before) == [0, 1]
    assert newest is error


async def test_nothing_stays_behind_when_no_step_follows() -> None:
    post, inboxes = Postbag(Clock()), [Inbox() for _ in range(CROWD)]
    step(post, inboxes, 0)
    step(post, inboxes, 1)
    post.send(hurry=True)
    assert tokens_of(await arrived(inboxes[0])) == [0, 1]


def tokens_of(mails: list[Mail]) -> list[int]:
    return [token for mail in mails for delta in mail.deltas for token in delta.token_ids]

"""The claim about the window: what it counts, and that it fails when it is false."""

from __future__ import annotations

import asyncio
from typing import Any

from bench.claims.window import look, outcome, seen
from bench.served import Served
from bench.window_checks import CHECKS, Stage

HELD = dict.fromkeys(CHECKS, "")
QUIET = [(400.0, 399.0), (380.0, 382.0), (410.0, 405.0)]


def test_it_holds_when_all_is_seen_and_nothing_slows_down() -> None:
    assert outcome(HELD, QUIET, 380.0, quick=False).holds
    assert outcome(HELD, QUIET, None, quick=True).details["with_a_browser_on_the_same_cores"] is None


def test_one_check_that_fails_is_enough() -> None:
    found = outcome(HELD | {"tier": "AssertionError: no disk"}, QUIET, None, quick=True)
    assert not found.holds
    assert found.value < 1
    assert found.details["checks"]["tier"] == "AssertionError: no disk"


def test_polling_that_costs_is_enough() -> None:
    assert not outcome(HELD, [(400.0, 384.0)] * 3, None, quick=True).holds


def test_a_check_that_raises_does_not_hold_and_the_others_go_on() -> None:
    def fails(_: Stage) -> None:
        raise AssertionError("not within 20 s: a band\nand more")

    stage: Any = None
    assert seen(stage, {"first": fails, "second": lambda _: None}) == {
        "first": "AssertionError: not within 20 s: a band",
        "second": "",
    }


async def test_the_client_that_looks_asks_for_what_is_new() -> None:
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split()[1])
        writer.write(b'HTTP/1.1 200 OK\r\n\r\n{"last": 7}')
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        served = Served("none")
        served.host, served.port = server.sockets[0].getsockname()[:2]
        looking = asyncio.create_task(look(served))
        async with asyncio.timeout(5):
            while len(asked) < 2:
                await asyncio.sleep(0.02)
        looking.cancel()
    assert asked == [b"/window?after=0", b"/window?after=7"]

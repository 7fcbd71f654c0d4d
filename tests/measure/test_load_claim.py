"""The claim ``load`` in small, over a tiny engine: what it counts, and that it fails when it is false."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from bench.claims import load as claim
from bench.claims.load import Seen, Sizes, judged, under_load
from bench.load_traffic import Load, Told, judge, question
from kvloom.config import ServerConfig
from kvloom.engine.async_engine import AsyncEngine
from lenient_tokenizer import LenientTokenizer
from listening import listening
from tiny import make_engine

SIZES = Sizes(streams=8, seconds=2.0, max_waiting=4, burst=40)
ENDED = Seen(3, "passes", 0)


async def test_streams_are_counted_refused_and_drained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "_LOOK_S", 0.1)
    tokenizer = LenientTokenizer()
    engine = AsyncEngine.over(make_engine(tokenizer=tokenizer, max_seqs=4), tokenizer, "tiny")  # type: ignore[arg-type]
    config = ServerConfig(port=0, drain_seconds=60, max_waiting=SIZES.max_waiting)
    try:
        async with listening(engine, config) as server:
            load = Load("127.0.0.1", server.port, "tiny", tokens=300)
            told, seen = await under_load(load, SIZES, server.stopping.set)
        seen.ended = 0
        await engine.check()
    finally:
        engine.close()
    assert load.leaving_s is not None
    outcome = judged(told, seen, SIZES, load.leaving_s)
    assert outcome.holds, outcome.line()
    assert {each.end for each in told} <= {"whole", "refused", "turned away"}


def told(count: int, **said: object) -> list[Told]:
    each = Told("whole", 0.0, ended_s=11.0, first_s=0.1, tokens=24)
    return [replace(each, **said) for _ in range(count)]  # type: ignore[arg-type]


GOOD = [*told(8), *told(1, end="refused", said="1"), *told(1, end="turned away")]


def test_all_is_well() -> None:
    outcome = judged(GOOD, ENDED, SIZES, 10.0)
    assert outcome.holds, outcome.line()
    assert outcome.details["tokens_per_s"] == pytest.approx(8 * 24 / 10)
    assert outcome.details["first_token_p99_s"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("answers", "seen"),
    [
        ([*GOOD, *told(1, end="broken")], ENDED),
        ([*GOOD, *told(1, end="mixed")], ENDED),
        (GOOD[1:], ENDED),
        ([each for each in GOOD if each.end != "refused"], ENDED),
        ([replace(each, ended_s=9.0) for each in GOOD], ENDED),
        (GOOD, Seen(5, "passes", 0)),
        (GOOD, Seen(3, "HTTP Error 500", 0)),
        (GOOD, Seen(3, "passes", None)),
        ([], ENDED),
    ],
)
def test_one_thing_that_is_wrong_is_enough(answers: list[Told], seen: Seen) -> None:
    assert not judged(answers, seen, SIZES, 10.0).holds


def wire(text: str, status: str = "200 OK", headers: str = "") -> bytes:
    event = {"choices": [{"index": 0, "text": text, "finish_reason": "stop"}], "usage": {"completion_tokens": 7}}
    return f"HTTP/1.1 {status}\r\n{headers}\r\n\r\ndata: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode()


FULL = b'HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\n\r\n{"error": {"code": "queue_full"}}'


@pytest.mark.parametrize(
    ("said", "end"),
    [
        (wire("1234 ab 1234"), "whole"),
        (wire("1234 ab 1235"), "mixed"),
        (wire("1234 ab"), "mixed"),
        (wire("1234 ab 1234").replace(b"[DONE]", b""), "broken"),
        (FULL, "refused"),
        (FULL.replace(b"Retry-After: 1", b"x: 1"), "broken"),
        (FULL.replace(b"After: 1", b"After: 0"), "broken"),
        (b'HTTP/1.1 503 Service Unavailable\r\n\r\n{"error": {"code": "server_stopping"}}', "turned away"),
        (b"HTTP/1.1 500 Internal Server Error\r\n\r\n{}", "broken"),
    ],
)
def test_an_answer_is_judged_by_what_came(said: bytes, end: str) -> None:
    assert judge(said, re.compile("1234 [a-z ]{2} 1234"), 0.0, 0.1).end == end


def test_every_question_expects_its_own_number() -> None:
    for number in (12345678, 12345679):
        expected = question(number, 8).expected.pattern
        assert str(number) in expected
        assert str(number + 2) not in expected


def test_what_is_cut_is_lost_unless_it_came_with_the_signal() -> None:
    load = Load("host", 1, "tiny")
    assert load._cut(5.0, "reset").end == "broken"
    load.leaving_s = 10.0
    assert load._cut(9.0, "reset").end == "broken"
    assert load._cut(9.8, "reset").end == "turned away"

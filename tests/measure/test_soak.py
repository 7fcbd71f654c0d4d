"""The soak notices what it is there for: answers lost or different, slow first tokens, floods that were served."""

from __future__ import annotations

import random
import time

import pytest

from bench.claims import soak
from bench.claims.storm import served
from bench.floods import Target, impossible_fields, wrong_paths
from bench.good_traffic import Heard, Question, Traffic, text_of
from kvloom.engine.async_engine import AsyncEngine
from tiny import CharTokenizer, make_engine, random_prompt

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
ENDED = b'data: {"choices":[{"index":0,"text":"b","finish_reason":"length"}]}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (HEAD + b'data: {"choices":[{"index":0,"text":"a","finish_reason":null}]}\n\n' + ENDED + DONE, "ab"),
        (HEAD + ENDED, None),  # cut short
        (HEAD + DONE, None),  # nothing ended
        (HEAD + b'data: {"error":{"message":"x"}}\n\n' + ENDED + DONE, None),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n" + ENDED + DONE, None),
    ],
)
def test_a_stream_counts_only_when_it_is_whole(said: bytes, text: str | None) -> None:
    assert text_of(said) == text


def heard(first_s: float, text: str | None = "a") -> list[Heard]:
    return [Heard("q", 0.0, first_s, text) for _ in range(20)]


GOOD = {
    "quiet": heard(0.1),
    "loud": heard(0.15),
    "resident": (100, 105),
    "audit": "passes",
    "tallies": {"x": {"400": 3}},
}


def test_all_is_well() -> None:
    assert soak.judged({"q": "a"}, **GOOD).holds


@pytest.mark.parametrize(
    "bad",
    [
        {"loud": heard(0.3)},
        {"loud": [*heard(0.1), *heard(0.1, None)]},
        {"loud": [*heard(0.1), *heard(0.1, "b")]},
        {"resident": (100, 115)},
        {"audit": "HTTP Error 500"},
        {"tallies": {"x": {"400": 3, "200": 1}}},
        {"tallies": {"x": {"500": 1}}},
        {"tallies": {"x": {"no answer": 1}}},
    ],
)
def test_something_is_not(bad: dict) -> None:
    assert not soak.judged({"q": "a"}, **GOOD | bad).holds


async def test_good_answers_are_the_same_beside_bad_requests() -> None:
    engine = AsyncEngine.over(make_engine(), CharTokenizer(), "tiny")
    body = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True}
    questions = [Question(f"q{n}", "/v1/completions", {"prompt": random_prompt(20, n), **body}) for n in range(4)]
    try:
        async with served(engine) as url:
            host, port = url.removeprefix("http://").split(":")
            traffic = Traffic(host, int(port), "tiny", questions)
            expected = {each.name: (await traffic.ask(each)).text for each in questions}
            target = Target(host, int(port), "tiny", random.Random(1))
            statuses = [await kind(target) for kind in (impossible_fields, wrong_paths) for _ in range(4)]
            answers = await traffic.run(3, time.perf_counter() + 0.5)
    finally:
        engine.close()
    assert len(answers) >= 3
    assert all(each.text == expected[each.question] and each.text for each in answers)
    assert all(status[0] == "4" for status in statuses), statuses

"""Two thousand random requests to a real engine: each is answered or refused, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import time
from collections import Counter
from collections.abc import MutableMapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kvloom.attend.cpu import CpuAttend
from kvloom.config import CacheConfig, EngineConfig, SchedulerConfig
from kvloom.engine.async_engine import AsyncEngine
from kvloom.engine.engine import Engine
from kvloom.engine.factory import make_engine
from kvloom.policy.retention.lru import LeastRecentlyUsed
from kvloom.server.app import create_app
from kvloom.server.dialect.openapi import openapi_document
from lenient_tokenizer import LenientTokenizer
from tiny import TinyModel

from .fuzz import COMPLETIONS, OTHERS, Fuzz, Shot

SEED, SHOTS, TOGETHER = 12, 2000, 4
LIMIT_S, PATIENCE_S = 5.0, 60.0  # of this process's own time; by the clock, where others compute on the same cores
CONTEXT = 160
INSIDES = ("Traceback", "site-packages", ".py", "Error(", " object at 0x")


class Talk:
    """One request straight to the ASGI application, by a client that may leave."""

    def __init__(self, shot: Shot) -> None:
        self.shot = shot
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.frames: list[bytes] = []
        self._body = [shot.body]
        self._gone = asyncio.Event()

    @property
    def scope(self) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.shot.method,
            "scheme": "http",
            "path": self.shot.path,
            "raw_path": self.shot.path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": self.shot.headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }

    async def receive(self) -> dict[str, Any]:
        if self.shot.leave_after == 0:
            self._gone.set()
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        elif message.get("body"):
            self.frames.append(message["body"])
            if len(self.frames) == self.shot.leave_after:
                self._gone.set()


@pytest.mark.parametrize("endpoints", [COMPLETIONS, OTHERS], ids=["completions", "others"])
async def test_random_requests(caplog: pytest.LogCaptureFixture, endpoints: list[tuple[str, str]]) -> None:
    fuzz = Fuzz(SEED, "tiny", endpoints)
    served = AsyncEngine.over(tiny_engine(), LenientTokenizer(), "tiny")  # type: ignore[arg-type]
    app = create_app(served)
    seen: Counter[int] = Counter()

    async def fire(count: int) -> None:
        shots = iter([fuzz.shot() for _ in range(count)])

        async def shooter() -> None:
            for shot in shots:
                talk = Talk(shot)
                began = time.process_time()
                answer = asyncio.ensure_future(app(talk.scope, talk.receive, talk.send))
                done, _ = await asyncio.wait((answer,), timeout=PATIENCE_S)  # wait_for would cancel: that ends anything
                assert done, f"no end: {shot}"
                answer.result()
                assert time.process_time() - began < LIMIT_S, shot
                assert_well_answered(talk)
                seen[talk.status] += 1

        await asyncio.gather(*(shooter() for _ in range(TOGETHER)))
        await served.check()
        gc.collect()

    try:
        with caplog.at_level(logging.WARNING):
            await fire(SHOTS // 4)
            before = resident_bytes()
            await fire(SHOTS - SHOTS // 4)
        assert caplog.text == ""
        assert resident_bytes() < before * 1.1
        await served.reset_cache()
        await served.check()
        stats = served.stats()
        assert (stats.running, stats.waiting, stats.cache.held_pages, stats.cache.cached_pages) == (0, 0, 0, 0)
    finally:
        served.close()
    documented = documented_fields({name for _, name in endpoints})
    assert fuzz.sent >= documented, documented - fuzz.sent
    assert seen[200] > SHOTS / 8, seen
    assert seen[400] > SHOTS / 8, seen
    assert {404, 405} <= seen.keys()


def assert_well_answered(talk: Talk) -> None:
    body = b"".join(talk.frames)
    told = (talk.shot, talk.status, body[:500])
    text = body.decode()
    if talk.shot.leave_after is not None and talk.status in (0, 499):
        return
    assert 200 <= talk.status < 500, told
    for name, value in talk.headers.items():
        assert not {b"\r", b"\n", b"\0"} & {bytes([byte]) for byte in name + value}, told
        assert len(value) < 2000, told
    if talk.status != 200:
        if talk.shot.path.startswith("/v1/messages"):
            assert_anthropic_error(strict(text), told)
        else:
            assert_error(strict(text), told)
        assert not any(word in text for word in INSIDES), told
    elif talk.headers[b"content-type"].startswith(b"text/event-stream"):
        if talk.shot.path.startswith(("/v1/messages", "/v1/responses")):
            assert_named_stream(talk, text)
        else:
            assert_stream(talk, text)
    elif talk.headers[b"content-type"].startswith(b"application/json") and talk.shot.method != "HEAD":
        strict(text)


def assert_stream(talk: Talk, text: str) -> None:
    *lines, end = text.split("\n\n")
    assert end == ""
    data = [line.removeprefix("data: ") for line in lines if not line.startswith(":")]
    for one in data:
        assert one == "[DONE]" or "error" not in strict(one), (talk.shot, one)
    if talk.shot.leave_after is None:
        assert data[-1] == "[DONE]", talk.shot


def assert_named_stream(talk: Talk, text: str) -> None:
    *frames, end = text.split("\n\n")
    assert end == ""
    kinds = []
    for frame in frames:
        if frame.startswith(":"):
            continue
        name, data = frame.split("\n")
        kinds.append(strict(data.removeprefix("data: "))["type"])
        assert name == f"event: {kinds[-1]}", (talk.shot, frame)
    assert not {"error", "response.failed"} & set(kinds), (talk.shot, kinds)
    if talk.shot.leave_after is None:
        assert kinds[-1] in ("message_stop", "response.completed", "response.incomplete"), talk.shot


def assert_anthropic_error(document: Any, told: object) -> None:
    assert (document.keys(), document["type"]) == ({"type", "error"}, "error"), told
    error = document["error"]
    assert {"message", "type"} <= error.keys() <= {"message", "type", "param", "code"}, told
    assert all(isinstance(value, str) for value in error.values()), told
    assert 0 < len(error["message"]) < 2500, told


def assert_error(document: Any, told: object) -> None:
    assert document.keys() == {"error"}, told
    error = document["error"]
    assert error.keys() == {"message", "type", "param", "code"}, told
    assert isinstance(error["message"], str), told
    assert 0 < len(error["message"]) < 2500, told
    assert isinstance(error["type"], str), told
    assert all(error[name] is None or isinstance(error[name], str) for name in ("param", "code")), told


def documented_fields(models: set[str]) -> set[str]:
    schemas = openapi_document()["components"]["schemas"]
    return {name for model in models for name in schemas[model]["properties"]}


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def tiny_engine() -> Engine:
    config = EngineConfig(
        model="tiny",
        max_model_len=CONTEXT,
        cache=CacheConfig(kv_bytes="2MiB", kv_dtype="float32", slab_bytes=64 * 1024),
        scheduler=SchedulerConfig(step_tokens=256, max_seqs=64),
    )
    attend = partial(CpuAttend, threads=1)
    return make_engine(
        TinyModel((None, 16)), LenientTokenizer(), config, lambda a: attend(a.memory), LeastRecentlyUsed()
    )


def resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pytest.skip("no /proc here")

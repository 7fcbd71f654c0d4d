"""Limits on a client's requests: in a minute, at once; of keys, and of addresses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from kvloom.config import ServerConfig
from kvloom.errors import ConfigError, DataFileError
from kvloom.server.app import create_app
from kvloom.server.edge.keys import Keyring
from kvloom.server.edge.limits import Limits, Meters
from kvloom.server.errors import TooManyRequests

from .conftest import Engines
from .echo_engine import EchoEngine

TEXT = {"prompt": "a b c", "max_tokens": 2}


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_minutes_requests_may_come_at_once_and_then_as_fast_as_they_are_allowed() -> None:
    clock = Clock()
    meters, limits = Meters(clock), Limits(requests_per_minute=30)
    for _ in range(30):
        with meters.admitted("a", limits):
            pass
    with pytest.raises(TooManyRequests, match="at most 30 requests") as refused, meters.admitted("a", limits):
        pass
    assert refused.value.after_s == 2
    with meters.admitted("b", limits):
        pass
    clock.now_s += 1.9
    with pytest.raises(TooManyRequests), meters.admitted("a", limits):
        pass
    clock.now_s += 0.1
    with meters.admitted("a", limits):
        pass
    clock.now_s += 3600
    for _ in range(30):
        with meters.admitted("a", limits):
            pass
    with pytest.raises(TooManyRequests), meters.admitted("a", limits):
        pass


def test_what_is_refused_takes_no_place_and_what_fails_gives_it_back() -> None:
    meters, limits = Meters(Clock()), Limits(concurrent_requests=2)
    with ExitStack() as running:
        for _ in range(2):
            running.enter_context(meters.admitted("a", limits))
        for _ in range(3):
            with pytest.raises(TooManyRequests, match="at most 2 may"), meters.admitted("a", limits):
                pass
    with pytest.raises(ZeroDivisionError), meters.admitted("a", limits):
        raise ZeroDivisionError
    with meters.admitted("a", limits), meters.admitted("a", limits):
        pass


def test_clients_are_forgotten_but_not_those_with_requests() -> None:
    meters, limits = Meters(Clock()), Limits(concurrent_requests=1)
    with meters.admitted("first", limits):
        for number in range(10_050):
            with meters.admitted(str(number), limits):
                pass
        assert len(meters._meters) <= 10_001
        with pytest.raises(TooManyRequests), meters.admitted("first", limits):
            pass


@asynccontextmanager
async def serving(engine: EchoEngine, config: ServerConfig) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(create_app(engine, config))
    async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as http:
        yield http


async def test_over_http_a_limit_says_when_to_come_again(engine: EchoEngine) -> None:
    async with serving(engine, ServerConfig(requests_per_minute=2)) as http:
        assert [(await http.post("/v1/completions", json=TEXT)).status_code for _ in range(2)] == [200, 200]
        refused = await http.post("/v1/completions", json=TEXT)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.headers["x-request-id"]
        other = await http.post("/v1/messages", json={})
        assert (other.status_code, other.json()["type"]) == (429, "error")
        for path in ("/v1/models", "/health", "/metrics"):
            assert (await http.get(path)).status_code == 200
        assert (await http.post("/tokenize", json={"prompt": "a"})).status_code == 200
    assert len(engine.seen) == 2


async def test_a_stream_holds_its_place_until_it_ends(new_engine: Engines) -> None:
    engine = new_engine(pace_s=0.01, max_model_len=8000)
    async with serving(engine, ServerConfig(concurrent_requests=1)) as http:
        long = asyncio.create_task(http.post("/v1/completions", json=TEXT | {"max_tokens": 500, "stream": True}))
        while not engine.live:
            await asyncio.sleep(0.005)
        assert (await http.post("/v1/completions", json=TEXT)).status_code == 429
        long.cancel()
        await asyncio.wait((long,))
        assert (await http.post("/v1/completions", json=TEXT)).status_code == 200


async def test_each_key_has_its_own(engine: EchoEngine, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(
        "a key-a requests_per_minute=1\nb key-b admin concurrent_requests=3\nc key-c requests_per_minute=9\n"
    )
    config = ServerConfig(api_keys_file=str(path), requests_per_minute=2)
    limits = {key.name: key.limits for key in Keyring.of(config).keys}
    assert limits == {"a": Limits(1), "b": Limits(2, 3), "c": Limits(9)}
    async with serving(engine, config) as http:
        codes = {
            name: [
                (await http.post("/v1/completions", json=TEXT, headers={"x-api-key": f"key-{name}"})).status_code
                for _ in range(3)
            ]
            for name in "abc"
        }
    assert codes == {"a": [200, 429, 429], "b": [200, 200, 429], "c": [200, 200, 200]}


@pytest.mark.parametrize("mark", ["requests_per_minute=0", "concurrent_requests=x", "requests_per_minute=1.5"])
def test_limits_that_are_none(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "keys"
    path.write_text(f"a key-a {mark}\n")
    with pytest.raises(DataFileError, match="a limit is a whole number"):
        Keyring.of(ServerConfig(api_keys_file=str(path)))
    with pytest.raises(ConfigError, match="concurrent_requests must be at least 1"):
        ServerConfig(concurrent_requests=0)

"""What is done to contexts of requests that do not say: by the server's setting, by a key; never to anybody's harm."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

import tiny
from kvloom.config import ServerConfig
from kvloom.engine.async_engine import AsyncEngine
from kvloom.engine.cache_params import Guard
from kvloom.errors import ConfigError
from kvloom.policy.compression import Compression, parse_compression
from kvloom.server.app import create_app
from kvloom.server.edge.keys import Keyring
from kvloom.server.trial import tried

from .echo_engine import EchoEngine

SERVERS, KEYS, OWN = "knorm:ratio=0.5", "sink_recent:ratio=0.25,sinks=2", "random:ratio=0.75,seed=3"
OWN_FIELDS = {"method": "random", "ratio": 0.75, "seed": 3}
FILE = f"plain plain-key\nbatch batch-key compression={KEYS}\nexact exact-key admin compression=exact\n"

Talk = Callable[[ServerConfig], Any]


@pytest.fixture
def keys(tmp_path: Path) -> str:
    path = tmp_path / "keys"
    path.write_text(FILE)
    return str(path)


@pytest.mark.parametrize(
    ("words", "key", "asked", "meant"),
    [
        (None, None, {}, None),
        (SERVERS, None, {}, SERVERS),
        (SERVERS, None, {"kvloom": {"cache": {"compression": None, "read": True}}}, SERVERS),
        (SERVERS, None, {"kvloom": {"cache": {"compression": OWN_FIELDS}}}, OWN),
        (SERVERS, None, {"kvloom": {"cache": {"compression": {"method": "exact"}}}}, None),
        (None, None, {"kvloom": {"cache": {"compression": {"method": "exact"}}}}, None),
        (SERVERS, None, {"kvloom": {"cache": {"kept_as": "chunk"}}}, None),
        (SERVERS, "plain-key", {}, SERVERS),
        (SERVERS, "batch-key", {}, KEYS),
        (None, "batch-key", {}, KEYS),
        (SERVERS, "batch-key", {"kvloom": {"cache": {"compression": OWN_FIELDS}}}, OWN),
        (SERVERS, "batch-key", {"kvloom": {"cache": {"compression": {"method": "exact"}}}}, None),
        (SERVERS, "exact-key", {}, None),
        (SERVERS, "exact-key", {"kvloom": {"cache": {"compression": OWN_FIELDS}}}, OWN),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_who_has_the_last_word(
    engine: EchoEngine, keys: str, path: str, words: str | None, key: str | None, asked: Any, meant: str | None
) -> None:
    """The request, then its key, then the server."""
    config = ServerConfig(compression=words or "exact", api_keys_file=keys if key else None)
    text = {"messages": [{"role": "user", "content": "a b c"}]} if "chat" in path else {"prompt": "a b c"}
    async with talk(engine, config) as http:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        reply = await http.post(path, json={"model": "mock", "max_tokens": 1} | text | asked, headers=headers)
    assert reply.status_code == 200, reply.text
    assert [cache.compression for cache in engine.caches] == [parse_compression(meant) if meant else None]


async def test_a_request_may_say_only_what_goes_with_a_default(engine: EchoEngine) -> None:
    async with talk(engine, ServerConfig(compression=SERVERS)) as http:
        assert (await ask(http, "a b c", compress_after=2)).status_code == 200
        assert engine.caches[-1].compress_after == 2
        assert engine.caches[-1].compression == parse_compression(SERVERS)
        refused = await ask(http, "a b c", compress_after=9)
        assert refused.status_code == 400, "what it says itself must be possible"
        assert "must leave a token" in refused.json()["error"]["message"]
        assert (await ask(http, "a b c", guard={"every": 2})).status_code == 200
        assert engine.caches[-1].guard == Guard(every=2)
        assert engine.caches[-1].compression == parse_compression(SERVERS)
        refused = await ask(http, "a b c", compression={"method": "exact"}, guard={})
        assert refused.json()["error"]["param"] == "kvloom.cache.guard"
        refused = await ask(http, "a b c", compression={"method": "exact"}, compress_after=2)
        assert refused.json()["error"]["param"] == "kvloom.cache.compress_after"


@pytest.mark.parametrize("method", [{"method": "exact", "ratio": 0.0}, {"method": "exact", "seed": 0}])
async def test_exact_takes_nothing(engine: EchoEngine, method: Any) -> None:
    async with talk(engine, ServerConfig()) as http:
        refused = await ask(http, "a b c", compression=method)
    assert refused.status_code == 400
    assert "`exact` has no parameter" in refused.json()["error"]["message"]


@pytest.mark.parametrize("words", ["best:ratio=0.5", "knorm", "knorm:ratio=2", "knorm:ratio", "exact:ratio=0.5", ""])
def test_words_that_mean_nothing_are_refused_at_the_start(words: str) -> None:
    with pytest.raises(ConfigError, match=f"compression `{words}`: "):
        Keyring.of(ServerConfig(compression=words))


async def test_usage_says_what_was_done_by_default(tiny_engine: AsyncEngine) -> None:
    async with talk(tiny_engine, ServerConfig(compression="random:ratio=0.75")) as http:
        prompt = tiny.random_prompt(64, 3)
        done, exact = await ask(http, prompt), await ask(http, prompt, compression={"method": "exact"})
    (compressed,) = done.json()["usage"]["kvloom"]["compressed"]
    assert (compressed["method"], compressed["ratio"], compressed["tokens"]) == ("random", 0.75, 63)
    assert "kvloom" not in exact.json()["usage"]


CANNOT_BE = {
    "while a context is compressed": ("random:ratio=0.9,protect=0:40", {"ratio": 0.9, "protect": "0:40"}),
    "when it is submitted": ("kvzap:ratio=0.5", {"ratio": 0.5}),
}
"""Nothing is left to remove; and there is no predictor for a tiny model."""


@pytest.mark.parametrize("found", CANNOT_BE)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_default_that_a_prompt_cannot_have(tiny_engine: AsyncEngine, stream: bool, found: str) -> None:
    """It is answered exactly, is told so, and is counted; who asks for the same is told why it cannot be."""
    text, fields = CANNOT_BE[found]
    prompt = tiny.random_prompt(64, 3)
    async with talk(tiny_engine, ServerConfig()) as http:
        exact = await ask(http, prompt)
    async with talk(tiny_engine, ServerConfig(compression=text)) as http:
        reply = await ask(http, prompt, stream=stream)
        assert reply.status_code == 200, reply.text
        if not stream:
            assert reply.json()["choices"][0]["text"] == exact.json()["choices"][0]["text"]
            assert "kvloom" not in reply.json()["usage"]
        assert "error" not in reply.text
        several = await ask(http, [prompt, tiny.random_prompt(50, 4)])
        assert several.status_code == 200, several.text
        counted = (await http.get("/metrics")).text
        assert 'kvloom:default_compressions_refused_total{model_name="tiny"} 3.0' in counted
        refused = await ask(http, prompt, compression={"method": text.partition(":")[0], **fields})
        assert refused.status_code == 400
    await tiny_engine.check()
    assert tiny_engine.stats().cache.held_pages == 0


async def test_what_is_wrong_otherwise_is_told(tiny_engine: AsyncEngine) -> None:
    async with talk(tiny_engine, ServerConfig(compression=SERVERS)) as http:
        reply = await ask(http, tiny.random_prompt(tiny_engine.max_model_len + 1, 3))
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "context_length_exceeded"
        single = await ask(http, [5])
        assert single.status_code == 200, "there is nothing before its last token"
        assert "kvloom" not in single.json()["usage"]


@pytest.mark.parametrize(("words", "fits"), [("random:ratio=0.5", True), ("random:ratio=0.9,protect=0:100", False)])
async def test_a_default_is_tried_before_anybody_comes(tiny_engine: AsyncEngine, words: str, fits: bool) -> None:
    compression = parse_compression(words)
    assert compression is not None
    warning = await tried(tiny_engine, compression)
    assert (warning is None) == fits
    if warning is not None:
        assert "cannot be done to a context of" in warning
        assert "are protected, and only" in warning
    await tiny_engine.check()
    cache = tiny_engine.stats().cache
    assert (cache.held_pages, cache.cached_pages) == (0, 0)


# -- helpers -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def tiny_engine() -> AsyncIterator[AsyncEngine]:
    engine = AsyncEngine.over(tiny.make_engine(), tiny.CharTokenizer(), "tiny")
    yield engine
    engine.close()


@asynccontextmanager
async def talk(engine: AsyncEngine, config: ServerConfig) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(create_app(engine, config))
    async with httpx2.AsyncClient(transport=transport, base_url="http://kvloom") as http:
        http.headers["x-model"] = engine.model_name
        yield http


async def ask(http: httpx2.AsyncClient, prompt: Any, stream: bool = False, **cache: Any) -> httpx2.Response:
    body = {"model": http.headers["x-model"], "prompt": prompt, "max_tokens": 3, "temperature": 0, "stream": stream}
    return await http.post("/v1/completions", json=body | {"kvloom": {"cache": cache}})


def defaults(config: ServerConfig) -> tuple[Compression, ...]:
    return Keyring.of(config).compressions


def test_the_defaults_that_somebody_has(keys: str) -> None:
    assert defaults(ServerConfig()) == ()
    assert defaults(ServerConfig(compression=SERVERS)) == (parse_compression(SERVERS),)
    found = defaults(ServerConfig(compression=SERVERS, api_keys_file=keys))
    assert found == (parse_compression(SERVERS), parse_compression(KEYS))
